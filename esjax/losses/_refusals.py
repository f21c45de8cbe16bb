"""What the losses ask of their arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esjax._core.arrays import as_floating
from esjax._core.check import as_given, known
from esjax.losses.perturbations import Perturbation
from esjax.noise import Noise, cauchy

Array = jax.Array


def check_perturbation(perturbation: Any, noise: Noise) -> None:
    if not isinstance(perturbation, Perturbation):
        raise ValueError(
            f"perturbation={perturbation!r} is not a Perturbation; use additive or "
            "multiplicative of esjax.losses"
        )
    if perturbation.noise is not None and noise != perturbation.noise:
        raise ValueError(
            "noise: this perturbation keeps the mean of theta with one noise only, its own; leave noise out"
        )
    if noise == cauchy:
        raise ValueError("noise=cauchy has no mean, and the loss none either; use esjax.noise.normal")


def check_like(name: str, remedy: str, found: Any, like: Any) -> None:
    """Raises `ValueError` unless `found` has the structure and shapes of `like`, and no complex numbers."""
    structures = [str(jax.tree.structure(each)) for each in (found, like)]
    if structures[0] != structures[1]:
        raise ValueError(f"{name} has structure {structures[0]}, and theta has {structures[1]}; {remedy}")
    pairs = zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(like), strict=True)
    for (path, leaf), wanted in pairs:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if leaf.shape != wanted.shape:
            raise ValueError(f"{where} has shape {leaf.shape}, and theta there has {wanted.shape}; {remedy}")
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise ValueError(f"{where} has dtype {leaf.dtype}; give real numbers or booleans")


def check_no_zeros(theta: Any) -> None:
    for leaf in jax.tree.leaves(theta):
        values = known(leaf)
        if values is not None and (values == 0).any():
            raise ValueError(
                "theta holds 0, which perturbation=multiplicative never moves; give costs other than 0, or "
                "use esjax.losses.additive"
            )


def check_not_negative(value: Array, theta: Any, target: Any) -> None:
    """Raises `ValueError` for a known value that is below 0 by more than rounding."""
    leaves = [known(leaf) for leaf in (value, *jax.tree.leaves((theta, target)))]
    if any(leaf is None for leaf in leaves):
        return
    found, *others = (np.asarray(leaf, np.float64) for leaf in leaves)
    half = len(others) // 2
    worth = sum(
        np.abs(y[y != 0] * z[y != 0]).sum() for z, y in zip(others[:half], others[half:], strict=True)
    )
    if found < -1e-3 * worth:
        raise ValueError(
            f"target is worth more to theta, by {-found:.3g}, than the best answers of solver: it is not "
            "among those that solver chooses from, or solver minimises; give a target that it could answer "
            "with, or negate, as in fenchel_young(lambda theta: solver(-theta), ...)(key, -costs, target)"
        )


def as_target(target: Any, like: Array, name: str, total: int | None) -> Array:
    """Returns the target in at least float32: of the shape of `like`, in [0, 1], and with the sum `total`."""
    target = as_floating("target", as_given("target", target))
    if target.shape != like.shape:
        remedy = "use jax.nn.one_hot(labels, K) for classes" if total == 1 else "give one number for each"
        raise ValueError(f"target has shape {target.shape}, and {name} has {like.shape}; {remedy}")
    values = known(target)
    if values is not None and not ((values >= 0) & (values <= 1)).all():
        wrong = values[~((values >= 0) & (values <= 1))].flat[0]
        raise ValueError(f"target holds {wrong}, which no mean of answers does; give numbers in [0, 1]")
    if values is not None and total is not None and (np.abs(values.sum(-1) - total) > 1e-2).any():
        wrong = values.sum(-1)[np.abs(values.sum(-1) - total) > 1e-2].flat[0]
        raise ValueError(f"target has the sum {wrong}, and an answer has {total}; give numbers with that sum")
    return target.astype(jnp.float64 if like.dtype == jnp.float64 else jnp.float32)
