"""Black boxes: error, time and error² × time of every peer, at equal N, and error against N."""

import numpy as np

from esjax.benchmarks import measure, peers, problems, report
from esjax.benchmarks.problems import Problem
from esjax.benchmarks.report import Claim, Curve, Section

PEERS: dict[str, peers.Peer] = {
    "plain": peers.plain,
    "optax": peers.optax_normal,
    "optax, no baseline": peers.optax_no_baseline,
    "jaxopt": peers.jaxopt_normal,
    "evosax, OpenES": peers.open_es,
    "esjax": peers.auto,
}
_SMALL = (10, 100)
_LARGE = 1000  # beyond this D, measured less often


def run(quick: bool) -> Section:
    """Measures all problems, or three of them, and less often, where `quick`."""
    if quick:
        chosen = [
            problems.rank_correlation(10),
            problems.threshold_count(100),
            problems.shortest_path(8, long_run=2**17),
        ]
    else:
        chosen = [
            make(dim)
            for dim in _SMALL
            for make in (problems.rank_correlation, problems.rounding, problems.threshold_count)
        ]
        chosen += [
            problems.shortest_path(8),
            problems.shortest_path(12),
            problems.rank_correlation(10_000),
            problems.rounding(10_000, num_samples=4096),
            problems.threshold_count(10_000, num_samples=4096),
            problems.whole_network(),
        ]
    tables, claims, ratios = [], [], []
    for problem in chosen:
        title, found = _compare(problem, quick)
        tables.append(report.beside_each_other(title, found))
        if problem.x.size in _SMALL:
            ratios.append(found["optax"].error[0] / found["esjax"].error[0])
        name = f"{problem.name}: error² × time of optax over esjax's"
        claims.append(Claim(name, found["optax"].effort / found["esjax"].effort, 5.0, at_most=False))
    if not quick:
        name = "optax's squared error over esjax's, D = 10 and 100"
        mean = float(np.exp(np.mean(np.log(ratios))))
        claims.append(Claim(f"{name}, geometric mean", mean, 6.0, at_most=False))
        claims.append(Claim(f"{name}, least", min(ratios), 2.5, at_most=False))
    return Section("Black boxes", tables, claims, _error_curves(quick))


def _compare(problem: Problem, quick: bool) -> tuple[str, dict[str, measure.Compared]]:
    """Returns the table's title, and what was found for each peer."""
    large = problem.x.size > _LARGE
    functions = {name: peer(problem, problem.num_samples) for name, peer in PEERS.items()}
    num_repeats = 5 if large else 30 if quick else 200
    effort = measure.Effort(1, 3 if quick or large else 9, 0.05 if quick else 0.2)
    title = f"{problem.name}, N = {problem.num_samples:,}; errors are means of {num_repeats} keys"
    return title, measure.side_by_side(
        functions, problem.x, problem.gradient, effort=effort, num_repeats=num_repeats
    )


def _error_curves(quick: bool, dim: int = 100) -> list[Curve]:
    """Measures the error of a rounding at D = 100 against evaluations and against time."""
    counts = [128, 2048] if quick else [128, 256, 512, 1024, 2048, 4096, 8192]
    effort = measure.Effort(1, 3, 0.02 if quick else 0.1)
    problem = problems.rounding(dim)
    names = ("plain", "optax", "evosax, OpenES", "esjax")
    found = [
        measure.side_by_side(
            {name: PEERS[name](problem, count) for name in names},
            problem.x,
            problem.gradient,
            effort=effort,
            num_repeats=20 if quick else 50,
        )
        for count in counts
    ]
    curves = []
    for name in names:
        errors = [one[name].error[0] for one in found]
        axes = {
            "evaluations": [float(count) for count in counts],
            "ms": [1e3 * one[name].cost.seconds for one in found],
        }
        curves += [
            Curve(f"{label}, {problem.name}", "relative squared error", name, xs, errors)
            for label, xs in axes.items()
        ]
    return curves
