"""Blocks of sequences: how much one has to be edited to become another."""

from typing import Any

import jax
import jax.numpy as jnp

from esjax._check import as_array

Array = jax.Array


def edit_distance(
    predicted: Any, reference: Any, *, predicted_length: Any = None, reference_length: Any = None
) -> Array:
    """Returns Levenshtein's distance: the fewest insertions, deletions and substitutions between them.

    It takes one pass over the reference, with work of (n + 1) (m + 1) (Levenshtein 1966; Wagner and
    Fischer 1974).

    Args:
        predicted: tokens (n,), integers.
        reference: tokens (m,), integers.
        predicted_length: how many of the n count, () integer in [0, n]; the rest is padding. None: all.
        reference_length: likewise, of the m.

    Returns:
        Array (), floating.

    Raises:
        ValueError: they are no vectors of integers, or a length is no integer.
    """
    predicted, reference = _tokens("predicted", predicted), _tokens("reference", reference)
    num_predicted = _length("predicted_length", predicted_length, predicted)
    num_reference = _length("reference_length", reference_length, reference)
    places = jnp.arange(predicted.size + 1, dtype=jnp.int32)

    def next_row(row: Array, numbered: tuple[Array, Array]) -> tuple[Array, None]:
        """From the distances of all beginnings of predicted to j tokens of the reference, to j + 1."""
        number, token = numbered
        substituted = row[:-1] + (predicted != token).astype(jnp.int32)
        best = (row + 1).at[1:].min(substituted)
        inserted = jax.lax.cummin(best - places) + places  # d_i = min over l ≤ i of best_l + (i − l)
        return jnp.where(number < num_reference, inserted, row), None

    numbers = jnp.arange(reference.size, dtype=jnp.int32)
    row, _ = jax.lax.scan(next_row, places, (numbers, reference))
    return row[num_predicted].astype(jnp.result_type(float))


def word_error_rate(
    predicted: Any, reference: Any, *, predicted_length: Any = None, reference_length: Any = None
) -> Array:
    """Returns the edit distance over the length of the reference (over 1, if that is 0).

        WER = edit_distance / max(reference_length, 1)

    Arguments and errors are those of `edit_distance`; tokens are words. To be minimised.
    """
    lengths = {"predicted_length": predicted_length, "reference_length": reference_length}
    distance = edit_distance(predicted, reference, **lengths)
    length = _length("reference_length", reference_length, jnp.asarray(reference))
    return distance / jnp.maximum(length, 1).astype(distance.dtype)


def _tokens(name: str, array: Any) -> Array:
    array = as_array(name, array, "give integer tokens, such as words by their numbers")
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}; give integer tokens (n,), and use jax.vmap over "
            "sequences"
        )
    return array.astype(jnp.int32)


def _length(name: str, length: Any, array: Array) -> Array:
    length = as_array(name, array.size if length is None else length, "give one integer")
    if length.ndim or not jnp.issubdtype(length.dtype, jnp.integer):
        raise ValueError(f"{name} is {length.dtype}{list(length.shape)}; give one integer, ()")
    if not isinstance(length, jax.core.Tracer) and not 0 <= int(length) <= array.size:
        raise ValueError(f"{name}={int(length)} must be in [0, {array.size}]")
    return length.astype(jnp.int32)
