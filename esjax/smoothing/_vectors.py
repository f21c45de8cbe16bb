"""A call of a smoothed function, with pytrees and options, as a problem on vectors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core import chunks, placement, random, trees
from esjax._core.traceable import checked
from esjax._jaxpr.hoisting import hoisted
from esjax.controls import Samples
from esjax.samplers import Groups
from esjax.smoothing import _derivatives, _options, _terms
from esjax.smoothing._control import check_same
from esjax.smoothing._inputs import Args
from esjax.smoothing._options import Functions, Options
from esjax.smoothing._perturbing import dense
from esjax.smoothing._problem import Informs, Problem
from esjax.smoothing._terms import Terms

Array = jax.Array

_FLOATING = "convert it with .astype(jnp.float32), or pass it in args"


def estimate(
    fun: Callable[..., Any],
    options: Options,
    informs: Informs | None,
    key: Any,
    x: Any,
    sigma: Any,
    *args: Any,
) -> tuple[Any, Any]:
    """Estimates on vectors what `smooth` promises for pytrees."""
    key, x, sigma = jax.tree.map(trees.canonical, (key, x, sigma))
    trees.check_floating(x, "x", _FLOATING)
    scales = trees.check_sigma_fits(sigma, x)
    data, as_key = random.data_of(key)
    data, x, scales, args = chunks.varying_alike((data, x, scales, args))
    problem, leaves, unflatten = _problem(fun, options, informs, as_key, data, x, args)
    if chunks.varies_more(leaves, data):  # because of what fun or an option closes over
        data, x, scales, args = chunks.varying_like((data, x, scales, args), leaves)
        problem, leaves, unflatten = _problem(fun, options, informs, as_key, data, x, args)
    vectors = trees.flatten(x, problem.dtype), trees.flatten_sigma(scales, x, problem.dtype)
    value, info = _derivatives.estimate(problem, data, (*vectors, *leaves))  # no forward mode: use jax.grad
    if isinstance(info, Samples):
        info = _restored(info, x, unflatten)
    return unflatten(value), jax.lax.stop_gradient(info)


def _restored(seen: Samples, x: Any, unflatten: Callable[[Array], Any]) -> Samples:
    """Returns samples with the structure of x, widened, and of the values."""
    unflatten_x = jax.vmap(trees.unflattener(jax.tree.map(trees.widen, x)))
    return Samples(
        unflatten_x(seen.points), unflatten_x(seen.scores), jax.vmap(unflatten)(seen.values), seen.kept
    )


def _problem(
    fun: Callable[..., Any],
    options: Options,
    informs: Informs | None,
    as_key: Callable[[Array], Any],
    data: Array,
    x: Any,
    args: tuple[Any, ...],
) -> tuple[Problem, Args, Callable[[Array], Any]]:
    """Returns the problem, the arrays that it takes besides x and σ, and what restores the values' structure.

    Any traced values that `fun` and the options close over are among those arrays, so that a derivative rule
    may be called where those tracers are no longer valid. Narrow floating arrays are widened, so that
    gradients in them are summed, and x is perturbed, in float32.
    """
    wide = jax.tree.map(trees.widen, x)
    call, values, fun_consts = hoisted(checked("fun", fun), wide, *args)
    trees.check_floating(values, "the value of fun", "return floating arrays from fun")
    dtype = trees.accumulator_dtype((wide, values))
    dim, num_values = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (x, values))
    any_x, any_values = (chunks.varying_like(jnp.zeros(size, dtype), data) for size in (dim, num_values))
    groups = groups_of(options, dim)
    functions, consts = _options.functions(options, groups, as_key(data), dim, any_values)
    if options.control is not None:
        control, found, consts["control"] = hoisted(checked("control", options.control), wide, *args)
        check_same("control", found, values)
        functions = functions._replace(control=control)
    of_options, block, leaves, constant_args = of_leaves(functions, consts, call, fun_consts, args)
    unflatten_x = trees.unflattener(wide)
    of_vector = partial(_of_vector, block, unflatten_x, dtype)
    peels = of_options.transform is None
    terms = _terms.of_block(of_vector, options.credit, any_x, num_values, leaves, peels=peels)
    stand_in = None
    if of_options.control is not None:
        of_control = partial(_of_vector, of_options.control, unflatten_x, dtype)
        stand_in = _terms.of_stand_in(of_control, terms, any_x, num_values, leaves)
    evaluated, drawn = _chunks(options, groups.size, _width(dim, terms))
    problem = problem_of(
        options,
        of_options,
        groups.size,
        fun=terms.fun,
        combine=terms.combine,
        readers=terms.readers,
        perturbing=dense(of_options.draw, of_options.score),
        is_uniform=chunks.vary_alike((data, leaves)),
        constant_args=constant_args,
        as_key=as_key,
        evaluated_at_once=evaluated,
        drawn_at_once=drawn,
        informs=informs,
        dim=dim,
        num_terms=terms.num_terms,
        num_values=num_values,
        dtype=dtype,
        control=stand_in,
    )
    return problem, leaves, trees.unflattener(own_shapes(fun, values, wide, x, args))


def _of_vector(
    block: Callable[[Args, Any], Any], unflatten_x: Callable[[Array], Any], dtype: Any, z: Array, leaves: Args
) -> Array:
    """Returns a block's values (num_values,) at the vector z (dim,)."""
    return trees.flatten(block(leaves, unflatten_x(z)), dtype)


