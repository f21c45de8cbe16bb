"""`smooth_decisions`: a block that sees scores only through decisions, made differentiable in the scores."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import esjax.noise
from esjax._core import chunks, placement, trees
from esjax._core.check import check_count, check_key, check_num_samples, check_sigma, one_of
from esjax._core.signature import SIGNATURE
from esjax._core.traceable import checked, refuse_axes_of_vmap, traceable
from esjax.decisions._laws import Law
from esjax.decisions.estimators import Estimator, score
from esjax.noise import Noise

Array = jax.Array
Decision = Callable[[Array, Array, Noise | None], Law]

_DECISIONS = ("argmax", "threshold", "ranking")
_ESTIMATORS = ("score", "local_expectation", "enumeration")


def smooth_decisions(
    fun: Callable[..., Any],
    *,
    decision: Decision,
    sigma: Any,
    num_samples: int | None = None,
    estimator: Estimator = score,
    noise: Noise | None = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Smooths a block that sees scores only through decisions, by perturbing the scores.

        F(x) = E[fun(d, *args)],   d = decision(x + σ ε),   ε ~ noise

    F is what `esjax.smooth` makes of the same pipeline, but its gradient has far less variance. For macro-F1
    of 256 examples and 10 classes, at 2,560 evaluations, its relative squared error is 0.3 with `score` and
    0.01 with `local_expectation`; with `esjax.smooth` it is 2.

    Args:
        fun: `fun(decisions, *args)`: an int32 array and any pytrees → a pytree of floating arrays. Any
            black box that is pure: the smoothed function is compiled once for arguments of given shapes and
            dtypes, as by `jax.jit`. For many examples of one decision each, `jax.vmap` the smoothed function
            with split keys; a metric of a batch, such as F1, takes the decisions of the whole batch.
        decision: `esjax.decisions.argmax`, `threshold` or `ranking`.
        sigma: σ > 0, the scale of the noise in units of x: (), or what broadcasts to one for each decision:
            x's shape (without the last axis for `argmax` and `ranking`).
        num_samples: N ≥ 1, sampled decisions per call; at least 2 for `score`; left out for `enumeration`.
        estimator: `esjax.decisions.score`, `local_expectation` or `enumeration`; each says how many
            evaluations of `fun` it takes.
        noise: distribution of ε. None: normal, and Gumbel for `ranking`.
        chunk_size: evaluations of `fun` at once. None: what fits a CPU's cache, or keeps an accelerator
            busy. It does not change the draws.

    Returns:
        `smoothed(key, x, *args, sigma=None)`, with the structure and shapes of `fun(decisions, *args)`.
        `key` is a JAX PRNG key, consumed by the call; x (...) floating. `sigma` replaces σ for this call.
        Derivatives in x, σ and args are unbiased, of every order, by forward and reverse mode.

    Raises:
        ValueError: an option is out of range; or, when called, x is not a floating array, the values are not
            floating, σ does not fit x, or `fun` differentiates with respect to decisions, or needs numbers
            that JAX's traced arrays do not have.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> hits = esjax.smooth_decisions(
        ...     lambda classes, labels: jnp.mean(classes == labels),
        ...     decision=esjax.decisions.argmax,
        ...     sigma=1.0,
        ...     num_samples=1,
        ...     estimator=esjax.decisions.local_expectation,
        ... )
        >>> logits, labels = jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([1, 0])
        >>> gradient = jax.grad(hits, argnums=1)(jax.random.key(0), logits, labels)
        >>> print(f"{gradient[0, 1]:.4f}")  # φ(1 / √2) / (2 √2), with no sampling error
        0.1098
    """
    _check_functions(fun, decision, estimator, noise)
    check_sigma(sigma)
    num_samples = None if num_samples is None else check_num_samples(num_samples)
    chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
    fun = checked("fun", fun)
    default_sigma = sigma

    @partial(jax.jit, static_argnums=(0, 1))
    def program(treedef: Any, shapes: tuple[Any, ...], key: Any, x: Array, sigma: Array, *args: Any) -> Any:
        num_values = sum(shape.size for shape in shapes)

        def estimate(key: Any, x: Array, sigma: Array, *args: Any) -> Any:
            def block(decisions: Array) -> Array:
                return trees.flatten(fun(decisions, *args), x.dtype)

            at_once = chunk_size or max(chunks.floats_at_once() // max(x.size, num_values), 1)
            law = traceable("decision", decision)(x, sigma, noise)
            values = estimator(key, law, block, num_samples, at_once)
            return trees.unflattener(jax.tree.unflatten(treedef, shapes))(values)

        return placement.automatic(estimate, key, x, sigma, *args)

    def shape_of_values(key: Any, x: Array, sigma: Array, args: Any) -> Any:
        return _shape_of_values(fun, _decided(decision, noise, key, x, sigma), args)

    def smoothed(key: Any, x: Any, *args: Any, sigma: Any = None) -> Any:
        check_key(key)
        x, sigma = _scores(x), _scale(default_sigma if sigma is None else sigma)
        trees.check_args(args)
        shape = placement.shape_of(shape_of_values, key, x, sigma, args)
        dtype = trees.accumulator_dtype((x, shape))
        shapes, treedef = jax.tree.flatten(shape)
        return program(treedef, tuple(shapes), key, x.astype(dtype), sigma.astype(dtype), *args)

    vars(smoothed)["__signature__"] = SIGNATURE
    return smoothed


def _check_functions(fun: Any, decision: Any, estimator: Any, noise: Any) -> None:
    if not callable(fun):
        raise ValueError(f"fun={fun!r} is not callable; pass the function to smooth")
    for name, value, names in (("decision", decision, _DECISIONS), ("estimator", estimator, _ESTIMATORS)):
        if not callable(value):
            raise ValueError(f"{name}={value!r} is not callable; {one_of('decisions', names, value)}")
    if noise is not None and not isinstance(noise, Noise):
        remedy = one_of("noise", esjax.noise.__all__, noise)
        raise ValueError(f"noise={noise!r} is not a Noise; {remedy}")


def _scores(x: Any) -> Array:
    """Returns x in at least float32."""
    trees.check_arrays(x, "x", "give one array of scores")
    if not jax.tree_util.all_leaves([x]):
        raise ValueError(f"x is a {type(x).__name__}; give one array of scores, such as jnp.stack makes")
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"x has dtype {array.dtype}; give the scores that decide, as floats, not the decisions themselves"
        )
    if not array.size:
        raise ValueError(f"x has shape {array.shape}, with nothing to decide; leave empty batches out")
    return trees.widen(array)


