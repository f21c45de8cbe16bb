"""Mathematics behind `from_probs` and `sets`: metrics of a batch whose decisions are independent bits.

Each public metric is one formula here, of bits in rows: one row for each class or label, (C, n), or one row
of all decisions. A bit that does not count has chance 0 and is no positive, so that it changes nothing.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import placement
from esjax._core.arrays import divided
from esjax.exact import _count_laws, _ratios
from esjax.exact._arguments import nan_unless
from esjax.exact._batches import long_sum

Array = jax.Array
Formula = Callable[..., Array]
Metric = Callable[[Array, Array, Array, Array], Array]

_LARGEST_BETA = 1e8
"""From here on, the F-measure is the recall to rounding, and β² P might overflow."""

_GRID_FLOATS = 2**17
"""How many pairs of counts `of_confusion` asks a metric for at once."""


# --- formulas: of chances (C, n) and of which bits ought to be 1, (C, n) -------------------------------


@lru_cache
def fbeta(beta: float) -> Formula:
    """Returns the formula E[(1 + β²) TP / (TP + FP + β² P)] (C,): F1 for β = 1, precision for β = 0."""
    return partial(_fbeta, min(float(beta), _LARGEST_BETA) ** 2)


def _fbeta(squared_beta: float, p: Array, is_actual: Array) -> Array:
    power = squared_beta * _count(is_actual, p)
    hits = jnp.where(is_actual, p, 0)
    return (1 + squared_beta) * _ratios.mean_ratio(_ratios.degree_for(squared_beta), hits, p, power)


def jaccard(p: Array, is_actual: Array) -> Array:
    """Returns E[TP / (P + FP)] = E[TP] E[1 / (P + FP)] (C,)."""
    power = jnp.maximum(_count(is_actual, p) - 1, 0)
    return _ratios.mean_ratio(1, jnp.where(is_actual, p, 0), jnp.where(is_actual, 0, p), power)


def recall(p: Array, is_actual: Array) -> Array:
    """Returns E[TP] / P (C,)."""
    return divided(long_sum(jnp.where(is_actual, p, 0)), _count(is_actual, p))


def jaccard_of_classes(p: Array, is_counted: Array) -> Array:
    """Returns E[T / (2n − T)], of classes together: T of n examples are right, with chances p (1, n).

    2n − T = n + wrong, so that each term is p_i E[1 / (n + wrong among the others)].
    """
    power = jnp.maximum(_count(is_counted, p) - 1, 0)
    wrong = jnp.where(is_counted, 1 - p, 0)
    return _ratios.mean_ratio(1, jnp.where(is_counted, p, 0), wrong, power)


def _count(which: Array, like: Array) -> Array:
    return which.sum(-1, dtype=jnp.int32).astype(like.dtype)


# --- averages over classes or labels -------------------------------------------------------------------


def averaged(
    formula: Formula, together: Formula, average: str, probs: Array, labels: Array, counted: Array
) -> Array:
    """Returns the mean of a formula over classes or labels, or that of all of them together.

    Args:
        formula: of chances and positives in rows.
        together: of one row: the chance of each example's own class, and which examples count.
        average: "macro" or "micro".
        probs: (B, K) of classes, or of the labels' shape.
        labels: (B,) classes; or 0 and 1, of any shape.
        counted: booleans of the labels' shape.
    """
    return placement.automatic(partial(_averaged, formula, together, average), probs, labels, counted)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _averaged(
    formula: Formula, together: Formula, average: str, probs: Array, labels: Array, counted: Array
) -> Array:
    if probs.ndim == labels.ndim:
        value = formula(*_rows_of_bits(average, probs, labels, counted))
    elif average == "micro":
        inside = jnp.clip(labels, 0, probs.shape[-1] - 1)
        own = jnp.take_along_axis(probs, inside[:, None], 1)[:, 0]
        value = together(jnp.where(counted, own, 0)[None, :], counted[None, :])
    else:
        value = formula(*_rows_of_classes(probs, labels, counted))
    return _where_valid(value.mean(), probs, labels, counted)


def balanced_accuracy(probs: Array, labels: Array, counted: Array) -> Array:
    """Returns the mean recall of the classes that occur among the labels, 0 where none does."""
    return placement.automatic(_balanced_accuracy, probs, labels, counted)


@jax.jit
def _balanced_accuracy(probs: Array, labels: Array, counted: Array) -> Array:
    of_classes = jnp.stack([1 - probs, probs], -1) if probs.ndim == labels.ndim else probs
    p, is_actual = _rows_of_classes(of_classes, labels, counted)
    occurs = is_actual.any(-1)
    value = divided(recall(p, is_actual).sum(), _count(occurs, p))
    return _where_valid(value, probs, labels, counted)


def _rows_of_bits(average: str, probs: Array, labels: Array, counted: Array) -> tuple[Array, Array]:
    """Returns chances and positives (L, B), or (1, B · L) where all labels are one."""
    shape = (1, -1) if average == "micro" or probs.ndim == 1 else (-1, probs.shape[-1])
    p = jnp.where(counted, probs, 0).reshape(shape)
    is_actual = ((labels == 1) & counted).reshape(shape)
    return (p, is_actual) if shape[0] == 1 else (p.T, is_actual.T)


def _rows_of_classes(probs: Array, labels: Array, counted: Array) -> tuple[Array, Array]:
    """Returns chances and positives (K, B)."""
    classes = jnp.arange(probs.shape[1], dtype=labels.dtype)[:, None]
    is_actual = (labels[None, :] == classes) & counted[None, :]
    return jnp.where(counted[None, :], probs.T, 0), is_actual


def _where_valid(value: Array, probs: Array, labels: Array, counted: Array) -> Array:
    """Returns the value, NaN with NaN derivatives where a chance that counts is, or its label is no class."""
    of_classes = probs.ndim > labels.ndim
    p = jnp.where(counted[..., None] if of_classes else counted, probs, 0)
    valid = ~jnp.isnan(p).any()
    if of_classes:
        valid = valid & ((labels >= 0) & (labels < probs.shape[-1]) | ~counted).all()
    return nan_unless(valid, value, p.sum())


# --- metrics that are linear in TP once the number of ones is known ------------------------------------


def matthews(probs: Array, labels: Array, counted: Array) -> Array:
    """Returns E[(N TP − S P) / √(S (N − S) P (N − P))] of bits (B,), 0 where the denominator is.

    Given S = TP + FP it is linear in TP: Σ_s E[N TP − S P; S = s] / √(s (N − s) P (N − P)).
    """
    return placement.automatic(_matthews, probs, labels, counted)


@jax.jit
def _matthews(probs: Array, labels: Array, counted: Array) -> Array:
    gain, s, num_actual, count = _gain(probs, labels, counted)
    of_actual = jnp.sqrt(num_actual * (count - num_actual))
    value = divided(divided(gain, jnp.sqrt(s * (count - s))).sum(), of_actual)
    return _where_valid(value, probs, labels, counted)


def cohen_kappa(probs: Array, labels: Array, counted: Array) -> Array:
    """Returns E[2 (N TP − S P) / (S (N − P) + (N − S) P)] of bits (B,), 0 where the denominator is."""
    return placement.automatic(_cohen_kappa, probs, labels, counted)


@jax.jit
def _cohen_kappa(probs: Array, labels: Array, counted: Array) -> Array:
    gain, s, num_actual, count = _gain(probs, labels, counted)
    value = divided(2 * gain, s * (count - num_actual) + (count - s) * num_actual).sum()
    return _where_valid(value, probs, labels, counted)


def _gain(probs: Array, labels: Array, counted: Array) -> tuple[Array, Array, Array, Array]:
    """Returns E[N TP − S P; S = s] (W,), s (W,), P and N.

    As a sum over bits, Σ_i (N y_i − P) b_i, in which nothing cancels but what cancels in N E[TP] − P E[S].
    """
    p, is_actual = jnp.where(counted, probs, 0), (labels == 1) & counted
    num_actual, count = _count(is_actual, p), _count(counted, p)
    weights = jnp.where(counted, is_actual.astype(p.dtype) - divided(num_actual, count), 0)
    found = _count_laws.law(p, weights)
    s = jnp.minimum(found.places.astype(p.dtype), count)  # beyond, where bits do not count, there is no mass
    return count * found.weighted, s, num_actual, count


# --- laws ----------------------------------------------------------------------------------------------


def count_probs(probs: Array, counted: Array) -> Array:
    """Returns P(S = s) (B + 1,) for the number S of ones among bits (B,)."""
    return placement.automatic(_count_probs, probs, counted)


@jax.jit
def _count_probs(probs: Array, counted: Array) -> Array:
    p = jnp.where(counted, probs, 0)
    found = _count_laws.law(p)
    everywhere = jnp.zeros(p.size + 1, p.dtype)
    placed = jax.lax.dynamic_update_slice(everywhere, found.probs, (found.places[0],))
    return nan_unless(~jnp.isnan(p).any(), placed, p.sum())


def of_confusion(metric: Metric, probs: Array, labels: Array, counted: Array) -> Array:
    """Returns Σ_ab P(TP = a) P(FP = b) metric(a, b, P − a, N − P − b) of bits (B,).

    TP counts bits of positives and FP those of negatives, so that they are independent.
    """
    p, is_actual = jnp.where(counted, probs, 0), (labels == 1) & counted
    num_actual, count = _count(is_actual, p), _count(counted, p)
    hits, alarms = (_count_laws.law(jnp.where(which, p, 0)) for which in (is_actual, ~is_actual))

    def value(a: Array, b: Array) -> Array:
        return jax.vmap(metric)(a, b, num_actual - a, count - num_actual - b).astype(p.dtype)

    mean = _mean_over_grid(value, (hits, num_actual), (alarms, count - num_actual))
    return _where_valid(mean, probs, labels, counted)


def _mean_over_grid(
    value: Callable[[Array, Array], Array],
    first: tuple[_count_laws.Law, Array],
    second: tuple[_count_laws.Law, Array],
) -> Array:
    """Returns Σ_ab P(a) P(b) value(a, b), each with its law and its largest count, some rows of a at once.

    Where the value is NaN, and its chance is nothing but the error of the laws, it counts as 0.
    """
    (a, chance_of_a, least_a), (b, chance_of_b, least_b) = _on_floats(*first), _on_floats(*second)
    likely = a[chance_of_a.argmax()], b[chance_of_b.argmax()]

    def row(row: tuple[Array, Array]) -> Array:
        (one, chance), size = row, b.shape
        of_all = jnp.broadcast_to(one, size)
        negligible = (chance <= least_a) | (chance_of_b <= least_b)
        unknown = negligible & jnp.isnan(jax.lax.stop_gradient(value(of_all, b)))
        found = value(jnp.where(unknown, likely[0], of_all), jnp.where(unknown, likely[1], b))
        return (chance * chance_of_b * jnp.where(unknown, 0, found)).sum()

    batch_size = max(_GRID_FLOATS // b.size, 1)
    return jax.lax.map(jax.checkpoint(row), (a, chance_of_a), batch_size=batch_size).sum()


def _on_floats(law: _count_laws.Law, largest: Array) -> tuple[Array, Array, Array]:
    """Returns places and chances (W,) within 0..largest, 0 beyond, and what in them is but rounding."""
    places = law.places.astype(law.probs.dtype)
    inside = places <= largest
    chances = jnp.where(inside, law.probs, 0)
    noise = 8 * float(np.finfo(chances.dtype).eps) * jax.lax.stop_gradient(chances).max()
    return jnp.where(inside, places, largest), chances, noise
