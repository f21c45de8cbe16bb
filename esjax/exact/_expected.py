"""Expected metrics of a batch: what `from_probs` and `sets` share, whichever the chances come from."""

import inspect

import jax
import jax.numpy as jnp

from esjax._core import placement
from esjax.exact import _counting
from esjax.exact._counting import Formula, Metric
from esjax.exact._labelled import Batch

Array = jax.Array


def fbeta(batch: Batch, beta: float, average: str) -> Array:
    return _averaged(_counting.fbeta(beta), _counting.recall, batch, average)


def jaccard(batch: Batch, average: str) -> Array:
    return _averaged(_counting.jaccard, _counting.jaccard_of_classes, batch, average)


def recall(batch: Batch, average: str) -> Array:
    return _averaged(_counting.recall, _counting.recall, batch, average)


def _averaged(formula: Formula, together: Formula, batch: Batch, average: str) -> Array:
    """Returns the mean of a formula, whose value for all classes together is that of another."""
    if average not in ("macro", "micro"):
        raise ValueError(f"average={average!r} must be 'macro' or 'micro'")
    ndim = batch.labels.ndim
    if ndim not in (1, 2) or batch.probs.ndim > 2:
        raise ValueError(
            f"{_shapes(batch)}: give (B, K) with classes (B,), or both as (B,) or (B, L), binary; use "
            "jax.vmap over batches"
        )
    value = _counting.averaged(formula, together, average, batch.probs, batch.labels, batch.counted)
    return value.astype(batch.dtype)


def balanced_accuracy(batch: Batch) -> Array:
    if batch.labels.ndim != 1:
        raise ValueError(
            f"{_shapes(batch)}: give (B, K) with classes (B,), or both as (B,), binary; use jax.vmap "
            "over labels"
        )
    return _counting.balanced_accuracy(batch.probs, batch.labels, batch.counted).astype(batch.dtype)


def dice(batch: Batch) -> Array:
    if batch.probs.ndim != batch.labels.ndim:
        raise ValueError(f"{_shapes(batch)}: give both the same shape")
    flat = (array.reshape(-1) for array in (batch.probs, batch.labels, batch.counted))
    return _counting.averaged(_counting.fbeta(1.0), _counting.recall, "micro", *flat).astype(batch.dtype)


def matthews(batch: Batch) -> Array:
    return _counting.matthews(*_bits("matthews", batch)).astype(batch.dtype)


def cohen_kappa(batch: Batch) -> Array:
    return _counting.cohen_kappa(*_bits("cohen_kappa", batch)).astype(batch.dtype)


def of_confusion(metric: Metric, batch: Batch) -> Array:
    bits = _bits("of_confusion", batch)
    _check_metric(metric, bits[0].dtype)
    return placement.automatic(lambda *arrays: _counting.of_confusion(metric, *arrays), *bits).astype(
        batch.dtype
    )


def count_probs(batch: Batch) -> Array:
    if batch.probs.ndim != 1:
        raise ValueError(
            f"{batch.name} has shape {batch.probs.shape}; give (B,), and use jax.vmap over others"
        )
    return _counting.count_probs(batch.probs, batch.counted).astype(batch.dtype)


def _check_metric(metric: Metric, dtype: jnp.dtype) -> None:
    """Raises `ValueError` unless the metric turns four numbers into one."""
    if not callable(metric):
        raise ValueError(f"metric={metric!r} is not a function; give one of the four counts tp, fp, fn, tn")
    try:
        inspect.signature(metric).bind(*range(4))
    except TypeError as error:
        raise ValueError(
            f"metric takes the four counts tp, fp, fn, tn, and this one does not: {error}"
        ) from None
    except ValueError:  # of a builtin, which has no signature
        pass
    found = jax.eval_shape(metric, *(jnp.zeros((), dtype),) * 4)
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"metric returns {found}; have it return one floating number, shape ()")


def _bits(metric: str, batch: Batch) -> tuple[Array, Array, Array]:
    """Returns chances, labels and what counts of binary decisions (B,); raises `ValueError` for others."""
    if batch.labels.ndim < batch.probs.ndim:
        raise ValueError(
            f"{metric} has a closed form for binary decisions alone, and {_shapes(batch)} are of "
            f"{batch.probs.shape[-1]} classes; sample it with esjax.smooth_decisions"
        )
    if batch.labels.ndim != 1:
        raise ValueError(f"{_shapes(batch)}: {metric} is for one label (B,); use jax.vmap over labels")
    return batch.probs, batch.labels, batch.counted


def _shapes(batch: Batch) -> str:
    return f"{batch.name} {batch.probs.shape} and labels {batch.labels.shape}"
