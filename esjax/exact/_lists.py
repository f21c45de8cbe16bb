"""What `ranks` and `pairs` ask of their arguments: one list of items, with scores in units of σ."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import placement
from esjax._core.arrays import check_known, mask_like
from esjax._core.check import as_array, check_sigma
from esjax._core.chunks import varying_alike
from esjax.exact import _arguments
from esjax.exact._grid import Places, places
from esjax.noise import Noise

Array = jax.Array


class List(NamedTuple):
    """A list of items, in at least float32.

    Attributes:
        scores: (n,).
        sigma: ().
        mask: (n,) booleans, which items count.
    """

    scores: Array
    sigma: Array
    mask: Array


def as_list(scores: Any, sigma: Any, mask: Any, noise: Noise) -> tuple[List, Any]:
    """Returns a list, and the dtype of its scores (n,), which is that of results.

    Raises:
        ValueError: scores are not floating, or a known one that counts is NaN; sigma is not one number > 0;
            the mask is of another shape; or there is no closed form for the noise.
    """
    given = as_array("scores", scores)
    if not jnp.issubdtype(given.dtype, jnp.floating):
        raise ValueError(f"scores has dtype {given.dtype}; convert it with .astype(jnp.float32)")
    mask = mask_like(mask, given, "scores")
    remedy = "find where it comes from with jax.debug_nans(True)"
    check_known("scores", given, mask, lambda s: s == s, remedy)
    check_sigma(sigma)
    _arguments.check_noise(noise, ("normal", "logistic", "gumbel"))
    wide = given if given.dtype == jnp.float64 else given.astype(jnp.float32)
    return List(wide, _arguments.broadcast("sigma", sigma, (), wide.dtype), mask), given.dtype


def computed(function: Callable[..., Array], *arrays: Any) -> Array:
    """Returns `function(*arrays)`, wherever the arrays are placed, and whatever `jax.shard_map` splits."""
    return placement.automatic(function, *varying_alike(arrays))


def places_of(noise: Noise, items: List) -> Places:
    """Returns where the items are; see `places`."""
    return places(noise, items.scores, items.sigma, items.mask)


def where_valid(value: Array, items: List, valid: Array | bool = True) -> Array:
    """Returns the value (...), NaN with NaN derivatives where it is not valid, or counts a NaN score."""
    counted = jnp.where(items.mask & ~jnp.isinf(items.scores), items.scores, 0)
    return _arguments.nan_unless(~jnp.isnan(counted).any() & valid, value, counted.sum())
