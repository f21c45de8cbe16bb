"""Which devices share the samples of `smooth`, and whether they can."""

import math
from typing import Any

import jax

from esjax._sampling import Shards


def shards(sharding: Any) -> Shards:
    """Returns the devices over which a sharding spreads the axis of samples.

    Raises:
        ValueError: it is no `NamedSharding` of one axis.
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
            "sharding names its mesh, and does not work inside jax.set_mesh of another or the same; call the "
            "smoothed function outside of it"
        )
    if shards.num_devices == 1 or num_samples % (shards.num_devices * group_size) == 0:
        return
    unit = shards.num_devices * group_size
    groups = f", drawn in groups of {group_size}" if group_size > 1 else ""
    another = ", or a sampler of smaller groups, such as esjax.samplers.antithetic" if group_size > 2 else ""
    raise ValueError(
        f"num_samples={num_samples}{groups}, cannot be shared equally by the {shards.num_devices} devices of "
        f"sharding; use num_samples={-(-num_samples // unit) * unit}{another}"
    )


def check_axes(shards: Shards | None, arrays: dict[str, Any]) -> None:
    """Raises `ValueError` for the first array that is placed on a mesh of explicit axes.

    Sums over devices would close over it, and cannot where its type says where it is.
    """
    if shards is None:
        return
    explicit = jax.sharding.AxisType.Explicit
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        placed = jax.typeof(leaf).sharding
        if explicit in placed.mesh.axis_types:
            raise ValueError(
                f"{path[0].key}{jax.tree_util.keystr(path[1:])} is placed on a mesh of explicit axes; with "
                "sharding, make the mesh by jax.make_mesh(shape, names, "
                "axis_types=(jax.sharding.AxisType.Auto,) * len(names))"
            )
