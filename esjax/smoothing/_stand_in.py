"""A control variate without a known mean: any c, whose gradient can be had by its scores and by its slopes.

The two have the same mean, so their difference has mean 0, and takes with it what c explains of f:

    ∇F ≈ (1/Nσ) Σ_n (f_n − b_n) s_n − Σ_h β_h' Δ_h,   Δ_h = (1/Nσ) Σ_{n in h} ((c_n − c̄_h') s_n − σ ∂c_n/∂z_n)

over two halves h of the sampler's groups, h' being the other one (LAX of Grathwohl et al. 2018, eq. 5, with a
scale for each coordinate). What is fitted on h' and its mean of c are independent of h, so all of it
is unbiased, whatever c.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import chunks
from esjax._core.products import einsum, matmul
from esjax.smoothing import _folding, _samples
from esjax.smoothing._groups import in_groups
from esjax.smoothing._inputs import Inputs, Wanted
from esjax.smoothing._moments import Moments, with_added
from esjax.smoothing._perturbing import Perturbations
from esjax.smoothing._problem import Problem

Array = jax.Array

_OWN = 64
"""Observations at which a coordinate's own scale counts as much as that of all coordinates.

Measured: of 4, 16, 64 and infinitely many the best, or within 2 % of it, with good and with poor stand-ins.
"""

_CHANCE = 4.0
"""Squared standard errors that chance may explain: a fit is held back by them, to 0 if it explains less."""

_LEAST = 64
"""Units of rounding that must be left of a sum of squares, its mean taken off, to fit a scale to it."""


class Halves(NamedTuple):
    """What is summed up over the samples of each half.

    Attributes:
        num_kept: samples, (2,).
        f: Σ f_n, as what each coordinate is credited with, (2, 1 or dim).
        c: Σ c_n, likewise.
        moments: of x and σ, None where not wanted.
    """

    num_kept: Array
    f: Array
    c: Array
    moments: list[Moments | None]


# --- sums --------------------------------------------------------------------------------------------


def of_chunk(
    problem: Problem,
    wanted: Wanted,
    inputs: Inputs,
    drawn: Perturbations,
    start: Array,
    kept: Array,
    cotangent: Array,
    credited: Array,
) -> Halves:
    """Returns the sums over a chunk, of which the stand-in is evaluated here.

    Args:
        problem: what is estimated.
        wanted: which of the inputs are differentiated.
        inputs: x, σ and args.
        drawn: perturbations.
        start: its first sample.
        kept: (count,), 1 or, where discarded, 0.
        cotangent: of the values (num_values,).
        credited: ⟨cotangent, f_n⟩ less any offset, as credited to each coordinate (count, 1 or dim).
    """
    values, slopes = _values_and_slopes(_of_stand_in(problem), inputs, drawn, cotangent)
    if problem.discard is not None:
        is_kept = kept[:, None] > 0
        credited, values, slopes = (jnp.where(is_kept, each, 0) for each in (credited, values, slopes))
    groups = (start + jnp.arange(kept.size, dtype=start.dtype)) // problem.group_size
    half = (jnp.stack([groups + 1, groups]) % 2).astype(kept.dtype) * kept[None]
    moments = _moments if problem.has_credit or _pair(problem) > 1 else _moments_of_all
    assert problem.perturbing.pairs is not None
    pairs = problem.perturbing.pairs(wanted, inputs, drawn, slopes, problem.has_credit)
    return Halves(
        num_kept=half.sum(1),
        f=matmul(half, credited),
        c=matmul(half, _without_rounding(problem, values)),
        moments=[None if each is None else moments(problem, half, credited, values, *each) for each in pairs],
    )


def _moments(problem: Problem, half: Array, f: Array, c: Array, scores: Array, moves: Array) -> Moments:
    """Returns sums coordinate by coordinate or, without credit, over all of them."""
    pair = _pair(problem)
    is_kept = half.sum(0)[:, None]
    rows = (f * scores, c * scores - moves, scores * is_kept)
    f_, e_, s_ = (in_groups(each, pair).sum(1) for each in rows)
    is_rounding = pair > 1 and jnp.abs(e_) <= _rounding(in_groups(rows[1], pair))
    to_fit = jnp.where(is_rounding, 0, e_)
    squares = [f_ * f_, f_ * to_fit, to_fit**2, f_ * s_, to_fit * s_, s_ * s_]
    if not problem.has_credit:
        squares = [each.sum(1, keepdims=True) for each in squares]
    return Moments(*(matmul(half[:, ::pair], each) for each in (f_, e_, s_, *squares)))


def _without_rounding(problem: Problem, c: Array) -> Array:
    """Returns values (count, 1 or dim), 0 where those of a pair cancel: a mean of rounding fits anything."""
    pair = _pair(problem)
    if pair == 1:
        return c
    pairs = in_groups(c, pair)
    is_rounding = jnp.abs(pairs.sum(1)) <= _rounding(pairs)
    return jnp.where(jnp.repeat(is_rounding, pair, axis=0)[: len(c)], 0, c)


def _rounding(pairs: Array) -> Array:
    """Returns below what size sums over the second axis may be little more than rounding (count, size)."""
    return float(np.finfo(pairs.dtype).eps) ** 0.5 * jnp.abs(pairs).sum(1)


def _moments_of_all(
    problem: Problem, half: Array, f: Array, c: Array, scores: Array, moves: Array
) -> Moments:
    """Returns the same without credit, of samples: without arrays of the products, in half the time."""
    ss, sm, mm = (
        einsum("nd,nd->n", *each)[:, None] for each in ((scores, scores), (scores, moves), (moves, moves))
    )
    weighted = matmul(jnp.concatenate([half * f.T, half * c.T, half]), scores)
    of_f, of_c, of_1 = jnp.split(weighted, 3)
    squares = (f**2 * ss, f * (c * ss - sm), c**2 * ss - 2 * c * sm + mm, f * ss, c * ss - sm, ss)
    return Moments(of_f, of_c - matmul(half, moves), of_1, *(matmul(half, each) for each in squares))


def zeros(problem: Problem, wanted: Wanted, key: Array, inputs: Inputs) -> Halves:
    """Returns the sums over no samples."""
    of = partial(_folding.zeros, problem, key, 2)
    sizes = [problem.dim if problem.has_credit else leaf.size for leaf in inputs[:2]]
    f, c = (of(problem.dim if each.has_credit else 1) for each in (problem, _of_stand_in(problem)))
    pairs = zip(sizes, wanted[:2], strict=True)
    moments = [_no_moments(problem, of, size) if want else None for size, want in pairs]
    return Halves(of(), f, c, moments)


def _no_moments(problem: Problem, of: Callable[[int], Array], size: int) -> Moments:
    of_squares = of(size if problem.has_credit else 1)
    return Moments(*[of(size)] * 3, *[of_squares] * 6)


def moved(halves: Halves, shift: Array) -> Halves:
    """Returns the sums for values f_n with `shift` (1 or dim,) added to each."""
    moments = [None if each is None else with_added(each, shift[None], 0) for each in halves.moments]
    return halves._replace(f=halves.f + halves.num_kept[:, None] * shift[None], moments=moments)


def where_read(problem: Problem, inputs: Inputs, cotangent: Array, halves: Halves) -> Halves:
    """Returns the sums, 0 where ⟨cotangent, f⟩ does not read a coordinate: there is nothing to take off."""
    if not problem.has_credit:
        return halves
    of_terms = _samples.term_cotangent(problem, inputs, cotangent)
    reads = problem.readers.by_coordinate((of_terms != 0).astype(problem.dtype)) > 0
    return halves._replace(moments=jax.tree.map(lambda each: jnp.where(reads[None], each, 0), halves.moments))


# --- the stand-in ------------------------------------------------------------------------------------


def _of_stand_in(problem: Problem) -> Problem:
    """Returns the problem with the stand-in as its block."""
    assert problem.control is not None
    return problem._replace(**problem.control._asdict(), control=None)


def _values_and_slopes(
    stand_in: Problem, inputs: Inputs, drawn: Perturbations, cotangent: Array
) -> tuple[Array, Array]:
    """Returns ⟨cotangent, c(z_n) − c(x)⟩ as credited (count, 1 or dim), and slopes in z_n (count, dim)."""
    x, _, *args = inputs
    of_terms = _samples.term_cotangent(stand_in, inputs, cotangent)
    at_input = stand_in.fun(x, tuple(args))
    offset = jnp.where(jnp.isfinite(at_input), at_input, 0)

    def one(perturbation: Perturbations) -> tuple[Array, Array]:
        z = stand_in.perturbing.at(inputs, perturbation)
        terms, pull = jax.vjp(lambda z: stand_in.fun(z, tuple(args)), z)
        return terms, pull(chunks.varying_like(of_terms, terms))[0]

    terms, slopes = chunks.over(one, stand_in.evaluated_at_once, drawn)
    return stand_in.readers.by_coordinate(_samples.scaled(terms - offset[None], of_terms)), slopes


# --- what is taken off -------------------------------------------------------------------------------


def correction(problem: Problem, halves: Halves) -> list[Any]:
    """Returns N σ Σ_h β_h' Δ_h in x and σ (size,), None where not wanted, from the sums over all samples."""

    def of(sums: Moments) -> Array:
        scale = _scales(problem, halves, sums)
        delta = sums.e - _means(halves)[1][::-1] * sums.s
        return (scale[::-1] * delta).sum(0)

    return [None if each is None else of(each) for each in halves.moments]


