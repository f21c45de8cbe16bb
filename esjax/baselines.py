"""Baselines b_n: what is subtracted from the values f_n before they weight the scores s_n.

    ∇F ≈ Σ_n (f_n − b_n) s_n / (N σ)

A baseline that does not depend on sample n leaves the estimate unbiased, since E[s] = 0, and removes
the variance that a constant offset of f would add.
"""

from collections.abc import Callable
from typing import NamedTuple


class Baseline(NamedTuple):
    """A baseline that is affine in the values, so that one pass over the samples is enough.

    Attributes:
      coefficients: `(group_size, num_samples) -> (own, total)`, for a sample whose group has
        `group_size` members: b_n = own · Σ_{m in the group of n} f_m + total · Σ_m f_m. Raises
        `ValueError` where there are too few samples.
    """

    coefficients: Callable[[int, int], tuple[float, float]]


def _none(group_size: int, num_samples: int) -> tuple[float, float]:
    del group_size, num_samples
    return 0.0, 0.0


def _leave_one_out(group_size: int, num_samples: int) -> tuple[float, float]:
    others = num_samples - group_size
    if others < 1:
        raise ValueError(
            f"num_samples={num_samples} makes one independent group of {group_size}, and "
            "baseline=leave_one_out compares each group with the others; "
            f"use num_samples >= {2 * group_size}, or baseline=esjax.baselines.none"
        )
    return -1.0 / others, 1.0 / others


none = Baseline(_none)
"""b_n = 0: the plain estimator, whose variance grows with the square of the block's offset."""

leave_one_out = Baseline(_leave_one_out)
"""b_n = mean of f over all samples outside the group of n (Kool et al. 2019, eq. 8, for groups of one).

Unbiased, because groups are independent, and free: no further evaluation of the block.
"""
