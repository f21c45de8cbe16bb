"""Estimators of E[f(d)] over decisions d of a known law: functions of that law and the block.

Each takes `(key, law, block, num_samples, chunk_size)` and returns the block's smoothed values (m,),
differentiable where the law is. This file imports laws, and knows nothing of how they are made.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import chunks, random
from esjax._core.check import check_count
from esjax.decisions._laws import Law
from esjax.decisions._slopes import with_slopes

Array = jax.Array
Block = Callable[[Array], Array]
"""`decisions -> values (m,)`: the function to smooth, its value as one vector."""
Estimator = Callable[..., Array]
"""`(key, law, block, num_samples, chunk_size) -> values (m,)`, differentiable where the law is."""

_MOST_OUTCOMES = 2**16
"""The most outcomes that `enumeration` sums over."""


def score(key: Any, law: Law, block: Block, num_samples: int | None, chunk_size: int) -> Array:
    """Weights the scores of N sampled decisions d_n by their values, less the mean of the other values.

        ∇F = (1/N) Σ_n (f(d_n) − b_n) ∇ log p(d_n | x),   b_n = Σ_{l≠n} f(d_l) / (N − 1)

    It takes N evaluations of the block (Williams 1992, with the baseline of Kool et al. 2019). Derivatives
    of higher order are unbiased as well: the value keeps a factor p(d_n | x) / p(d_n | x₀), which is 1.

    Raises:
        ValueError: `num_samples` is None or 1.
    """
    count = _needed(num_samples, "score", least=2)

    def value_and_log_prob(outcome: Any) -> tuple[Array, Array]:
        decisions = law.decisions(outcome)
        return block(decisions), law.log_prob(decisions)

    outcomes = _draws(key, law, count, chunk_size)
    values, log_probs = chunks.over(value_and_log_prob, chunk_size, outcomes)
    others = jax.lax.stop_gradient((values.sum(0, keepdims=True) - values) / (count - 1))
    box = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))[:, None]
    return (values * box + others * (1 - box)).mean(0)


def local_expectation(
    key: Any,
    law: Law,
    block: Block,
    num_samples: int | None,
    chunk_size: int,
    *,
    coordinates: int | None = None,
) -> Array:
    """Sums over every alternative of every single decision, given the others.

        ∇F = (1/N) Σ_n Σ_i Σ_a ∇p_i(a | d_n) f(d_n with decision i changed to a)

    With C decisions of A alternatives, it takes N (1 + C (A − 1)) evaluations of the block, or, with
    `coordinates=c`, N (1 + c (A − 1)); one sample is often enough (Titsias & Lázaro-Gredilla 2015). For a
    ranking, i is an item and a its place among the others, whose perturbed scores are given.

    Args:
        key: given to every estimator by `smooth_decisions`, as are the next four.
        law: of the decisions.
        block: the function to smooth.
        num_samples: N ≥ 1.
        chunk_size: evaluations of the block at once.
        coordinates: how many decisions c ≤ C to change, chosen at random for each sample, without
            replacement; their sum is scaled by C / c, which keeps it unbiased. None: all. Pass
            `estimator=functools.partial(esjax.decisions.local_expectation, coordinates=c)`.

    Raises:
        ValueError: `num_samples` is None; `coordinates` is not in [1, C]; or it takes ≥ 2³¹ evaluations.
    """
    count = _needed(num_samples, "local_expectation", least=1)
    chosen_count = _chosen(coordinates, law.num_coordinates)
    changes = law.num_alternatives - 1
    if count * chosen_count * changes >= 2**31:
        raise ValueError(
            f"num_samples={count} and {chosen_count} decisions with {changes} other alternatives make more "
            "than 2^31 evaluations; use the option coordinates of local_expectation, or estimator=score"
        )
    draw_key, choice_key = jax.random.split(key)
    outcomes = _draws(draw_key, law, count, chunk_size)
    choose = partial(_choose, chosen_count, law.num_coordinates)
    chosen = jax.vmap(choose)(jax.random.split(choice_key, count))
    values = chunks.over(lambda outcome: block(law.decisions(outcome)), chunk_size, outcomes)

    def change(number: Array) -> Array:
        sample, rest = number // (chosen_count * changes), number % (chosen_count * changes)
        outcome = jax.tree.map(lambda leaf: leaf[sample], outcomes)
        coordinate = chosen[sample, rest // changes]
        return block(law.flip(outcome, coordinate, rest % changes + 1))

    numbers = jnp.arange(count * chosen_count * changes, dtype=jnp.int32)
    changed = chunks.over(change, chunk_size, numbers)
    changed = changed.reshape(count, chosen_count, changes, -1)

    def of_sample(outcome: Any, chosen: Array, value: Array, changed: Array) -> Array:
        probs = law.probs(outcome)[chosen] * (law.num_coordinates / chosen_count)
        differences = changed - value[None, None]  # Σ_a ∇p(a) = 0: the one drawn need not be evaluated
        differences = jnp.where(probs[..., None] == 0, 0, differences)  # a masked one may be NaN
        log_likelihood = law.log_likelihood(outcome)
        value = jnp.where(jnp.isnan(log_likelihood), jnp.nan, value)  # scores are NaN
        return with_slopes(value, probs, differences, log_likelihood)

    return jax.vmap(of_sample)(outcomes, chosen, values, changed).mean(0)


def enumeration(key: Any, law: Law, block: Block, num_samples: int | None, chunk_size: int) -> Array:
    """Sums over every outcome, F = Σ_d p(d | x) f(d): exact, without sampling.

    It is meant for one decision at a time, where the block is a mean over examples of a reward that sees
    only its own decision: smooth that reward, and `jax.vmap` over examples. It takes as many evaluations
    as there are outcomes, at most 65,536: A^C for C decisions of A alternatives, n! / (n − k)! for a ranking.
    Leave `num_samples` out.

    Raises:
        ValueError: `num_samples` is given, or there are more outcomes than that.
    """
    del key
    if num_samples is not None:
        raise ValueError(f"num_samples={num_samples} is not used by enumeration; leave it out")
    if law.log_num_outcomes > math.log(_MOST_OUTCOMES) + 1e-6:
        raise ValueError(
            f"there are about 10^{law.log_num_outcomes / math.log(10):.1f} outcomes, and enumeration sums "
            f"over {_MOST_OUTCOMES} at most; smooth one example at a time by jax.vmap, or use "
            "estimator=local_expectation"
        )

    def weigh(decisions: Array) -> Array:
        weight = law.prob(decisions)
        return weight * jnp.where(weight == 0, 0, block(decisions))  # a masked one may be NaN

    return chunks.over(weigh, chunk_size, jnp.asarray(law.outcomes())).sum(0)


def _draws(key: Any, law: Law, count: int, chunk_size: int) -> Any:
    """Returns N outcomes, the same for every chunk size."""
    at_once = chunk_size if random.is_threefry(key) else 1
    return chunks.over(law.draw, at_once, jax.random.split(key, count))


def _needed(num_samples: int | None, estimator: str, *, least: int) -> int:
    if num_samples is None or num_samples < least:
        raise ValueError(f"num_samples={num_samples} is too few for {estimator}; use num_samples >= {least}")
    return num_samples


def _chosen(coordinates: int | None, num_coordinates: int) -> int:
    if coordinates is None:
        return num_coordinates
    coordinates = check_count("coordinates", coordinates)
    if coordinates > num_coordinates:
        raise ValueError(
            f"coordinates={coordinates} is more than the {num_coordinates} decisions; use fewer, or None"
        )
    return coordinates


def _choose(count: int, num_coordinates: int, key: Any) -> Array:
    """Returns the coordinates (count,) to change: all of them in order, or a random subset."""
    everyone = jnp.arange(num_coordinates, dtype=jnp.int32)
    if count == num_coordinates:
        return everyone
    return jax.random.permutation(key, everyone)[:count]
