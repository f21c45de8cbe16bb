"""Moments of what a block and its stand-in add to a gradient, from which a scale is fitted."""

from typing import Any, NamedTuple

import jax

Array = jax.Array


class Moments(NamedTuple):
    """Sums over the observations j of each half, in x or in σ.

    An observation is a sample, or an antithetic pair: F = Σ f_n s_n, E = Σ c_n s_n − σ ∂c_n and S = Σ s_n,
    of values less any offset. (Groups, which are what is independent, are too few: often there are only two.)

    Attributes:
        f: ΣF, (2, size).
        e: ΣE, (2, size).
        s: ΣS, (2, size).
        ff: ΣF², with credit (2, size), else over all coordinates (2, 1); and so are the others.
        fe: ΣFE.
        ee: ΣE².
        fs: ΣFS.
        es: ΣES.
        ss: ΣS².
    """

    f: Array
    e: Array
    s: Array
    ff: Array
    fe: Array
    ee: Array
    fs: Array
    es: Array
    ss: Array


def with_added(sums: Moments, df: Any, dc: Any) -> Moments:
    """Returns the sums for values with `df` and `dc` (2, 1 or size) added: F + df S and E + dc S."""
    return Moments(
        f=sums.f + df * sums.s,
        e=sums.e + dc * sums.s,
        s=sums.s,
        ff=sums.ff + 2 * df * sums.fs + df**2 * sums.ss,
        fe=sums.fe + dc * sums.fs + df * sums.es + df * dc * sums.ss,
        ee=sums.ee + 2 * dc * sums.es + dc**2 * sums.ss,
        fs=sums.fs + df * sums.ss,
        es=sums.es + dc * sums.ss,
        ss=sums.ss,
    )
