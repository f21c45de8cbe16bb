"""`smooth` makes a black box differentiable by random perturbations of x, `smooth_weights` a network."""

from esjax.smoothing._smooth import Smoothed, smooth
from esjax.smoothing._smooth_weights import SmoothedWeights, WeightsReport, smooth_weights

__all__ = ["Smoothed", "SmoothedWeights", "WeightsReport", "smooth", "smooth_weights"]
