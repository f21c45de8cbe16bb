"""Credit by dependence: error and time with it and without, where values or terms read little of x."""

from collections.abc import Callable
from typing import Any

import jax

import esjax
from esjax.benchmarks import local, measure, problems, report
from esjax.benchmarks.local import Local
from esjax.benchmarks.peers import ValueAndGradient
from esjax.benchmarks.report import Claim, Section, Table

_MOST_ERROR = 0.012
"""Of rounding and counting, for every D: that of one coordinate at N = 256."""
_MOST_TIME = 1.2


def run(quick: bool) -> Section:
    """Measures what reads one coordinate, D = 100 to 10,000, or 1,000 where `quick`; then what reads more."""
    tables: list[Table] = []
    claims: list[Claim] = []
    for dim in (1000,) if quick else (100, 1000, 10_000):
        for make in (problems.rounding, problems.threshold_count):
            of_one = Local(make(dim), None)
            table, found = _compare(of_one, quick)
            tables.append(table)
            claims += _of_one_coordinate(of_one.problem.name, found)
    for of_more, wanted in _reading_more(quick):
        table, found = _compare(of_more, quick)
        tables.append(table)
        claims.append(wanted(of_more.problem.name, found))
    return Section("Credit by dependence", tables, claims, [])


def _reading_more(quick: bool) -> list[tuple[Local, Callable[[str, dict[str, measure.Compared]], Claim]]]:
    """Returns what reads several coordinates, and what is claimed of each."""
    return [
        (local.median_count(1000), _error_at_most(0.07)),
        (local.erosion(64), _times_below(50)),
        (local.stencil(64), _times_below(50)),
        (local.jpeg(4, 2**10 if quick else 2**15), _times_below(12)),
        (local.rollout(200, 2**12 if quick else 2**17), _times_below(2)),
    ]


def _compare(of: Local, quick: bool) -> tuple[Table, dict[str, measure.Compared]]:
    """Measures without credit, and with what is declared or, where nothing is, by default."""
    problem = of.problem
    with_credit = {} if of.credit is None else {"credit": of.credit}
    functions = {
        "without": _gradient(of, credit=esjax.credit.none),
        "with": _gradient(of, **with_credit),
    }
    found = measure.side_by_side(
        functions,
        problem.x,
        problem.gradient,
        effort=measure.Effort(1, 3, 0.05) if quick else measure.Effort(1, 9, 0.3),
        num_repeats=5 if quick else 20,
    )
    return report.beside_each_other(f"{problem.name}, N = {problem.num_samples}", found), found


def _gradient(of: Local, **options: Any) -> ValueAndGradient:
    problem = of.problem
    smoothed = esjax.smooth(problem.fun, sigma=problem.sigma, num_samples=problem.num_samples, **options)
    return jax.value_and_grad(lambda key, x: smoothed(key, x).sum(), argnums=1)


def _of_one_coordinate(name: str, found: dict[str, measure.Compared]) -> list[Claim]:
    time = found["with"].cost.seconds / found["without"].cost.seconds
    return [
        Claim(f"{name}: relative squared error with credit", found["with"].error[0], _MOST_ERROR),
        Claim(f"{name}: time with credit over that without", time, _MOST_TIME),
    ]


def _error_at_most(wanted: float) -> Callable[[str, dict[str, measure.Compared]], Claim]:
    def claim(name: str, found: dict[str, measure.Compared]) -> Claim:
        return Claim(f"{name}: relative squared error with credit", found["with"].error[0], wanted)

    return claim


def _times_below(wanted: float) -> Callable[[str, dict[str, measure.Compared]], Claim]:
    def claim(name: str, found: dict[str, measure.Compared]) -> Claim:
        ratio = found["without"].error[0] / found["with"].error[0]
        return Claim(f"{name}: squared error without credit over that with", ratio, wanted, at_most=False)

    return claim
