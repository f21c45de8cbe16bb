"""Values whose derivative is a rule's: an error in place of a silent 0 where JAX has lost the rule.

`jax.lax.scan` evaluates in place whatever `jax.custom_jvp` is in its body when it is linearised, and forgets
the rule; a second derivative would then be that of constants.
"""

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Array = jax.Array

_guarded: Any = Primitive("esjax_guarded")


def guarded(value: Array, *inputs: Array) -> Array:
    """Returns `value`, which has a derivative in `inputs` by a rule only; differentiating it raises.

    Raises:
        NotImplementedError: a derivative is asked where JAX has lost the rule.
    """
    return _guarded.bind(value, *inputs)


def _jvp(primals: Any, tangents: Any) -> Any:
    value_dot, *inputs_dot = tangents
    if not all(isinstance(tangent, ad.Zero) for tangent in inputs_dot):
        raise NotImplementedError(
            "second derivatives of a smoothed function do not go through jax.lax.scan, in which JAX loses "
            "rules of derivatives; use a Python loop, or first derivatives"
        )
    return _guarded.bind(*primals), value_dot


def _batch(args: Any, axes: Any) -> Any:
    return _guarded.bind(*args), axes[0]


_guarded.def_impl(lambda value, *inputs: value)
_guarded.def_abstract_eval(lambda value, *inputs: value)
mlir.register_lowering(_guarded, lambda context, value, *inputs: [value])
ad.primitive_jvps[_guarded] = _jvp
batching.primitive_batchers[_guarded] = _batch
