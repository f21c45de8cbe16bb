"""Choosing σ, the scale of the perturbations.

    found = esjax.sigma.calibrate(fun, key, x, *args, num_samples=64)  # a table, by print(found)

σ may also change from step to step: `smoothed(key, x, sigma=schedule(step))` for any function of the step,
such as a schedule of Optax; or be learned, by the gradient of `smoothed(key, x, sigma=jnp.exp(log_sigma))`.
"""

from esjax.sigma.calibration import Calibration, Optimizer, calibrate
from esjax.sigma.fan_in import by_fan_in
from esjax.sigma.logits import from_logits
from esjax.sigma.plotting import plot
from esjax.sigma.standardised import for_standardised

__all__ = [
    "Calibration",
    "Optimizer",
    "by_fan_in",
    "calibrate",
    "for_standardised",
    "from_logits",
    "plot",
]
