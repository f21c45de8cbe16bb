"""Objects to differentiate, and ways to do so, for test_sequences.py."""

import importlib
import sys
import types
from collections.abc import Callable
from functools import cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KEYS = {
    "threefry": jax.random.key,
    "rbg": partial(jax.random.key, impl="rbg"),
    "raw": jax.random.PRNGKey,
}
X_SIGMA = ("x", "sigma")
X_SIGMA_ARGS = ("x", "sigma", "args")
SUBSETS = [("x",), ("sigma",), ("args",), X_SIGMA, ("x", "args"), ("sigma", "args"), X_SIGMA_ARGS]


def _vectors(x, sigma, args):
    return {"x": np.float32(x), "sigma": np.float32(sigma), "args": np.float32(args)}


POINTS = [_vectors([0.3, -0.5], 0.7, [0.5, 1.5]), _vectors([0.1, 0.0], 0.4, [1.0, -0.8])]
DIRECTION = _vectors([1.0, -0.5], 0.3, [0.7, 2.0])


# --- objects ------------------------------------------------------------------------------------------


def _package():
    """Returns esjax imported anew, whose functions were never traced: those of modules too."""
    own = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "esjax"}
    rooms = ("smoothing", "samplers", "credit", "decisions", "exact", "host")
    try:
        return types.SimpleNamespace(**{room: importlib.import_module(f"esjax.{room}") for room in rooms})
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "esjax"]:
            del sys.modules[name]
        sys.modules.update(own)


def _terms(x, args):
    return jnp.where(x > 0.2, jnp.sin(args), args**2)


def _sum(x, args):
    return _terms(x, args).sum()


def _several(x, args):
    return {"terms": _terms(x, args), "step": jnp.floor(2 * x).max() * args[0]}


def _faulty(x, args):
    return jnp.where(x[1] > 0.2, jnp.nan, _sum(x, args))


def _count(x, args):
    return np.float32(np.sum(np.where(x > 0.2, args, 0)))


def _smooth_steps(x, args):
    return jnp.where(x > 0, jax.nn.sigmoid(3 * x - 0.6) * jnp.sin(args), x * args**2).sum()


LINE = (lambda x, args: (x * args).sum(), lambda x, sigma, args: (x * args).sum())


def _smoothed(package, block, **options):
    iid = package.samplers.iid
    return package.smoothing.smooth(block, sigma=1.0, num_samples=8, sampler=iid, **options)


def _smooth(block, package, **options):
    smoothed = _smoothed(package, block, **options)
    return lambda key, x, sigma, args: (smoothed(key, x, args, sigma=sigma), ())


def _without_credit(package):
    """Elsewhere credit is found: in `_sum`, each of two terms reads one coordinate."""
    return _smooth(_sum, package, credit=package.credit.none)


def _declared(package):
    return _smooth(_terms, package, credit=package.credit.declared(package.credit.elementwise))


def _with_info(block, package):
    smoothed = _smoothed(package, block)
    return lambda key, x, sigma, args: smoothed.with_info(key, x, args, sigma=sigma)


def _both_ways(block, package, **options):
    """With a report and without; a stand-in is fitted in a second pass over the samples, or in the first."""
    smoothed = _smoothed(package, block, **options)

    def call(key, x, sigma, args):
        value, report = smoothed.with_info(key, x, args, sigma=sigma)
        return (value, smoothed(key, x, args, sigma=sigma)), report

    return call


def _black_box(package):
    return _smooth(package.host.wrap(_count, jax.ShapeDtypeStruct((), jnp.float32)), package)


def _decided(decisions, args):
    return jnp.sin(args)[decisions].sum() + args.prod() * decisions.max().astype(args.dtype)


def _decisions(decision, estimator, num_samples, package):
    smoothed = package.decisions.smooth_decisions(
        _decided,
        decision=getattr(package.decisions, decision),
        sigma=1.0,
        num_samples=num_samples,
        estimator=getattr(package.decisions, estimator),
    )
    return lambda key, x, sigma, args: (smoothed(key, x, args, sigma=sigma), ())


def _exact(package):
    def call(key, x, sigma, args):
        label = jnp.int32(0)
        return (package.exact.accuracy(x, label, sigma), package.exact.argmax_probs(x, sigma)), ()

    return call


def _exact_metrics(package):
    def call(key, x, sigma, args):
        relevance = jnp.arange(x.size) % 3
        listed = package.exact.ndcg(x, relevance.astype(jnp.float32), sigma, k=2)
        counted = package.exact.f1(x, relevance % 2, sigma) + package.exact.matthews(x, relevance % 2, sigma)
        return (listed, counted, package.exact.auc(x, relevance % 2, sigma)), ()

    return call


class Kind(NamedTuple):
    """A kind of objects.

    Attributes:
        new: `package -> call`, a new one as `call(key, x, sigma, args) -> (values, report)`.
        inputs: what it has derivatives in.
        has_forward_mode: whether it answers `jax.jvp`.
    """

    new: Callable[[Any], Callable[..., Any]]
    inputs: tuple[str, ...] = X_SIGMA_ARGS
    has_forward_mode: bool = False


