"""Baselines b_n: what is subtracted from the values f_n before they weight the scores s_n.

    ∇F ≈ Σ_n (f_n − b_n) s_n / (N σ)

A baseline that does not depend on the group of sample n leaves the estimate unbiased, since E[s] = 0,
and removes the variance that an offset of f would add.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Baseline",
    "at_input",
    "centered_rank",
    "leave_one_out",
    "none",
]

Array = jax.Array


def _zero(in_group: Any, in_all: Any) -> tuple[Any, Any]:
    del in_group, in_all
    return 0.0, 0.0


class Baseline(NamedTuple):
    """A baseline that is affine in the values, so that one pass over the samples is enough.

        b_n = own · Σ_{m in the group of n} f_m + total · Σ_m f_m + at_input · f(x)

    Attributes:
        coefficients: `(in_group, in_all) -> (own, total)` for a sample whose group has `in_group` of
            all `in_all` samples; numbers, or arrays of equal shape, elementwise.
        at_input: the share of f(x), which costs one more evaluation where it is not 0.
        least_groups: independent groups that the sampler must draw at least.
        transform: `(values (N,), kept (N,) of 0 and 1) -> (N,)`: what weights the scores in place of the
            values of one output; the estimate is then biased, and the N values are kept. None: the
            values themselves.
    """

    coefficients: Callable[[Any, Any], tuple[Any, Any]] = _zero
    at_input: float = 0.0
    least_groups: int = 1
    transform: Callable[[Array, Array], Array] | None = None


def _leave_one_out(in_group: Any, in_all: Any) -> tuple[Any, Any]:
    return -1.0 / (in_all - in_group), 1.0 / (in_all - in_group)


def _centered_ranks(values: Array, kept: Array) -> Array:
    ordered = jnp.sort(jnp.where(kept > 0, values, jnp.inf))
    count = kept.sum()
    below, up_to = (
        jnp.minimum(jnp.searchsorted(ordered, values, side=side).astype(values.dtype), count)
        for side in ("left", "right")  # of those left out, which are sorted as infinite, none is counted
    )
    rank = (below + up_to - count) / 2  # from −(count − 1) / 2 to (count − 1) / 2
    return jnp.where(jnp.isnan(values), values, rank / jnp.maximum(count - 1, 1))


none = Baseline()
"""b_n = 0: the plain estimator, whose variance grows with the square of the block's offset."""

at_input = Baseline(at_input=1.0)
"""b_n = f(x): one more evaluation; poor where f(x) is far from E[f(x + σ ε)], as it often is."""

leave_one_out = Baseline(_leave_one_out, least_groups=2)
"""b_n = mean of f over all samples outside the group of n (Kool et al. 2019, eq. 8, for groups of one).

Unbiased, because groups are independent, and free: no further evaluation of the block.
"""

centered_rank = Baseline(least_groups=2, transform=_centered_ranks)
"""Weighs each score with the rank of its value, from −½ to ½, equal values sharing theirs.

*Biased*: the gradient of another, scale-free objective, which no outlier and no monotone change of f moves
(Salimans et al. 2017, sec. 2.1; Wierstra et al. 2014, sec. 3.1). The value stays that of f.
"""