def _scale(sigma: Any) -> Array:
    check_sigma(sigma)
    if not jax.tree_util.all_leaves([sigma]):
        raise ValueError(f"sigma is a {type(sigma).__name__}; give one number, or one for each decision")
    return jnp.asarray(sigma)


def _decided(decision: Decision, noise: Noise | None, key: Any, x: Array, sigma: Array) -> Any:
    """Returns the decisions' shape and dtype; known values of x are looked at, not traced."""

    def decide(key: Any) -> Array:
        try:
            law = traceable("decision", decision)(x, sigma.astype(x.dtype), noise)
        except TypeError as error:
            raise ValueError(
                f"decision={decision!r} is not a function (x, sigma, noise) -> Law ({error}); use one of "
                "esjax.decisions, such as argmax"
            ) from error
        if not isinstance(law, Law):
            raise ValueError(f"decision={decision!r} returns a {type(law).__name__}; return a decisions.Law")
        return law.decisions(law.draw(key))

    return jax.eval_shape(decide, key)


def _shape_of_values(fun: Callable[..., Any], decisions: Any, args: tuple[Any, ...]) -> Any:
    """Returns the shapes and dtypes of what `fun` returns; `fun` sees the values of known args."""
    try:
        closed, shape = jax.make_jaxpr(lambda decisions: fun(decisions, *args), return_shape=True)(decisions)
    except TypeError as error:
        if "grad requires" not in str(error) and "requires real- or complex" not in str(error):
            raise
        raise ValueError(
            "fun asks for a derivative in its decisions, which are whole numbers; use only their values in "
            "fun, or smooth a function of scores by esjax.smooth"
        ) from error
    trees.check_floating(shape, "the value of fun", "return floating arrays from fun")
    refuse_axes_of_vmap(closed)
    return shape