KINDS = {
    "one output": Kind(partial(_smooth, _sum)),
    "without credit": Kind(_without_credit),
    "declared credit": Kind(_declared),
    "chunks": Kind(partial(_smooth, _sum, chunk_size=3)),
    "several outputs": Kind(partial(_smooth, _several)),
    "discard": Kind(partial(_smooth, _faulty, discard=jnp.isnan)),
    "control": Kind(partial(_smooth, _sum, control=LINE)),
    "with_info": Kind(partial(_with_info, _several)),
    "with_info and without": Kind(partial(_both_ways, _sum)),
    "stand-in, with_info and without": Kind(partial(_both_ways, _sum, control=_smooth_steps)),
    "score": Kind(partial(_decisions, "argmax", "score", 8), has_forward_mode=True),
    "local_expectation": Kind(
        partial(_decisions, "threshold", "local_expectation", 4), has_forward_mode=True
    ),
    "enumeration": Kind(partial(_decisions, "argmax", "enumeration", None), has_forward_mode=True),
    "host.wrap": Kind(_black_box, X_SIGMA),
    "exact": Kind(_exact, X_SIGMA, has_forward_mode=True),
    "exact metrics": Kind(_exact_metrics, X_SIGMA, has_forward_mode=True),
}


def new_loss(kind):
    """Returns a new object as `loss(key, chosen, rest) -> (value (), leaves of the report)`.

    It is differentiated in `chosen`; `rest` has all inputs.
    """
    call = KINDS[kind].new(_package())

    def loss(key, chosen, rest):
        values, report = call(key, **(rest | chosen))
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(values)])
        return flat @ jnp.cos(jnp.arange(flat.size, dtype=flat.dtype)), jax.tree.leaves(report)

    return loss


def get_key(impl, number=0):
    return KEYS[impl](number)


def _two_keys(impl):
    return jax.vmap(KEYS[impl])(jnp.arange(2, dtype=jnp.int32))


def some(inputs, names):
    return {name: inputs[name] for name in names}


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


# --- transformations of `loss` ------------------------------------------------------------------------


def _gradient(loss):
    """Returns `(key, chosen, rest) -> ((value, report), {name: gradient})`."""
    return jax.value_and_grad(loss, 1, has_aux=True)


def _scanned(loss):
    def mean(key, chosen, rest):
        def step(total, _):
            value, report = loss(key, chosen, rest)
            return total + value, report

        total, reports = jax.lax.scan(step, jnp.float32(0), length=2)
        return total / 2, jax.tree.map(lambda leaf: leaf[1], reports)

    return mean


def _branched(loss):
    def of_constants(key, chosen, rest):
        return loss(key, jax.lax.stop_gradient(chosen), rest)

    return lambda *inputs: jax.lax.cond(inputs[2]["sigma"] > 0, loss, of_constants, *inputs)


FIRST = {
    "grad": _gradient,
    "jit": lambda loss: jax.jit(_gradient(loss)),
    "grad of jit": lambda loss: _gradient(jax.jit(loss)),
    "checkpoint": lambda loss: _gradient(jax.checkpoint(loss)),
    "jit of checkpoint": lambda loss: jax.jit(_gradient(jax.checkpoint(loss))),
    "scan": lambda loss: _gradient(_scanned(loss)),
    "jit of scan of checkpoint": lambda loss: jax.jit(_gradient(_scanned(jax.checkpoint(loss)))),
    "branch": lambda loss: jax.jit(_gradient(_branched(loss))),
}


def _hessian(loss):
    """Returns `(key, chosen, rest) -> {name: {name: second derivative}}`, compiled: it is much to trace."""
    return jax.jit(lambda *inputs: jax.hessian(loss, 1, has_aux=True)(*inputs)[0])


def along(hessian, names):
    """Returns {name: Σ_n hessian[name][n] direction[n]}, as a Jacobian of the gradient gives it."""

    def product(name):
        parts = [jnp.tensordot(hessian[name][n], DIRECTION[n], DIRECTION[n].ndim) for n in names]
        return reduce(jnp.add, parts)

    return {name: product(name) for name in names}


def _transposed(hessian):
    """Mixed second derivatives may depend on their order where each is an estimate."""
    return {n: {name: hessian[name][n].T for name in hessian} for n in hessian}


def _hessian_along(loss, key, chosen, rest):
    return along(_hessian(loss)(key, chosen, rest), chosen)


def linearized(loss, key, chosen, rest):
    return jax.linearize(lambda chosen: _gradient(loss)(key, chosen, rest)[1], chosen)[1]


def _jvp_of_gradient(loss, key, chosen, rest):
    def gradient(chosen):
        return _gradient(loss)(key, chosen, rest)[1]

    return jax.jvp(gradient, (chosen,), (some(DIRECTION, chosen),))[1]


