"""Which devices share the samples of `smooth`, whether they can, and arrays on meshes of explicit axes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_spec: Any = jax.sharding.PartitionSpec  # JAX gives these three no types
_reshard: Any = jax.sharding.reshard
_shape: Any = jax.ShapeDtypeStruct


class Shards(NamedTuple):
    """Devices that share the samples: equal runs of them, in the order of the mesh.

    Attributes:
        mesh: the mesh of the devices.
        axes: the mesh axes over which the samples are spread; along others the work is repeated.
        num_devices: how many shards there are.
    """

    mesh: Any
    axes: tuple[str, ...]
    num_devices: int


def shards_of(sharding: Any) -> Shards:
    """Returns the devices over which a sharding spreads the axis of samples.

    Raises:
        ValueError: it is not a `NamedSharding` of one axis.
    """
    spec: Any = getattr(sharding, "spec", ())
    if not isinstance(sharding, jax.sharding.NamedSharding) or len(spec) != 1 or spec[0] is None:
        raise ValueError(
            f"sharding={sharding!r} must place one axis, that of the samples; pass "
            'jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("samples")), of an axis of the mesh'
        )
    axes = spec[0] if isinstance(spec[0], tuple) else (spec[0],)
    # With explicit axes, values that were on the mesh could not be closed over in the next sum.
    mesh: Any = sharding.mesh.update(axis_types=(jax.sharding.AxisType.Auto,) * len(sharding.mesh.axis_names))
    return Shards(mesh, axes, math.prod(mesh.shape[axis] for axis in axes))


def check_fits(shards: Shards | None, num_samples: int, group_size: int) -> None:
    """Raises `ValueError` unless each device gets as many whole groups of samples as the others."""
    if shards is None:
        return
    if not jax.sharding.get_abstract_mesh().empty:
        raise ValueError(
            "sharding names its own mesh, and does not work inside jax.set_mesh, even of the same mesh; call "
            "the smoothed function outside of it"
        )
    if shards.num_devices == 1 or num_samples % (shards.num_devices * group_size) == 0:
        return
    unit = shards.num_devices * group_size
    groups = f", drawn in groups of {group_size}," if group_size > 1 else ""
    another = ", or a sampler of smaller groups, such as esjax.samplers.antithetic" if group_size > 2 else ""
    raise ValueError(
        f"num_samples={num_samples}{groups} cannot be shared equally by the {shards.num_devices} devices of "
        f"sharding; use num_samples={-(-num_samples // unit) * unit}{another}"
    )


def check_axes(shards: Shards | None, arrays: dict[str, Any]) -> None:
    """Raises `ValueError` for the first array that is placed on a mesh of explicit axes.

    Sums over devices would close over it, which is impossible where its type says where it is placed.
    """
    if shards is None:
        return
    explicit = jax.sharding.AxisType.Explicit
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        placed = jax.typeof(leaf).sharding
        if explicit in placed.mesh.axis_types:
            raise ValueError(
                f"{path[0].key}{jax.tree_util.keystr(path[1:])} is placed on a mesh of explicit axes; with "
                "sharding, make the mesh with jax.make_mesh(shape, names, "
                "axis_types=(jax.sharding.AxisType.Auto,) * len(names))"
            )


# --- arrays on explicit axes -------------------------------------------------------------------------


def explicit_mesh(tree: Any) -> Any:
    """Returns the mesh of explicit axes that an array of `tree` is placed on, or None where none is."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(tree))
    return next((mesh for mesh in meshes if jax.sharding.AxisType.Explicit in mesh.axis_types), None)


def automatic(function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function`; where arrays are placed on explicit axes, has JAX itself spread the work.

    Inside, placements are not part of types: what is flattened, joined or scanned need not say where it
    goes. The results are on every device; a derivative is placed as its argument is.
    """
    mesh = explicit_mesh(args)
    if mesh is None:
        return function(*args)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(function, out_sharding=_spec())(*args)


def shape_of(shapes: Callable[..., Any], *args: Any) -> Any:
    """Returns `shapes(*args)`, a pytree of `jax.ShapeDtypeStruct`, as if no array were placed anywhere.

    (Known values are ignored only where an array is placed on explicit axes.)
    """
    if explicit_mesh(args) is None:
        return shapes(*args)
    like = jax.tree.map(lambda leaf: _shape(jnp.shape(leaf), jnp.result_type(leaf)), args)
    return jax.eval_shape(lambda *args: jax.tree.map(jnp.zeros_like, shapes(*args)), *like)


def by_batch(function: Callable[..., Any], options: tuple[Any, ...], batch_ndim: int, *arrays: Any) -> Any:
    """Returns `function(*options, *arrays)`, batched over `batch_ndim` leading axes of the arrays.

    Where the batch axes of the first array are placed on explicit axes of the mesh, each device has its own
    examples and the results are placed likewise; only the other axes of the arrays are gathered.
    """
    if explicit_mesh(arrays) is None:
        return function(*options, *arrays)
    return _by_device(function, options, batch_ndim, *arrays)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_device(function: Callable[..., Any], options: tuple[Any, ...], batch_ndim: int, *arrays: Any) -> Any:
    mesh, spec = explicit_mesh(arrays), _spec(*jax.typeof(arrays[0]).sharding.spec[:batch_ndim])
    function = partial(function, *options)
    if all(axes is None for axes in spec):
        return automatic(function, *arrays)
    placed = [_reshard(array, jax.sharding.NamedSharding(mesh, spec)) for array in arrays]
    return jax.shard_map(function, mesh=mesh, in_specs=(spec,) * len(placed), out_specs=spec)(*placed)