def explained(problem: Problem, halves: Halves) -> tuple[Array, Array]:
    """Returns the variance of N σ ∇F in x without the stand-in, (), and that which it takes away.

    (As if observations were independent; each half is looked at with the scale of the other.)
    """
    (sums, *_) = halves.moments
    assert sums is not None
    own, scale = _centred(problem, halves, sums), _scales(problem, halves, sums)[::-1]
    count = _observations(problem, halves)
    whole = own.ff.sum() - (own.f**2 / count).sum()
    squares = own.ff - 2 * scale * own.fe + scale**2 * own.ee
    rest = squares.sum() - ((own.f - scale * own.e) ** 2 / count).sum()
    return whole, whole - rest


def _scales(problem: Problem, halves: Halves, sums: Moments) -> Array:
    """Returns the scales β_h (2, size) fitted on each half to the variance of the gradient.

        β_i = Σ_j F_ji E_ji / Σ_j E_ji²,    since E has mean 0

    with credit, each drawn towards that of all coordinates together; without, this one. All are drawn
    towards 0 by what chance explains: R² of n observations less a multiple of (1 − R²) / (n − 2). Of two,
    it explains everything, and a ratio of so few need not have a mean.
    """
    own, count = _centred(problem, halves, sums), _observations(problem, halves)
    of_all = _ratio(own.fe.sum(1, keepdims=True), own.ee.sum(1, keepdims=True))
    share = count / (count + _OWN)
    scale = share * _ratio(own.fe, own.ee) + (1 - share) * of_all
    explains = _ratio((own.fe * _ratio(own.fe, own.ee)).sum(1), own.ff.sum(1)).clip(0, 1)[:, None]
    by_chance = jnp.where(count > 2, _CHANCE * _ratio(1 - explains, count - 2), 1)
    return scale * _ratio(jnp.maximum(explains - by_chance, 0), explains)


