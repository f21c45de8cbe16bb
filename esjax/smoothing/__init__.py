"""`smooth`: a black box made differentiable by random perturbations of its input."""

from esjax.smoothing._smooth import Smoothed, smooth

__all__ = ["Smoothed", "smooth"]