def _gradient_of_gradient(loss, key, chosen, rest):
    def slope(chosen):
        gradients = _gradient(loss)(key, chosen, rest)[1]
        return reduce(jnp.add, [jnp.vdot(DIRECTION[name], gradients[name]) for name in chosen])

    return jax.grad(slope)(chosen)


def _jitted(transformation):
    return lambda loss, *inputs: jax.jit(partial(transformation, loss))(*inputs)


def _hessian_of_scan(loss, *inputs):
    return _hessian_along(_scanned(loss), *inputs)


SECOND = {
    "hessian": _hessian_along,
    "hessian of scan": _hessian_of_scan,
    "jvp of grad": _jvp_of_gradient,
    "jit of jvp of grad": _jitted(_jvp_of_gradient),
    "jit of grad of grad": _jitted(_gradient_of_gradient),
}


def second_derivatives(how, hessian, names):
    """Returns what that one of `SECOND` does of a Hessian."""
    return along(_transposed(hessian) if how == "jit of grad of grad" else hessian, names)


def _kept_vjp(loss, key, chosen, rest):
    pull = jax.vjp(lambda chosen: loss(key, chosen, rest)[0], chosen)[1]
    return lambda: pull(jnp.float32(1))[0]


def _kept_vjp_of_jit(loss, key, chosen, rest):
    pull = jax.jit(lambda chosen: jax.vjp(lambda chosen: loss(key, chosen, rest)[0], chosen)[1])(chosen)
    return lambda: pull(jnp.float32(1))[0]


KEPT = {"vjp": _kept_vjp, "vjp of jit": _kept_vjp_of_jit}


def two_calls(loss, impl, names, others):
    """Returns the gradients of two calls in one program, each in inputs of its own."""

    def both(chosen, others):
        first, _ = loss(get_key(impl), chosen, POINTS[0])
        return first + loss(get_key(impl, 1), others, POINTS[1])[0]

    return jax.jit(jax.grad(both, (0, 1)))(some(POINTS[0], names), some(POINTS[1], others))


OVER = {"keys": (1, 0), "points": (0, 1), "both": (1, 1)}
"""Number of the second key and of the second point."""


def mapped(loss, impl, over, names):
    """Returns what `_gradient` does, for two keys, two points, or both at once."""
    key, point = OVER[over]
    keys = _two_keys(impl) if key else get_key(impl)
    rest = stacked(*POINTS) if point else POINTS[0]
    axes = [0 if number else None for number in (key, point, point)]
    return jax.jit(jax.vmap(_gradient(loss), axes))(keys, some(rest, names), rest)


def _next(loss, key, inputs):
    return inputs["x"] + loss(key, {}, inputs)[0] / 10


def recurrent(loss, impl, chosen, *, compiled):
    """Returns a value and its gradients, where each call's x is what the last one made of it."""

    def total(chosen):
        inputs = POINTS[0] | chosen

        def step(x, key):
            return _next(loss, key, inputs | {"x": x}), None

        return jax.lax.scan(step, inputs["x"], _two_keys(impl))[0].sum()

    found = jax.value_and_grad(total)
    return (jax.jit(found) if compiled else found)(chosen)


# --- what new objects give ----------------------------------------------------------------------------


@cache
def _new_program(kind, impl):
    """Of a new object, traced once: at any key of that kind and at any point it is the same."""
    del impl
    return jax.jit(_gradient(new_loss(kind)))


@cache
def new_gradient(kind, impl, key=0, point=0):
    """Returns what `_gradient` does, in all inputs."""
    rest = POINTS[point]
    return _new_program(kind, impl)(get_key(impl, key), some(rest, KINDS[kind].inputs), rest)


@cache
def new_hessian(kind, impl):
    """Returns what `_hessian` does, in all inputs."""
    return _hessian(new_loss(kind))(get_key(impl), some(POINTS[0], KINDS[kind].inputs), POINTS[0])


@cache
def new_recurrent(kind, impl):
    """Returns what `recurrent` does, in all inputs, by one object for each call."""
    losses = [new_loss(kind), new_loss(kind)]

    def total(chosen):
        inputs = POINTS[0] | chosen
        for number, loss in enumerate(losses):
            inputs = inputs | {"x": _next(loss, get_key(impl, number), inputs)}
        return inputs["x"].sum()

    return jax.jit(jax.value_and_grad(total))(some(POINTS[0], KINDS[kind].inputs))


@cache
def new_mapped(kind, impl, over, names):
    """Returns what `mapped` does; where JAX promises nothing of keys under `vmap`, in the same inputs."""
    if impl == "rbg":
        return mapped(new_loss(kind), impl, over, names)
    alone = [new_gradient(kind, impl), new_gradient(kind, impl, *OVER[over])]
    return stacked(*[some_of(each, names) for each in alone])


def some_of(found, names):
    """Leaves those gradients that were asked for."""
    value, gradients = found
    return value, some(gradients, names)
