r"""Noise of low rank: how matrices among the parameters are perturbed, and what an estimator asks of it.

A matrix W (m, k) is perturbed by σ A Bᵀ/√r with A (m, r) and B (k, r) normal, for which

    E[f(W + σ A Bᵀ/√r) A Bᵀ] / (σ√r) = ∇f(W) + O(σ²)

since the entries of A Bᵀ/√r are uncorrelated, with mean 0 and variance 1. In σ the gradient is unbiased: for
any share c, σ A Bᵀ = (σᶜA)(σ¹⁻ᶜB)ᵀ, whose factors are normal, so that

    σ ∂log p/∂σ = c (‖A‖² − m r) + (1 − c) (‖B‖² − k r),   of least variance where c = k/(m + k)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import random
from esjax._core.products import einsum, matmul
from esjax._jaxpr.cuts import Cut
from esjax._jaxpr.low_rank import Sampled, Weight
from esjax.smoothing._groups import in_groups
from esjax.smoothing._inputs import Args, Inputs, Wanted
from esjax.smoothing._perturbing import Perturbing

Array = jax.Array


class Factors(NamedTuple):
    """One sample's noise: what changes its sign between a pair, and what does not.

    Attributes:
        odd: A of all matrices and ε of all that is perturbed in full, (dim_odd,).
        even: B of all matrices, (dim_even,).
    """

    odd: Array
    even: Array


class Leaf(NamedTuple):
    """How one array of the parameters is perturbed.

    Attributes:
        name: its path.
        shape: its shape.
        start: its first place in x.
        odd: its first place in `Factors.odd`.
        even: its first place in `Factors.even`.
        order: its axes as batch, rows, columns; None where its noise is not of low rank.
        sizes: how many matrices, rows and columns.
        cut: its axes of rows and columns.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    odd: int
    even: int
    order: tuple[int, ...] | None
    sizes: tuple[int, int, int]
    cut: Cut | None

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class Layout(NamedTuple):
    """Where the noise of each array is found in the two vectors of `Factors`."""

    leaves: tuple[Leaf, ...]
    rank: int
    dim: int
    dim_odd: int
    dim_even: int


def layout(
    names: Sequence[str], shapes: Sequence[tuple[int, ...]], found: Sequence[Cut | None], rank: int
) -> Layout:
    """Lays out noise of a rank for arrays, whose `found` cuts are those of matrices, None for others."""
    leaves = []
    start = odd = even = 0
    for name, shape, cut in zip(names, shapes, found, strict=True):
        order, sizes = _order(shape, cut)
        batch, rows, columns = sizes
        leaves.append(Leaf(name, shape, start, odd, even, order, sizes, cut))
        start += math.prod(shape)
        odd += math.prod(shape) if cut is None else batch * rows * rank
        even += 0 if cut is None else batch * columns * rank
    return Layout(tuple(leaves), rank, start, odd, even)


def sizes_of(shape: Sequence[int], cut: Cut) -> tuple[int, int, int]:
    """Returns how many matrices, rows and columns an array has."""
    return _order(shape, cut)[1]


def _order(shape: Sequence[int], cut: Cut | None) -> tuple[tuple[int, ...] | None, tuple[int, int, int]]:
    if cut is None:
        return None, (1, math.prod(shape), 1)
    kinds = [(True, True), (True, False), (False, True)]  # batch, rows, columns
    axes = [[i for i, each in enumerate(zip(*cut, strict=True)) if each == kind] for kind in kinds]
    batch, rows, columns = (math.prod(shape[axis] for axis in some) for some in axes)
    return tuple(axis for some in axes for axis in some), (batch, rows, columns)


# --- what the interpreter is given -------------------------------------------------------------------


