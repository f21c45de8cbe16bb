"""σ for a classifier, from the spread of its first logits."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core.check import as_array, check_positive

Array = jax.Array


def from_logits(logits: Any, *, features: Any = None, factor: float = 10.0) -> Array:
    """Returns `factor` times the spread of a batch of *initial* logits, to be kept fixed.

    Logits outgrow it in the end, and what they get wrong then is out of reach: of three classes or more,
    better standardise them, and take the σ of `for_standardised`.

        σ = factor · max(spread of the logits, spread of the features)
        spread of the logits = sqrt(mean over examples and classes of (logit − mean of the example's logits)²)
        spread of the features = sqrt(mean over examples and features of (feature − its mean over examples)²)

    The second is the spread that logits would have if the last layer's weights had variance 1/H, as is
    usual. Where its initial weights are smaller, training leaves their scale within a few steps: logits soon
    reach beyond a σ that was taken from them alone.

    Accuracy does not change when logits and σ grow together, so a σ that follows the logits during
    training makes both run away. Take σ once, before the first step; the network's own growth then anneals.
    No factor alone keeps classes from being lost: centre the logits, as `esjax.train.models.Centred` does.

    Args:
        logits: (..., K), those of one batch from the untrained network.
        features: (B, H), what the last layer sees of that batch. None: the logits alone choose.
        factor: σ in units of that spread, > 0.

    Returns:
        Array (), in the logits' dtype.

    Raises:
        ValueError: `factor` is not > 0; there are fewer than two classes; `features` are not a floating
            matrix; or the spread, where it is known (not traced), is 0 or not finite.
    """
    logits = as_array("logits", logits)
    check_positive("factor", factor, "10 is a good one")
    if logits.ndim < 1 or logits.shape[-1] < 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits has dtype {logits.dtype} and shape {logits.shape}; "
            "give floating logits (..., K) of at least two classes"
        )
    spread = jnp.sqrt(jnp.mean(jnp.var(logits, -1)))
    if features is not None:
        features = as_array("features", features)
        if features.ndim != 2 or not jnp.issubdtype(features.dtype, jnp.floating):
            raise ValueError(
                f"features has dtype {features.dtype} and shape {features.shape}; give what the last layer "
                "sees, floating (B, H)"
            )
        usual = jnp.sqrt(jnp.mean(jnp.var(features, 0)))
        spread = jnp.maximum(spread, usual.astype(spread.dtype))
    if not isinstance(spread, jax.core.Tracer) and not (0 < float(spread) < math.inf):
        raise ValueError(
            f"logits have spread {float(spread)}, from which no sigma follows; give the logits of a "
            "network whose last layer is not initialised to zero, or choose sigma yourself"
        )
    return factor * spread
