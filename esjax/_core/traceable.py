"""The user's functions as JAX calls them: traced, on arrays; where they cannot be, an error says why."""

import re
from collections.abc import Callable
from typing import Any

import jax

from esjax._core import trees

_WRAP = "esjax.host.wrap"
_NO_NUMBERS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_NO_NUMBERS_TEXT = re.compile(
    r"Tracer\b(?!\(| has no attribute [a-z])|of concrete values|must be static int|static start/stop/step"
)
"""Found in errors of Python and of libraries, which name what they cannot take, and in some of JAX's.

("Tracer(" is a tracer's own text, which any error may quote; "has no attribute 'summ'" is a misspelling.)
"""


def checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, made to raise `ValueError` where JAX cannot trace it or it returns no arrays."""

    def call(*args: Any) -> Any:
        value = traceable(name, function)(*args)
        trees.check_arrays(value, f"the value of {name}", f"return arrays from {name}")
        return value

    return call


def traceable(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function`, made to raise `ValueError` where it needs the numbers of a traced array."""

    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            if _WRAP in str(error) or not _needs_numbers(error):  # or a function that it calls has said so
                raise
            raise ValueError(
                f"{name} is traced by JAX, once for all samples, when its arrays hold no numbers; use "
                "jnp.where in place of if, jax.numpy in place of NumPy, and neither float() nor .item(); let "
                "it close over flags and sizes, as functools.partial does; or have Python called through "
                f"{_WRAP}(python_fun, jax.ShapeDtypeStruct(shape, dtype))"
            ) from error

    return call


def refuse_axes_of_vmap(traced: Any) -> None:
    """Raises `ValueError` where `fun`, as a jaxpr, has collectives over an axis that `jax.vmap` names.

    Its value then depends on the inputs of other examples, whose cotangents and scores an estimator for one
    example does not see. (Axes of `jax.shard_map` are in the types of values, so JAX knows what to sum.)
    """
    names = {str(effect.name) for effect in traced.effects if hasattr(effect, "name")}
    if mapped := names - set(jax.sharding.get_abstract_mesh().manual_axes):
        raise ValueError(
            f"fun has a collective over the axis {min(mapped)!r} of jax.vmap, and its gradient would miss "
            "what other examples add; take the collective out of fun, or smooth a function of the whole batch"
        )


def _needs_numbers(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that a traced array has no numbers."""
    if error is None or isinstance(error, jax.errors.UnexpectedTracerError):
        return False
    is_jax = isinstance(error, _NO_NUMBERS) or _NO_NUMBERS_TEXT.search(str(error))
    return bool(is_jax) or _needs_numbers(error.__cause__)
