"""The samples that an estimate has evaluated, for those who learn from them."""

from typing import Any

import jax

from esjax.controls import Samples
from esjax.smoothing import _folding, _samples
from esjax.smoothing._inputs import Inputs
from esjax.smoothing._problem import Problem
from esjax.smoothing._weights import Values

Array = jax.Array


def samples(problem: Problem, key: Any, inputs: Inputs, saved: Values) -> Samples:
    """Returns all samples, as vectors: their noise is drawn again, and nothing evaluated."""
    inputs, saved = jax.lax.stop_gradient((inputs, saved))

    def step(nothing: Any, start: Array, count: int) -> tuple[Any, tuple[Array, Array]]:
        drawn = _samples.draw(problem, key, inputs, start, count)
        points = jax.vmap(lambda each: problem.perturbing.at(inputs, each))(drawn)
        return nothing, (points, problem.perturbing.scores(inputs, drawn))

    _, (points, scores) = _folding.fold(problem, step, ())
    return Samples(points, scores, _samples.combined(problem, inputs, saved.values), saved.kept)
