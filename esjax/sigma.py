"""Choosing σ, the scale of the perturbations."""

import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def from_logits(logits: Any, *, factor: float = 10.0) -> Array:
    """Returns `factor` times the spread of a batch of *initial* logits, to be kept fixed.

        σ = factor · sqrt(mean over examples and classes of (logit − mean of the example's logits)²)

    Accuracy does not change when logits and σ grow together, so a σ that follows the logits during
    training makes both run away. Take σ once, before the first step. With factor 10 (and 30) no class
    was lost in training; with factor 1 one was in most runs. The network's own growth then anneals.

    Args:
        logits: (..., K), those of one batch from the untrained network.
        factor: σ in units of that spread, > 0.

    Returns:
        Array (), in the logits' dtype.

    Raises:
        ValueError: `factor` is not > 0; there are fewer than two classes; or the spread, where it is
            known (not traced), is 0 or not finite.
    """
    logits = jnp.asarray(logits)
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"factor={factor} must be a finite number > 0; 10 is a good one")
    if logits.ndim < 1 or logits.shape[-1] < 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits has dtype {logits.dtype} and shape {logits.shape}; "
            "give floating logits (..., K) of at least two classes"
        )
    centred = logits - logits.mean(-1, keepdims=True)
    spread = jnp.sqrt(jnp.mean(centred**2))
    if not isinstance(spread, jax.core.Tracer) and not (0 < float(spread) < math.inf):
        raise ValueError(
            f"logits have spread {float(spread)}, from which no sigma follows; give the logits of a "
            "network whose last layer is not initialised to zero, or choose sigma yourself"
        )
    return factor * spread
