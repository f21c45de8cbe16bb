"""esjax: gradients for the block of a JAX pipeline that has none, by evolution strategies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esjax._version import __version__

if TYPE_CHECKING:  # imported when they are first used, so that `import esjax` is quick
    from esjax import (
        baselines,
        blocks,
        controls,
        credit,
        decisions,
        diagnostics,
        exact,
        host,
        losses,
        noise,
        samplers,
        sigma,
    )
    from esjax.decisions import smooth_decisions
    from esjax.smoothing import smooth, smooth_weights

__all__ = [
    "__version__",
    "baselines",
    "blocks",
    "controls",
    "credit",
    "decisions",
    "diagnostics",
    "exact",
    "host",
    "losses",
    "noise",
    "samplers",
    "sigma",
    "smooth",
    "smooth_decisions",
    "smooth_weights",
]


_HOMES = {
    "smooth": "esjax.smoothing",
    "smooth_decisions": "esjax.decisions",
    "smooth_weights": "esjax.smoothing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in __all__:
        return import_module(f"esjax.{name}")
    raise AttributeError(f"module 'esjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
