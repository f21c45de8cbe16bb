"""Stand-ins as control variates: error and time with and without, by hand and learned from the samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import esjax
from esjax.benchmarks import measure, peers, references, report, stand_ins
from esjax.benchmarks.peers import ValueAndGradient
from esjax.benchmarks.report import Claim, Curve, Section, Table
from esjax.benchmarks.stand_ins import Queue, StandIn
from esjax.train import tables

Array = jax.Array
_LEAST = 3.0
"""Squared error × time without a stand-in over that with one, on four of six blocks."""
_EVALUATIONS = 2_000
"""After which a learned stand-in is looked at."""


def run(quick: bool) -> Section:
    """Measures six blocks, or three where `quick`, a hard rank, and a host program with what it learns."""
    found, claims, ratios = [], [], []
    for made in _made(quick):
        compared = _compare(made, quick)
        name = made.problem.name
        found.append(report.beside_each_other(f"{name}, N = {made.problem.num_samples}", compared))
        ratios.append(compared["without"].effort / compared["with"].effort)
        if "with, and credit" in compared:
            ratio = compared["without"].effort / compared["with, and credit"].effort
            claims.append(
                Claim(f"{name}: error² × time without over that with, and credit", ratio, 100, False)
            )
    wanted = min(4, len(ratios))
    name = f"blocks of {len(ratios)} whose error² × time without is at least {_LEAST:g} times that with"
    claims.append(Claim(name, sum(ratio >= _LEAST for ratio in ratios), wanted, False))
    of_rank, claim_of_rank = _hard_rank(20 if quick else 100)
    learned, claim_of_learned, curves = _learned(2 if quick else 10, 2**18 if quick else 2**21)
    claims += [claim_of_rank, claim_of_learned]
    return Section("Stand-ins", [*found, of_rank, learned], claims, curves)


def _made(quick: bool) -> list[StandIn]:
    small = [
        stand_ins.rounding(1000),
        stand_ins.threshold_count(1000),
        stand_ins.rank_correlation(100),
    ]
    if quick:
        return small
    large = [
        stand_ins.argmax_accuracy(),
        stand_ins.shortest_path(8, long_run=2**19),
        stand_ins.quantised_network(long_run=2**19),
    ]
    return [*small, *large]


def _compare(made: StandIn, quick: bool) -> dict[str, measure.Compared]:
    """Measures without credit, with a stand-in and without; and with credit where there is one for that."""
    none = esjax.credit.none
    functions = {
        "without": _gradient(made, credit=none),
        "with": _gradient(made, credit=none, control=made.control),
    }
    if made.with_credit is not None:
        functions["without, but credit"] = _gradient(made)
        functions["with, and credit"] = _gradient(made, control=made.with_credit)
    return measure.side_by_side(
        functions,
        made.problem.x,
        made.problem.gradient,
        effort=measure.Effort(1, 3, 0.05) if quick else measure.Effort(1, 9, 0.3),
        num_repeats=10 if quick else 60,
    )


def _gradient(made: StandIn, **options: Any) -> ValueAndGradient:
    problem = made.problem
    smoothed = esjax.smooth(problem.fun, sigma=problem.sigma, num_samples=problem.num_samples, **options)
    return jax.value_and_grad(smoothed, argnums=1)


# --- a hard rank -------------------------------------------------------------------------------------


def _hard_rank(num_repeats: int) -> tuple[Table, Claim]:
    """Measures ‖J − J*‖ / ‖J*‖ of the ranks of 5 numbers, by sorting and, for credit, by comparisons."""

    def by_comparisons(x: Array) -> Array:
        return jnp.where(x[:, None] > x[None], 1.0, 0.0).sum(1)

    def by_sorting(x: Array) -> Array:
        return jnp.argsort(jnp.argsort(x)).astype(x.dtype)

    def soft(x: Array) -> Array:
        return jax.nn.sigmoid((x[:, None] - x[None]) / 0.3).sum(1) - 0.5

    points = [np.random.RandomState(seed).randn(5).astype(np.float32) for seed in range(3)]
    exact = [references.rank_jacobian(x.astype(np.float64), 1.0, stats.norm()) for x in points]

    def error(fun: Callable[[Array], Array], **options: Any) -> tuple[float, float]:
        call = jax.jit(peers.esjax_jacobian(fun, "normal", 1.0, 1024, **options))
        errors = [
            measure.relative_errors(call, wanted, jnp.asarray(x), num_repeats=num_repeats)
            for x, wanted in zip(points, exact, strict=True)
        ]
        return tables.mean_and_error(np.mean(errors, axis=0))

    rows: list[report.Row] = [
        {
            "": name,
            "without": error(fun),
            "with": error(fun, control=soft),
        }
        for name, fun in (("by sorting", by_sorting), ("by comparisons", by_comparisons))
    ]
    title = "Hard rank, n = 5, 1,024 samples, normal noise, σ = 1: mean of ‖J − J*‖ / ‖J*‖"
    claim = Claim("hard rank, n = 5, by comparisons and with a stand-in: error", rows[1]["with"][0], 0.012)
    return Table(title, rows), claim


# --- learned from the samples ------------------------------------------------------------------------


def _learned(num_runs: int, long_run: int) -> tuple[Table, Claim, list[Curve]]:
    """Measures the error at one x of a host program, for which a line is fitted to all samples so far."""
    queue = stand_ins.queue(long_run)
    num_samples = queue.problem.num_samples
    num_calls = _EVALUATIONS // num_samples + 2
    learned, plain = (
        np.mean([_errors(queue, num_calls, seed, learns) for seed in range(num_runs)], axis=0)
        for learns in (True, False)
    )
    before = [float(num_samples * call) for call in range(1, num_calls)]
    curves = [
        Curve("evaluations before", "relative squared error", name, before, errors[1:].tolist())
        for name, errors in (("without", plain), ("learned", learned))
    ]
    rows: list[report.Row] = [
        {"evaluations before": num_samples * call, "without": float(plain.mean()), "learned": learned[call]}
        for call in range(num_calls)
        if call in (0, num_calls // 4, num_calls // 2, num_calls - 1)
    ]
    title = f"{queue.problem.name}, on the host, N = {num_samples}: relative squared error"
    ratio = float((learned[-1] / plain.mean()) ** 0.5)
    claim = Claim(f"{queue.problem.name}: error learned over without, after 2,000 evaluations", ratio, 0.5)
    return Table(title, rows), claim, curves


def _errors(queue: Queue, num_calls: int, seed: int, learns: bool) -> np.ndarray[Any, Any]:
    """Returns the squared error of each call in a row, whose samples the next one's stand-in learns from."""
    problem = queue.problem
    block = esjax.host.wrap(queue.on_host, np.float32(0))
    smoothed = esjax.smooth(
        lambda x, slopes: block(x),
        sigma=problem.sigma,
        num_samples=problem.num_samples,
        control=lambda x, slopes: slopes @ (x - problem.x),
    )
    step = jax.jit(jax.value_and_grad(smoothed.with_samples, argnums=1, has_aux=True))
    slopes, points, values, errors = np.zeros(problem.x.size, np.float32), [], [], []
    for key in jax.random.split(jax.random.key(seed), num_calls):
        (_, samples), gradient = step(key, problem.x, slopes)
        errors.append(measure.relative_error(gradient, problem.gradient) ** 2)
        points.append(np.asarray(samples.points - problem.x))
        values.append(np.asarray(samples.values))
        if learns:
            slopes = _ridge(np.concatenate(points), np.concatenate(values), problem.sigma)
    return np.array(errors)


def _ridge(points: Any, values: Any, sigma: float) -> Any:
    """Returns the slopes of a line through values at points, held back while there are few of them."""
    centred = values - values.mean()
    matrix = points.T @ points + 100 * sigma**2 * np.eye(points.shape[1])
    return np.linalg.solve(matrix, points.T @ centred).astype(np.float32)
