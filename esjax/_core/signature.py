"""The signature that smoothed functions show."""

import inspect
from typing import Any


def _called(key: Any, x: Any, *args: Any, **sigma: Any) -> Any: ...


SIGNATURE = inspect.signature(_called)
"""That of `smoothed(key, x, *args, sigma=None)`, without the default.

The transformations of `flax.nnx` fill in defaults, and refuse those that are then passed by keyword.
"""