def perturbed(layout: Layout, weights: Sequence[Array], scales: Sequence[Array], drawn: Factors) -> list[Any]:
    """Returns the parameters of all samples, those of low rank in parts.

    Args:
        layout: of the noise.
        weights: the arrays.
        scales: σ of each, in its dtype.
        drawn: of all samples, (count, ...).
    """
    triples = zip(layout.leaves, weights, scales, strict=True)
    return [_perturbed(leaf, layout.rank, weight, scale, drawn) for leaf, weight, scale in triples]


def _perturbed(leaf: Leaf, rank: int, weight: Array, scale: Array, drawn: Factors) -> Any:
    if leaf.cut is None:
        eps = drawn.odd[:, leaf.odd : leaf.odd + leaf.size].reshape(-1, *leaf.shape)
        return Sampled(weight[None] + scale * eps.astype(weight.dtype))
    a, b = (part.astype(weight.dtype) for part in _ab(leaf, rank, drawn))
    left, right = (
        _as_broadcast(part, leaf, covered) for part, covered in ((a, leaf.cut.left), (b, leaf.cut.right))
    )
    return Weight(weight, left * (scale / math.sqrt(rank)), right, leaf.name)


def _ab(leaf: Leaf, rank: int, drawn: Factors) -> tuple[Array, Array]:
    """Returns A (count, batch, rows, rank) and B (count, batch, columns, rank)."""
    batch, rows, columns = leaf.sizes
    a = drawn.odd[:, leaf.odd : leaf.odd + batch * rows * rank]
    b = drawn.even[:, leaf.even : leaf.even + batch * columns * rank]
    return a.reshape(-1, batch, rows, rank), b.reshape(-1, batch, columns, rank)


def _as_broadcast(part: Array, leaf: Leaf, covered: tuple[bool, ...]) -> Array:
    """Returns a factor with the weight's axes, of size 1 where it does not cover them."""
    assert leaf.order is not None
    sizes = [leaf.shape[axis] if covered[axis] else 1 for axis in leaf.order]
    whole = part.reshape(part.shape[0], *sizes, part.shape[-1])
    places = np.argsort(leaf.order)
    return whole.transpose(0, *(1 + places), whole.ndim - 1)


# --- what the estimator asks for ---------------------------------------------------------------------


def low_rank(layout: Layout, draw_odd: Callable[[Args, Any], Array], group_size: int) -> Perturbing:
    """Returns the noise of a layout; z is its `Factors`, and what they perturb is the block's to know.

    σ is () or, throughout a leaf the same, (dim,); a leaf's slope in σ is then given at its first place.

    Args:
        layout: of the noise.
        draw_odd: `(args, key) -> (group_size, dim_odd)`, as a sampler draws them. B is one for a pair.
        group_size: samples that are drawn together.
    """

    def draw(args: Args, key: Any) -> Factors:
        odd_key, even_key = jax.random.split(key)
        odd = draw_odd(args, odd_key)
        count = 1 if group_size == 2 else group_size  # a pair of opposite A has opposite noise with one B
        even = random.normal(even_key, (count, layout.dim_even), odd.dtype)
        return Factors(odd, jnp.broadcast_to(even, (group_size, layout.dim_even)))

    def weighted_scores(wanted: Wanted, inputs: Inputs, drawn: Factors, weights: Array) -> list[Any]:
        weights = weights[..., 0]
        in_x = [_weighted(leaf, layout.rank, drawn, weights) for leaf in layout.leaves] if wanted[0] else None
        in_sigma = _in_sigma(layout, inputs[1], drawn, weights) if wanted[1] else None
        return [None if in_x is None else jnp.concatenate(in_x, -1), in_sigma]

    def square_sum(inputs: Inputs, drawn: Factors, weights: Array, group_size: int) -> Array:
        grouped = jax.tree.map(lambda rows: in_groups(rows, group_size), drawn)
        of_weights = in_groups(weights, group_size)
        scales = scales_of(layout, inputs[1])
        grams = (
            _gram(leaf, layout.rank, grouped) / s**2 for leaf, s in zip(layout.leaves, scales, strict=True)
        )
        return (einsum("jam,jbm->jab", of_weights, of_weights) * sum(grams)).sum()

    return Perturbing(
        draw, lambda inputs, drawn: drawn, weighted_scores, square_sum, _no_scores, _no_log_ratio
    )


