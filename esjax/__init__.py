"""esjax: gradients for the block of a JAX pipeline that has none, by evolution strategies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from esjax._version import __version__
from esjax.smoothing import smooth

if TYPE_CHECKING:  # the rest is imported when it is first used, so that `import esjax` stays quick
    from esjax import baselines, blocks, decisions, diagnostics, exact, host, noise, samplers, sigma
    from esjax.decisions import smooth_decisions

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


def __getattr__(name: str) -> Any:
    if name == "smooth_decisions":
        return import_module("esjax.decisions").smooth_decisions
    if name in __all__:
        return import_module(f"esjax.{name}")
    raise AttributeError(f"module 'esjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