def problem_of(options: Options, functions: Functions, group_size: int, **parts: Any) -> Problem:
    """Returns the problem of options, whose functions are of the leaves, with its other `parts`."""
    return Problem(
        coefficients=functions.coefficients,
        at_input=functions.at_input,
        averages=_options.averages(options.baseline, group_size, options.num_samples),
        transform=functions.transform,
        discard=functions.discard,
        group_size=group_size,
        num_samples=options.num_samples,
        shards=options.shards,
        **parts,
    )


def of_leaves(
    functions: Functions,
    consts: dict[str, list[Any]],
    call: Callable[..., Any],
    fun_consts: list[Any],
    args: tuple[Any, ...],
) -> tuple[Functions, Callable[[Args, Any], Any], Args, frozenset[int]]:
    """Gathers args, and what `fun` and the options close over, into one tuple of arrays: the leaves.

    Returns:
        The functions of the options and `fun(·, *args)`, as functions of the leaves; the leaves; and the
        places of those inputs (x, σ, *leaves) in which no derivative is taken.
    """
    given, treedef = jax.tree.flatten((args, fun_consts, consts))
    leaves, restore = trees.plain([trees.canonical(leaf) for leaf in given])

    def parts(leaves: Args) -> Any:
        return jax.tree.unflatten(treedef, restore(leaves))

    def of_option(name: str, function: Callable[..., Any] | None) -> Any:
        if function is None:
            return None
        return lambda leaves, *arrays: function(parts(leaves)[2][name], *arrays)

    def block(leaves: Args, x: Any) -> Any:
        args, fun_consts, _ = parts(leaves)
        return call(fun_consts, x, *args)

    def stand_in(control: Callable[..., Any], leaves: Args, x: Any) -> Any:
        args, _, consts = parts(leaves)
        return control(consts["control"], x, *args)

    is_constant = jax.tree.map(lambda _: False, (args, fun_consts, consts))
    for name in ("draw", "score", "discard", "transform"):
        is_constant[2][name] = [True] * len(consts[name])
    constant_args = frozenset((2 + np.flatnonzero(jax.tree.leaves(is_constant))).tolist())
    of_options = Functions(*map(of_option, functions._fields, functions))
    if functions.control is not None:
        of_options = of_options._replace(control=partial(stand_in, functions.control))
    return of_options, block, leaves, constant_args


def own_shapes(fun: Callable[..., Any], values: Any, wide: Any, x: Any, args: tuple[Any, ...]) -> Any:
    """Returns the shapes and dtypes of `fun(x, *args)`, where `values` are those of the widened x."""
    is_narrow = any(a.dtype != b.dtype for a, b in zip(*map(jax.tree.leaves, (x, wide)), strict=True))
    return jax.eval_shape(fun, x, *args) if is_narrow else values


def groups_of(options: Options, dim: int) -> Groups:
    """Returns the groups; raises `ValueError` where they do not fit what compares or shares them."""
    groups = options.sampler(options.num_samples, dim, options.noise)
    _options.check_groups(options, groups)
    placement.check_fits(options.shards, options.num_samples, groups.size)
    return groups


def _width(dim: int, terms: Terms) -> int:
    """Returns how many numbers a sample holds: its noise, its terms, and what pairs of both are gathered."""
    pairs = terms.readers.num_pairs
    return max(dim, terms.num_terms, pairs if pairs < terms.num_terms * dim else 0, 1)


def _chunks(options: Options, group_size: int, width: int) -> tuple[int, int]:
    """Returns how many samples to evaluate at once, and for how many to hold ε: whole groups."""
    num_samples, chunk_size = options.num_samples, options.chunk_size
    if options.shards is not None:
        num_samples //= options.shards.num_devices
    if chunk_size is not None:
        return chunk_size, min(-(-chunk_size // group_size) * group_size, num_samples)
    drawn = chunks.at_once(num_samples, width, group_size)
    return drawn, drawn