def scales_of(layout: Layout, sigma: Array) -> list[Array]:
    """Returns σ of each leaf."""
    return [sigma[leaf.start] if sigma.ndim else sigma for leaf in layout.leaves]


def _weighted(leaf: Leaf, rank: int, drawn: Factors, weights: Array) -> Array:
    """Returns Σ_n w_n A_n B_nᵀ/√r (..., size), for weights (..., count): one product for all samples."""
    if leaf.cut is None or leaf.order is None:
        return matmul(weights, drawn.odd[:, leaf.odd : leaf.odd + leaf.size])
    a, b = _ab(leaf, rank, drawn)
    rows = weights.shape[:-1]
    weighted = weights[..., None, None, None] * a.reshape((1,) * len(rows) + a.shape)
    found = einsum("...nimr,nikr->...imk", weighted, b) / math.sqrt(rank)
    found = found.reshape(*rows, *(leaf.shape[axis] for axis in leaf.order))
    places = [len(rows) + int(place) for place in np.argsort(leaf.order)]
    return found.transpose(*range(len(rows)), *places).reshape(*rows, leaf.size)


def _in_sigma(layout: Layout, sigma: Array, drawn: Factors, weights: Array) -> Array:
    """Returns Σ_n w_n σ ∂log p(z_n)/∂σ (..., 1 or dim)."""
    of_leaves = [matmul(weights, _sigma_score(leaf, layout.rank, drawn)) for leaf in layout.leaves]
    if not sigma.ndim:
        return sum(of_leaves[1:], of_leaves[0])[..., None]
    zeros = jnp.zeros((*weights.shape[:-1], layout.dim), weights.dtype)
    starts = np.array([leaf.start for leaf in layout.leaves])
    return zeros.at[..., starts].set(jnp.stack(of_leaves, -1))


def _sigma_score(leaf: Leaf, rank: int, drawn: Factors) -> Array:
    """Returns σ ∂log p/∂σ (count,) of a leaf's noise."""
    if leaf.cut is None:
        return (drawn.odd[:, leaf.odd : leaf.odd + leaf.size] ** 2 - 1).sum(-1)
    _, rows, columns = leaf.sizes
    of_a, of_b = ((part**2 - 1).sum((1, 2, 3)) for part in _ab(leaf, rank, drawn))
    return (columns * of_a + rows * of_b) / (rows + columns)


def _gram(leaf: Leaf, rank: int, grouped: Factors) -> Array:
    """Returns ⟨E_a, E_b⟩ (groups, size, size) of the noise E of the samples of each group."""
    groups, size = grouped.odd.shape[:2]
    flat = jax.tree.map(lambda rows: rows.reshape(-1, rows.shape[-1]), grouped)
    if leaf.cut is None:
        eps = grouped.odd[..., leaf.odd : leaf.odd + leaf.size]
        return einsum("jad,jbd->jab", eps, eps)
    of_a, of_b = (
        einsum("jaimr,jbims->jabirs", part, part)
        for part in (each.reshape(groups, size, *each.shape[1:]) for each in _ab(leaf, rank, flat))
    )
    return (of_a * of_b).sum((3, 4, 5)) / rank


def _no_scores(inputs: Inputs, drawn: Factors) -> Array:
    raise NotImplementedError("only credit asks for scores, and weights have none")


def _no_log_ratio(inputs: Inputs, constant: Inputs, drawn: Factors) -> Array:
    raise ValueError(
        "smooth_weights has first derivatives only: a second one needs the density of W + σ A Bᵀ/√r, which "
        "there is not; use jax.lax.stop_gradient on the gradient, or esjax.smooth, which has all orders"
    )
