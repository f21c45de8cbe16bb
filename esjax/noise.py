"""Noise distributions μ: how ε is drawn, and the score that turns values of a block into a gradient.

Every coordinate of ε is drawn by itself. E[s²] is the variance that the score brings into a gradient:

| noise | mean | variance | E[s²] | symmetric |
|---|---|---|---|---|
| `normal` | 0 | 1 | 1 | yes |
| `logistic` | 0 | π²/3 | 1/3 | yes |
| `laplace` | 0 | 2 | 1 | yes |
| `gumbel` (centred) | 0 | π²/6 | 1 | no |
| `cauchy` | none | none | 1/2 | yes |
| `triangular` | 0 | 1/6 | infinite | yes |

`laplace` and `triangular` have a density with a kink. Gradients in x and σ are right, but second derivatives
would need the derivative of the score at the kink, which autodiff does not see: they raise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from esjax._core import random
from esjax._core.rules import with_rule

__all__ = [
    "Noise",
    "cauchy",
    "gumbel",
    "laplace",
    "logistic",
    "normal",
    "triangular",
]

Array = jax.Array


class Noise(NamedTuple):
    """A distribution of independent, identically distributed coordinates ε.

    Attributes:
        sample: `(key, shape, dtype) -> Array` of that shape.
        score: s(ε) = −∇ log μ(ε), elementwise, same shape and dtype as ε.
        icdf: the inverse of the cumulative distribution function, elementwise, from (0, 1) to ℝ.
        symmetric: whether ε and −ε have the same distribution; `samplers.antithetic` needs it.
    """

    sample: Callable[[Any, tuple[int, ...], Any], Array]
    score: Callable[[Array], Array]
    icdf: Callable[[Array], Array]
    symmetric: bool

    def __reduce__(self) -> Any:
        """Pickles a noise of this module by its name, so that another process gets the same one."""
        name = next((name for name in __all__ if globals().get(name) is self), None)
        return name or (Noise, tuple(self))


# --- drawing by inversion ---------------------------------------------------------------------------


def _by_inversion(icdf: Callable[[Array], Array]) -> Callable[[Any, tuple[int, ...], Any], Array]:
    """Returns the `sample` of a noise: icdf(u), u uniform on the midpoints of a grid inside (0, 1).

    The grid has spacing 2⁻²³ in float32 and 2⁻⁵² in float64 and is its own mirror image, so that no
    draw is infinite and no tail is longer than the other.
    """

    def sample(key: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        half_spacing = float(np.finfo(np.dtype(dtype)).eps) / 2
        return icdf(random.uniform(key, shape, dtype) + half_spacing)

    return sample


def _mirrored(quantile: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Returns the `icdf` of a symmetric noise from its `quantile` on (0, 1/2]; 1 − u is exact above 1/2."""

    def icdf(u: Array) -> Array:
        lower = u < 0.5
        eps = quantile(jnp.where(lower, u, 1 - u))
        return jnp.where(lower, eps, -eps)

    return icdf


def _kinked(name: str, score: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Returns `score` with a derivative that raises, since that of a jump would silently be wrong."""

    def refuse(eps: Array, eps_dot: Array) -> Array:
        del eps, eps_dot
        raise ValueError(
            f"noise={name} has first derivatives only, because its density has a kink; for Hessians use "
            "smooth noise such as esjax.noise.normal or esjax.noise.logistic"
        )

    return lambda eps: with_rule(score(jax.lax.stop_gradient(eps)), refuse, eps)


# --- normal -----------------------------------------------------------------------------------------


def _identity(eps: Array) -> Array:
    return eps


normal = Noise(sample=random.normal, score=_identity, icdf=ndtri, symmetric=True)
"""Standard normal noise, N(0, 1) in each coordinate: s(ε) = ε."""


# --- logistic ---------------------------------------------------------------------------------------


def _logistic_score(eps: Array) -> Array:
    return jnp.tanh(eps / 2)


def _logistic_icdf(u: Array) -> Array:
    return jnp.log(u) - jnp.log1p(-u)


logistic = Noise(
    sample=_by_inversion(_logistic_icdf), score=_logistic_score, icdf=_logistic_icdf, symmetric=True
)
"""Standard logistic noise, density 1 / (4 cosh²(ε/2)): s(ε) = tanh(ε/2), which is bounded."""


# --- laplace ----------------------------------------------------------------------------------------


def _laplace_quantile(u: Array) -> Array:
    return jnp.log(2 * u)


_laplace_icdf = _mirrored(_laplace_quantile)

laplace = Noise(
    sample=_by_inversion(_laplace_icdf),
    score=_kinked("laplace", jnp.sign),
    icdf=_laplace_icdf,
    symmetric=True,
)
"""Standard Laplace noise, density exp(−|ε|) / 2: s(ε) = sign(ε), which is bounded. First derivatives only."""


# --- gumbel -----------------------------------------------------------------------------------------


def _gumbel_score(eps: Array) -> Array:
    return -jnp.expm1(-eps - np.euler_gamma)


def _gumbel_icdf(u: Array) -> Array:
    return -jnp.log(-jnp.log(u)) - np.euler_gamma


gumbel = Noise(sample=_by_inversion(_gumbel_icdf), score=_gumbel_score, icdf=_gumbel_icdf, symmetric=False)
"""Centred Gumbel noise: a standard Gumbel draw less its mean, Euler's γ = 0.577..., so that E[ε] = 0.

Its cumulative distribution function is exp(−exp(−ε − γ)), and s(ε) = 1 − exp(−ε − γ). The shift does not
change an argmax: P(argmax(x + σε) = k) = softmax(x/σ)_k, as for the standard Gumbel distribution.
"""


# --- cauchy -----------------------------------------------------------------------------------------


def _cauchy_score(eps: Array) -> Array:
    return 2 * eps / (1 + eps**2)


def _cauchy_quantile(u: Array) -> Array:
    return -1 / jnp.tan(np.pi * u)


_cauchy_icdf = _mirrored(_cauchy_quantile)

cauchy = Noise(sample=_by_inversion(_cauchy_icdf), score=_cauchy_score, icdf=_cauchy_icdf, symmetric=True)
"""Standard Cauchy noise, density 1 / (π (1 + ε²)): s(ε) = 2ε / (1 + ε²), which is bounded.

It has no mean: F(x) exists for blocks that grow more slowly than |x|, bounded ones above all.
"""


# --- triangular -------------------------------------------------------------------------------------


def _triangular_score(eps: Array) -> Array:
    return jnp.sign(eps) / (1 - jnp.abs(eps))


def _triangular_quantile(u: Array) -> Array:
    return jnp.sqrt(2 * u) - 1


_triangular_icdf = _mirrored(_triangular_quantile)

triangular = Noise(
    sample=_by_inversion(_triangular_icdf),
    score=_kinked("triangular", _triangular_score),
    icdf=_triangular_icdf,
    symmetric=True,
)
"""Triangular noise, density 1 − |ε| on [−1, 1]: s(ε) = sign(ε) / (1 − |ε|). First derivatives only.

For blocks that must not be asked outside x ± σ. The price: E[s²] is infinite (∫ 1 / (1 − |ε|) dε diverges),
so that gradients are unbiased but have no finite variance, and no number of samples tames them.
"""
