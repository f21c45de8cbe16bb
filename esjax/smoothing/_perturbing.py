"""How x is perturbed, and all that an estimator asks of the noise: a protocol, and dense noise.

An estimator holds perturbations as a pytree, whose leaves begin with the axis of samples, and does not look
inside. Noise of low rank is another `Perturbing`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core.products import einsum, matmul, sum_rows
from esjax._core.rules import with_rule
from esjax.smoothing._groups import in_groups
from esjax.smoothing._inputs import Args, Inputs, Wanted

Array = jax.Array
Perturbations = Any  # a pytree of arrays, (count, ...) for several samples


class Perturbing(NamedTuple):
    """What is known of z, the perturbed x: functions of the inputs and of perturbations.

    Attributes:
        draw: `(args, key) -> perturbations` of one group, (group_size, ...).
        at: `(inputs, perturbation) -> z` (dim,), of one sample.
        weighted_scores: `(wanted, inputs, perturbations, weights) -> [in_x, in_sigma]`, for weights
            (..., count, 1 or dim): Σ_n w_n σ ∂log p(z_n)/∂x (..., dim) and Σ_n w_n σ ∂log p(z_n)/∂σ
            (..., 1 or dim), None where not wanted; coordinate by coordinate where weights are. In σ,
            coordinates where x is infinite are left out.
        square_sum: `(inputs, perturbations, weights, group_size) -> ()`, for weights (count, m):
            Σ_j ‖Σ_{n in j} w_n ⊗ ∂log p(z_n)/∂x‖² over groups j of neighbours.
        scores: `(inputs, perturbations) -> (count, dim)`: ∂log p(z_n)/∂x, 0 where x is infinite.
        log_ratio: `(inputs, constant, perturbations) -> (count, dim)`, for z_n drawn at the constant inputs:
            log p(z_n | inputs) − log p(z_n | constant), of which only derivatives are used.
        pairs: `(wanted, inputs, perturbations, slopes, by_coordinate) -> [of_x, of_sigma]`, for the slopes
            (count, dim) of a function c of z: of each sample the scores that `weighted_scores` sums, and σ
            times the derivative of c(z_n) by way of z_n, both (count, dim), or in σ (count, 1) where it is
            one number and not `by_coordinate`, 0 where x is infinite; None where not wanted. None: z has no
            derivatives.
    """

    draw: Callable[[Args, Any], Perturbations]
    at: Callable[[Inputs, Perturbations], Array]
    weighted_scores: Callable[[Wanted, Inputs, Perturbations, Array], list[Any]]
    square_sum: Callable[[Inputs, Perturbations, Array, int], Array]
    scores: Callable[[Inputs, Perturbations], Array]
    log_ratio: Callable[[Inputs, Inputs, Perturbations], Array]
    pairs: Callable[[Wanted, Inputs, Perturbations, Array, bool], list[Any]] | None = None


Score = Callable[[Args, Array], Array]  # (args, ε) -> s(ε), elementwise


def dense(draw: Callable[[Args, Any], Array], score: Score) -> Perturbing:
    """Returns z = x + σ ε, with one ε (dim,) of independent coordinates for each sample.

    Args:
        draw: `(args, key) -> ε` (group_size, dim) of one group.
        score: `(args, ε) -> s(ε)`, elementwise.
    """

    def weighted_scores(wanted: Wanted, inputs: Inputs, eps: Array, weights: Array) -> list[Any]:
        """In x: s(ε). In σ: s(ε) ε − 1, the −1 from the normaliser 1/σ, summed over all that share one σ."""
        x, sigma, *args = inputs
        in_x = score(tuple(args), eps)
        in_sigma = (in_x * eps - 1) * (~jnp.isinf(x)[None]).astype(eps.dtype)
        if not sigma.ndim and weights.shape[-1] == 1:
            in_sigma = in_sigma.sum(-1, keepdims=True)
        pairs = zip((in_x, in_sigma), wanted[:2], strict=True)
        return [_weighted(weights, each) if want else None for each, want in pairs]

    def pairs(wanted: Wanted, inputs: Inputs, eps: Array, slopes: Array, by_coordinate: bool) -> list[Any]:
        """In x: s(ε), and σ ∂c/∂z. In σ: s(ε) ε − 1, and σ ∂c/∂z ε."""
        x, sigma, *args = inputs
        counts = ~jnp.isinf(x)[None]
        in_x = jnp.where(counts, score(tuple(args), eps), 0)
        moves = jnp.where(counts, jnp.atleast_1d(sigma)[None] * slopes, 0)
        in_sigma, moves_sigma = (in_x * eps - 1) * counts.astype(eps.dtype), moves * eps
        if not sigma.ndim and not by_coordinate:
            in_sigma, moves_sigma = (each.sum(-1, keepdims=True) for each in (in_sigma, moves_sigma))
        both = zip(((in_x, moves), (in_sigma, moves_sigma)), wanted[:2], strict=True)
        return [each if want else None for each, want in both]

    def scores(inputs: Inputs, eps: Array) -> Array:
        x, sigma, *args = inputs
        return jnp.where(jnp.isinf(x)[None], 0, score(tuple(args), eps) / sigma)

    def square_sum(inputs: Inputs, eps: Array, weights: Array, group_size: int) -> Array:
        return _squared_sum(*(in_groups(rows, group_size) for rows in (weights, scores(inputs, eps))))

    def log_ratio(inputs: Inputs, constant: Inputs, eps: Array) -> Array:
        """At moved x and σ, the ε of the same z is ε σ₀/σ + (x₀ − x)/σ. Infinite x (so z) is left out."""
        (x, sigma, *_), (x0, sigma0, *args) = inputs, constant
        is_fixed = jnp.isinf(x0)
        moved = jnp.where(is_fixed, 0, x - jnp.where(is_fixed, 0, x0))
        scale, shift, log_scale = (
            jnp.broadcast_to(each, moved.shape)[None]
            for each in (sigma0 / sigma, moved / sigma, jnp.log(sigma / sigma0))
        )
        terms = _log_density(score, tuple(args), eps * scale - shift) - log_scale
        return jnp.where(is_fixed[None], 0, terms)

    return Perturbing(draw, _at, weighted_scores, square_sum, scores, log_ratio, pairs)


def _weighted(weights: Array, scores: Array) -> Array:
    """Returns Σ_n w_n s_n (..., dim) of scores (count, dim), for weights (..., count, 1 or dim)."""
    if weights.shape[-1] == 1:
        return matmul(weights[..., 0], scores)
    rows = weights.shape[:-2]
    each = [sum_rows(one * scores) for one in weights.reshape(-1, *scores.shape)]
    return jnp.stack(each).reshape(*rows, -1)


def _at(inputs: Inputs, eps: Array) -> Array:
    x, sigma, *_ = inputs
    return x + sigma * eps


def _log_density(score: Score, args: Args, eps: Array) -> Array:
    """Log μ(ε), of which only the derivative −s(ε) is ever used: its value is given as 0."""

    def rule(inputs: Any, tangents: Any) -> Array:
        (args, eps), (_, eps_dot) = inputs, tangents
        return -score(args, eps) * eps_dot

    return with_rule(jnp.zeros_like(eps), rule, (args, eps))


def _squared_sum(weights: Array, scores: Array) -> Array:
    """Returns Σ_j ‖Σ_n w_jn ⊗ s_jn‖² for (J, n, m) and (J, n, dim), through the smaller of two arrays."""
    size, (m, dim) = weights.shape[1], (weights.shape[2], scores.shape[2])
    if size**2 <= m * dim:
        grams = (einsum("jam,jbm->jab", rows, rows) for rows in (weights, scores))
        return jnp.multiply(*grams).sum()
    return (einsum("jnm,jnd->jmd", weights, scores) ** 2).sum()
