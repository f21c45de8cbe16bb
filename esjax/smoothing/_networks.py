"""A call of a function smoothed in its weights, as a problem on vectors whose noise is of low rank."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax._core import chunks, random, trees
from esjax._core.traceable import checked
from esjax._jaxpr import cuts, splitting
from esjax._jaxpr.hoisting import hoisted
from esjax.smoothing import _credit, _derivatives, _low_rank, _options, _vectors
from esjax.smoothing._inputs import Args
from esjax.smoothing._low_rank import Factors, Layout
from esjax.smoothing._options import Options
from esjax.smoothing._problem import Informs, Problem
from esjax.smoothing._sampled_network import SampledNetwork

Array = jax.Array

_FLOATING = "convert it with .astype(jnp.float32), or pass it in args"
_MOST_DRAWN = 8
"""Noise of at most so many times the samples that are evaluated at once is held at once."""
_LEAST_EVALUATED = 16
"""Samples evaluated at once, if they hold no more than as many times what `chunks.floats_at_once` allows:
fewer cost more than the cache saves. (Measured: convolutions, 4 or 2 samples at once, 1.6 and 2.2 times.)"""


class Found(NamedTuple):
    """What a call finds: the value, the report on the gradient or None, and which weights became matrices."""

    value: Any
    report: Any
    matrices: tuple[str, ...]


def estimate(
    fun: Callable[..., Any],
    options: Options,
    rank: int,
    informs: Informs | None,
    key: Any,
    params: Any,
    sigma: Any,
    *args: Any,
) -> Found:
    """Estimates on vectors what `smooth_weights` promises for pytrees."""
    key, params, sigma = jax.tree.map(trees.canonical, (key, params, sigma))
    trees.check_floating(params, "params", _FLOATING)
    scales = check_sigma_fits(sigma, params)
    data, as_key = random.data_of(key)
    data, params, scales, args = chunks.varying_alike((data, params, scales, args))
    wide = jax.tree.map(trees.widen, params)
    call, values, fun_consts = hoisted(checked("fun", fun), wide, *args)
    if chunks.varies_more(fun_consts, data):  # because of what fun closes over
        data, wide, scales, args = chunks.varying_like((data, wide, scales, args), fun_consts)
        call, values, fun_consts = hoisted(checked("fun", fun), wide, *args)
    trees.check_floating(values, "the value of fun", "return floating arrays from fun")
    dtype = trees.accumulator_dtype((wide, values))
    names, shapes, structure = _named(wide)

    def block(params: Sequence[Array], args: Any, consts: Any) -> Array:
        return trees.flatten(call(consts, jax.tree.unflatten(structure, params), *args), dtype)

    program = jax.make_jaxpr(block)(jax.tree.leaves(wide), args, fun_consts)
    layout, whole = _laid_out(program, names, shapes, rank)
    network = SampledNetwork(program, layout, [leaf.dtype for leaf in jax.tree.leaves(wide)], dtype)
    x, sigmas = trees.flatten(wide, dtype), trees.flatten_sigma(scales, wide, dtype)
    problem, leaves = _problem(options, network, informs, as_key, data, args, fun_consts, (x, sigmas))
    value, report = _derivatives.estimate(problem, data, (x, sigmas, *leaves))
    own = _vectors.own_shapes(fun, values, wide, params, args)
    return Found(trees.unflattener(own)(value), jax.lax.stop_gradient(report), (*network.matrices, *whole))


def check_sigma_fits(sigma: Any, params: Any) -> Any:
    """Returns σ as one number or a list of one for each leaf; raises `ValueError` for anything else."""
    scales = trees.check_sigma_fits(sigma, params)
    if isinstance(scales, list):
        for path, leaf in jax.tree_util.tree_leaves_with_path(sigma):
            if jnp.ndim(leaf):
                raise ValueError(
                    f"sigma{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, and noise of low rank "
                    "has one scale for a whole leaf; give one number for each leaf, or one for all"
                )
    return scales


def _named(tree: Any) -> tuple[list[str], list[tuple[int, ...]], Any]:
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [f"params{jax.tree_util.keystr(path)}" for path, _ in pairs]
    return names, [leaf.shape for _, leaf in pairs], structure


# --- which noise each array has ----------------------------------------------------------------------


def _laid_out(
    program: Any, names: list[str], shapes: list[tuple[int, ...]], rank: int
) -> tuple[Layout, list[str]]:
    """Lays the noise out: of low rank for what a product takes, where that draws fewer numbers.

    Returns:
        The layout, and lines that say which other arrays have several axes.
    """
    is_weight = [number < len(shapes) for number in range(len(program.in_avals))]
    found = cuts.cuts(program, is_weight)
    _check_rank(names, shapes, found, rank)
    fewer = [_if_fewer(*each, rank) for each in zip(shapes, found, strict=True)]
    whole = [
        f"{name} {list(shape)} in full: no product takes it"
        for name, shape, cut in zip(names, shapes, found, strict=True)
        if cut is None and sum(size > 1 for size in shape) > 1
    ]
    return _low_rank.layout(names, shapes, fewer, rank), whole


def _if_fewer(shape: tuple[int, ...], cut: Any, rank: int) -> Any:
    """Returns the cut of an array where noise of low rank draws fewer numbers than noise in full."""
    if cut is None:
        return None
    _, rows, columns = _low_rank.sizes_of(shape, cut)
    return cut if rank * (rows + columns) < rows * columns else None


def _check_rank(names: list[str], shapes: list[tuple[int, ...]], found: list[Any], rank: int) -> None:
    ranks = {
        name: min(_low_rank.sizes_of(shape, cut or cuts.default(shape))[1:])
        for name, shape, cut in zip(names, shapes, found, strict=True)
        if len(shape) >= 2
    }
    if not ranks:
        raise ValueError(
            f"params has only vectors and numbers ({', '.join(names)}), so there is nothing to perturb by "
            "noise of low rank; use esjax.smooth"
        )
    name, largest = max(ranks.items(), key=lambda pair: pair[1])
    if rank > largest:
        raise ValueError(
            f"rank={rank} is above that of every matrix in params (the largest is {largest}, of {name}); use "
            f"rank<={largest}, or esjax.smooth, whose noise is of full rank"
        )


# --- the problem --------------------------------------------------------------------------------------


def _problem(
    options: Options,
    network: SampledNetwork,
    informs: Informs | None,
    as_key: Callable[[Array], Any],
    data: Array,
    args: Any,
    fun_consts: list[Any],
    inputs: tuple[Array, Array],
) -> tuple[Problem, Args]:
    """Returns the problem, and the arrays that it takes: args, consts, and all that no noise reaches."""
    x, sigma = inputs
    layout = network.layout
    groups = _vectors.groups_of(options, layout.dim_odd)
    any_values = chunks.varying_like(jnp.zeros(network.num_values, network.dtype), data)
    functions, consts = _options.functions(options, groups, as_key(data), layout.dim_odd, any_values)
    of_options, block, own, constant_args = _vectors.of_leaves(
        functions, consts, lambda consts, _, *args: (args, consts), fun_consts, args
    )
    evaluated, drawn = _chunks(options, groups.size, layout, network)
    rest = jax.tree.leaves(block(own, None))
    shared = network.shared(*jax.lax.stop_gradient((x, sigma)), rest, evaluated)
    of_shared, restore = trees.plain([trees.canonical(each) for each in shared])
    num_own = len(own)
    fun = _evaluating(network, lambda leaves: jax.tree.leaves(block(leaves, None)), num_own, restore)

    def of_own(function: Callable[..., Any] | None) -> Any:
        return None if function is None else lambda leaves, *arrays: function(leaves[:num_own], *arrays)

    leaves = (*own, *of_shared)
    of_options = _options.Functions(*map(of_own, of_options))
    problem = _vectors.problem_of(
        options,
        of_options,
        groups.size,
        fun=fun,
        combine=None,
        readers=_credit.everyone(network.num_values, layout.dim),
        perturbing=_low_rank.low_rank(layout, of_options.draw, groups.size),
        is_uniform=chunks.vary_alike((data, leaves)),
        constant_args=constant_args,
        as_key=as_key,
        evaluated_at_once=evaluated,
        drawn_at_once=drawn,
        informs=informs,
        dim=layout.dim,
        num_terms=network.num_values,
        num_values=network.num_values,
        dtype=network.dtype,
    )
    return problem, leaves


def _evaluating(
    network: SampledNetwork,
    rest_of: Callable[[Args], list[Array]],
    num_own: int,
    restore: Callable[[Args], list[Array]],
) -> Callable[[Any, Args], Array]:
    """Returns `(z, leaves) -> values`, for z a vector or one sample's `Factors`.

    `jax.vmap` over the latter evaluates all samples together.

    Args:
        network: the block.
        rest_of: returns the block's inputs other than weights, from its own leaves.
        num_own: how many leaves are the block's own; the others are all that no noise reaches.
        restore: returns the latter as `SampledNetwork.shared` made them.
    """

    @jax.custom_batching.custom_vmap
    def of_sample(drawn: Factors, shared: Args) -> Array:
        twice = jax.tree.map(lambda row: jnp.stack([row, row]), drawn)  # for two it is traced already
        return network.values(twice, restore(shared))[0]

    @of_sample.def_vmap
    def of_samples(axis_size: int, in_batched: Any, drawn: Factors, shared: Args) -> tuple[Array, bool]:
        del axis_size, in_batched
        return network.values(drawn, restore(shared)), True

    def fun(z: Any, leaves: Args) -> Array:
        if isinstance(z, Factors):
            return of_sample(z, leaves[num_own:])
        (found,) = splitting.run(network.program, *network.weights(z), *rest_of(leaves[:num_own]))
        return found

    return fun


def _chunks(options: Options, group_size: int, layout: Layout, network: SampledNetwork) -> tuple[int, int]:
    """Returns how many samples to evaluate at once, and for how many to hold noise: whole groups."""
    num_samples = options.num_samples // (1 if options.shards is None else options.shards.num_devices)
    floats = chunks.floats_at_once()
    width = min(network.width, max(floats // _LEAST_EVALUATED, network.width // _LEAST_EVALUATED))
    evaluated = options.chunk_size or chunks.at_once(num_samples, width, group_size)
    drawn = chunks.at_once(num_samples, layout.dim_odd + layout.dim_even, group_size)
    unit = math.lcm(evaluated, group_size)
    return evaluated, min(max(min(drawn, _MOST_DRAWN * evaluated) // unit, 1) * unit, num_samples)
