"""esjax: gradients for the block of a JAX pipeline that has none, by evolution strategies."""

from esjax import baselines, blocks, decisions, diagnostics, exact, host, noise, samplers, sigma
from esjax._version import __version__
from esjax.decisions import smooth_decisions
from esjax.smoothing import smooth

__all__ = [
    "__version__",
    "baselines",
    "blocks",
    "decisions",
    "diagnostics",
    "exact",
    "host",
    "noise",
    "samplers",
    "sigma",
    "smooth",
    "smooth_decisions",
]
