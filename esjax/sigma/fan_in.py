"""σ for each leaf of a network's weights, from how many inputs are summed."""

import math
from typing import Any

import jax
import numpy as np

from esjax._core import trees
from esjax._core.check import check_positive


def by_fan_in(params: Any, scale: float, *, vectors: float | None = None, out_axis: int = -1) -> Any:
    """Returns one σ for each leaf, `scale` over the root of its fan-in, for `smooth_weights` and `smooth`.

        σ = scale / sqrt(fan-in),   fan-in = number of entries / length of out_axis      of matrices, kernels
        σ = vectors, or else scale / 3                                                   of vectors, numbers

    Of h W with noise σ ε on W, each entry has noise of standard deviation σ ‖h‖ = scale · rms(h): the wider
    layer is moved no more than the narrow one. It is the scaling of initial weights (LeCun et al. 1998,
    "Efficient BackProp", sec. 4.6), so `scale` is in units of usual initial weights; 0.1 to 0.5 is a start.
    Noise of a bias moves all examples alike, and with a logit's goes a whole class: it should be less.

    Args:
        params: pytree of arrays. Of leaves with several axes, `out_axis` counts outputs and all others
            inputs: take layers that are stacked for a `scan`, and tables of embeddings, apart.
        scale: σ₀ > 0, the same for all leaves.
        vectors: σ > 0 of vectors and numbers, in their unit. None: `scale` / 3.
        out_axis: -1 for (in, out) and HWIO, as in Flax; 0 for (out, in) and OIHW, as in Equinox.

    Returns:
        The structure of `params`, with a float for each leaf.

    Raises:
        ValueError: `scale` or `vectors` is not > 0; a leaf with several axes has no `out_axis`, or no
            entries; or a leaf is not an array.

    Examples:
        >>> import jax.numpy as jnp, esjax
        >>> esjax.sigma.by_fan_in({"w": jnp.ones((25, 10)), "b": jnp.ones(10)}, 0.5, vectors=0.2)
        {'b': 0.2, 'w': 0.1}
    """
    check_positive("scale", scale, "0.1 to 0.5 is a start")
    of_vectors = scale / 3 if vectors is None else vectors
    check_positive("vectors", of_vectors, "a third of scale is a start")
    trees.check_arrays(params, "params", "pass the arrays alone")

    def of_leaf(path: Any, leaf: Any) -> float:
        shape = np.shape(leaf)
        return float(of_vectors) if len(shape) < 2 else scale / math.sqrt(_fan_in(path, shape, out_axis))

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def _fan_in(path: Any, shape: tuple[int, ...], out_axis: int) -> int:
    where = f"params{jax.tree_util.keystr(path)} has shape {shape}"
    if not -len(shape) <= out_axis < len(shape):
        raise ValueError(
            f"out_axis={out_axis}, but {where}; give an axis that all leaves of two and more have"
        )
    if 0 in shape:
        raise ValueError(f"{where}, without entries; leave it out")
    return math.prod(shape) // shape[out_axis]
