"""Blocks of sequences: how much one has to be edited to become another."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.check import as_array, as_given, known, to_int32

Array = jax.Array


def edit_distance(
    predicted: Any, reference: Any, *, predicted_length: Any = None, reference_length: Any = None
) -> Array:
    """Returns Levenshtein's distance: the fewest insertions, deletions and substitutions between them.

    It takes one pass over the reference, with work of (n + 1) (m + 1) (Levenshtein 1966; Wagner and
    Fischer 1974).

    Args:
        predicted: tokens (n,), integers of any width.
        reference: tokens (m,), integers.
        predicted_length: how many of the n count, () integer in [0, n]; the rest is padding. None: all.
        reference_length: likewise, of the m.

    Returns:
        Array (), floating; NaN where a traced length is out of range.

    Raises:
        ValueError: the tokens are not vectors of integers; a length is not an integer, or known (not traced)
            and out of range; or one sequence holds known integers too large for JAX and the other is traced.
    """
    predicted, reference = _comparable(
        predicted=_tokens("predicted", predicted), reference=_tokens("reference", reference)
    )
    num_predicted = _length("predicted_length", predicted_length, predicted)
    num_reference = _length("reference_length", reference_length, reference)
    places = jnp.arange(predicted.size + 1, dtype=jnp.int32)

    def next_row(row: Array, numbered: tuple[Array, Array]) -> tuple[Array, None]:
        """Goes from the distances of all beginnings of predicted to j tokens of the reference, to j + 1."""
        number, token = numbered
        substituted = row[:-1] + _differ(predicted, token).astype(jnp.int32)
        best = (row + 1).at[1:].min(substituted)
        inserted = jax.lax.cummin(best - places) + places  # d_i = min over l ≤ i of best_l + (i − l)
        return jnp.where(number < num_reference, inserted, row), None

    numbers = jnp.arange(reference.size, dtype=jnp.int32)
    row, _ = jax.lax.scan(next_row, places, (numbers, reference))
    is_inside = _is_inside(num_predicted, predicted) & _is_inside(num_reference, reference)
    return jnp.where(is_inside, row[num_predicted].astype(jnp.result_type(float)), jnp.nan)


def word_error_rate(
    predicted: Any, reference: Any, *, predicted_length: Any = None, reference_length: Any = None
) -> Array:
    """Returns the edit distance over the length of the reference (over 1, if that is 0).

        WER = edit_distance / max(reference_length, 1)

    Arguments and errors are those of `edit_distance`; tokens are words. To be minimised.
    """
    lengths = {"predicted_length": predicted_length, "reference_length": reference_length}
    distance = edit_distance(predicted, reference, **lengths)
    length = _length("reference_length", reference_length, as_given("reference", reference))
    return distance / jnp.maximum(length, 1).astype(distance.dtype)


def _tokens(name: str, tokens: Any) -> Any:
    given = as_given(name, tokens, "give integer tokens, such as words by their numbers")
    if given.ndim != 1 or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(
            f"{name} is {as_array(name, given).dtype}{list(given.shape)}; give integer tokens (n,), and use "
            "jax.vmap over sequences"
        )
    return given


def _comparable(**arrays: Any) -> list[Array]:
    """Returns tokens as arrays of JAX; known ones beyond int32, which would wrap, are numbered anew."""
    beyond = {
        name: int(given[given != to_int32(given)][0])
        for name, given in arrays.items()
        if isinstance(given, np.ndarray) and (given != to_int32(given)).any()
    }
    if not beyond:
        return [as_array(name, given) for name, given in arrays.items()]
    if any(isinstance(given, jax.core.Tracer) for given in arrays.values()):
        name, token = beyond.popitem()
        raise ValueError(
            f"{name} holds {token}, beyond int32, and others are traced; number the tokens, or use "
            "jax.enable_x64(True)"
        )
    numbers: dict[int, int] = {}
    numbered = (
        [numbers.setdefault(token, len(numbers)) for token in each.tolist()] for each in arrays.values()
    )
    return [jnp.array(each, jnp.int32) for each in numbered]


def _differ(predicted: Array, token: Array) -> Array:
    """Returns which of the tokens (n,) differ from that one (): of two dtypes, in bits or in sign."""
    if predicted.dtype == token.dtype:
        return predicted != token
    dtype = jnp.int64 if max(predicted.dtype.itemsize, token.dtype.itemsize) > 4 else jnp.int32
    return (predicted.astype(dtype) != token.astype(dtype)) | ((predicted < 0) != (token < 0))


def _is_inside(length: Array, array: Array) -> Array:
    return (length >= 0) & (length <= array.size)


def _length(name: str, length: Any, array: Any) -> Array:
    given = as_given(name, array.size if length is None else length, "give one integer")
    if given.ndim or not jnp.issubdtype(given.dtype, jnp.integer):
        raise ValueError(f"{name} is {as_array(name, given).dtype}{list(given.shape)}; give one integer, ()")
    value = known(given)
    if value is not None and not 0 <= int(value) <= array.size:
        raise ValueError(f"{name}={int(value)} must be in [0, {array.size}]")
    return as_array(name, to_int32(given))