def _observations(problem: Problem, halves: Halves) -> Array:
    """Returns how many observations each half has (2, 1), at least 1."""
    return jnp.maximum(halves.num_kept / _pair(problem), 1)[:, None]


def _pair(problem: Problem) -> int:
    """Returns how many neighbours are one observation."""
    return 2 if problem.group_size == 2 else 1


def _centred(problem: Problem, halves: Halves, sums: Moments) -> Moments:
    """Returns the sums for c less its mean in each half, and f less what its baseline takes off.

    (That is its mean, or an offset already taken off.) 0 where little more than rounding is left.
    """
    f_mean, c_mean = _means(halves)
    f_mean = f_mean if problem.averages else jnp.zeros_like(f_mean)
    own = with_added(sums, -f_mean, -c_mean)
    least = _LEAST * float(np.finfo(own.ff.dtype).eps)
    has_f = own.ff > least * (sums.ff + f_mean**2 * sums.ss)
    has_e = own.ee > least * (sums.ee + c_mean**2 * sums.ss)
    return own._replace(
        ff=jnp.where(has_f, own.ff, 0),
        fe=jnp.where(has_f & has_e, own.fe, 0),
        ee=jnp.where(has_e, own.ee, 0),
    )


def _means(halves: Halves) -> tuple[Array, Array]:
    count = halves.num_kept[:, None]
    return _ratio(halves.f, count), _ratio(halves.c, count)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Returns the ratio, 0 where the denominator is 0."""
    is_zero = denominator == 0
    return jnp.where(is_zero, 0, numerator / jnp.where(is_zero, 1, denominator))
