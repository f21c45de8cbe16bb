"""Decisions on perturbed scores, each with its law: the largest, what is above 0, an order."""

import jax
import numpy as np

from esjax import exact
from esjax._core.check import as_array, check_count, known
from esjax.decisions import _laws
from esjax.decisions._laws import Law
from esjax.exact import _arguments
from esjax.noise import Noise, gumbel, normal

Array = jax.Array


def argmax(x: Array, sigma: Array, noise: Noise | None = None) -> Law:
    """Chooses the largest of the perturbed scores: x (..., K) → class indices (...) int32.

        d = argmax(x + σ ε)

    Chances are those of `esjax.exact.argmax_probs`: by quadrature for normal noise (the default), a softmax
    for Gumbel noise. −inf masks a class.

    Raises:
        ValueError: as for `esjax.exact.argmax_probs`.
    """
    _arguments.check_scores("x", x, sigma, of_classes=True)
    return _laws.categorical(exact.argmax_probs(x, sigma, noise=noise or normal))


def threshold(x: Array, sigma: Array, noise: Noise | None = None) -> Law:
    """Decides whether the perturbed score is above 0: x (...) → 0 or 1 (...) int32.

        d = isgreater(x + σ ε, 0)

    Chances are those of `esjax.exact.threshold_probs`, for normal (the default), logistic or Gumbel noise.
    For a threshold other than 0, subtract it from x.

    Raises:
        ValueError: as for `esjax.exact.threshold_probs`.
    """
    _, x, sigma = _arguments.check_scores("x", x, sigma)
    return _laws.categorical(_laws.both(x, sigma, noise or normal))


def ranking(x: Array, sigma: Array, noise: Noise | None = None, *, k: int | None = None) -> Law:
    """Ranks items by their perturbed scores: x (..., n) → indices of the k best, in order, (..., k) int32.

    With Gumbel noise, the only one supported, this is the Plackett–Luce law:
    log p(order) = Σ_{r ≤ k} (s_r − log Σ_{q ≥ r} exp s_q), s = x / σ in that order (Plackett 1975; Yellott
    1977). The best item comes first. k=None ranks all n, and the place of each item is `jnp.argsort(order)`.
    If a block sees only the first k places, as NDCG@k does, its gradient has far less variance where only
    those are decided: pass `decision=functools.partial(esjax.decisions.ranking, k=10)`.

    Raises:
        ValueError: `noise` is not Gumbel; x is not a floating array (..., n) of finite scores, n ≥ 2; σ does
            not fit; or `k` is out of range.
    """
    if noise is not None and noise != gumbel:
        raise ValueError(f"noise={noise!r} has no known law of rankings; use esjax.noise.gumbel, or None")
    x = as_array("x", x)
    if x.ndim < 1 or x.shape[-1] < 2:
        raise ValueError(f"x has shape {x.shape}, and ranking needs (..., n) of at least two items")
    scores = known(x)
    if scores is not None and not np.isfinite(scores).all():
        raise ValueError("x holds NaN or infinite scores; give ranking finite ones")
    _, x, sigma = _arguments.check_scores("x", x, sigma, of_classes=True)
    k = x.shape[-1] if k is None else check_count("k", k)
    if k > x.shape[-1]:
        raise ValueError(f"k={k} is more than the {x.shape[-1]} items; use fewer, or None")
    return _laws.plackett_luce(x, sigma, k)
