"""The Fenchel–Young loss of any solver, from samples of its answers.

Value and slopes are means over the same samples, and so outputs of one smoothed function. The slopes are what
the loss has for a derivative; theirs, in turn, are those of a smoothed function: by the score.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from esjax import baselines, samplers
from esjax._core import random, trees
from esjax._core.check import check_key, check_sigma
from esjax._core.rules import with_rule
from esjax._core.traceable import checked
from esjax._jaxpr.hoisting import hoisted
from esjax.losses import _refusals
from esjax.losses.perturbations import Perturbation, additive, multiplicative
from esjax.noise import Noise, normal
from esjax.smoothing import smooth

Array = jax.Array


def fenchel_young(
    solver: Callable[..., Any],
    *,
    sigma: Any,
    num_samples: int,
    noise: Noise = normal,
    perturbation: Perturbation = additive,
    sampler: samplers.Sampler = samplers.auto,
    chunk_size: int | None = None,
    sharding: jax.sharding.NamedSharding | None = None,
) -> Callable[..., Array]:
    r"""Makes the loss of a solver y*(θ) = argmax_y ⟨θ, y⟩ that is asked with noise, given good answers y.

        L(θ; y) = E[max_y' ⟨z, y'⟩ − ⟨z, y⟩],  z = θ + σ ε     value:     (1/N) Σ_n ⟨z_n, y_n − y⟩
        ∇L(θ; y) = E[y*(z)] − y                                gradient:  (1/N) Σ_n y_n − y

    with N = `num_samples` and y_n = y*(z_n) (Berthet et al. 2020, sec. 4). As E[z] = θ, this is the usual
    E[max ⟨z, y'⟩] − ⟨θ, y⟩, with no constant besides: *0 at best* for each y that the solver can answer with,
    where it always does so; for a mean of several answers, the best value is above 0. No sample is below 0.
    Both are unbiased. The Hessian, ∇E[y*(z)], comes from the noise's score, as do derivatives of higher
    order; for these the solver is asked again.

    For a solver that minimises: `fenchel_young(lambda theta: shortest(-theta), ...)(key, -costs, path)`.

    Args:
        solver: `solver(theta, *args)` → the y with the largest ⟨θ, y⟩, of the structure and shapes of θ:
            numbers or booleans. In JAX or, by `esjax.host.wrap`, in Python. It needs no derivative.
        sigma: σ > 0, the scale of the noise in units of θ (with `multiplicative`, as a share of θ): one
            number; or θ's structure with, for each leaf, one number or an array of the leaf's shape.
        num_samples: N ≥ 1, calls of the solver per call of the loss; few will do where batches are large.
        noise: the distribution of ε, from `esjax.noise`, with mean 0.
        perturbation: `additive`, or `multiplicative` for costs that must stay positive.
        sampler: how the N perturbations are drawn together, from `esjax.samplers`.
        chunk_size: as for `esjax.smooth`.
        sharding: as for `esjax.smooth`.

    Returns:
        `loss(key, theta, target, *args, sigma=None)` → (), in float32 or wider. θ is a pytree of floating
        arrays, the target y one of the same shapes; for a batch use `jax.vmap` with split keys. args are what
        else the solver needs, such as a graph: constants. `sigma` replaces σ for this call. Differentiable in
        θ, target and σ, to any order, by forward and reverse mode.

    Raises:
        ValueError: an option is out of range. When called: θ is not floating, or is 0 where noise is a
            factor; target, or the solver's answer, differs from θ in structure or shape; a derivative is
            asked for in args; or a value that is known (outside `jit`, `vmap` and `grad`) is below 0, because
            the target is not among the solver's answers, or the solver minimises.

    Examples:
        >>> import jax, jax.numpy as jnp, esjax
        >>> loss = esjax.losses.fenchel_young(
        ...     lambda theta: jax.nn.one_hot(theta.argmax(), 3), sigma=1.0, num_samples=4096
        ... )
        >>> theta, target = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0])
        >>> slope = jax.grad(loss, argnums=1)(jax.random.key(0), theta, target)  # exact: 0.605, −0.803, 0.197
        >>> print(f"{slope[1]:.1f}")
        -0.8
    """
    if not callable(solver):
        raise ValueError(
            f"solver={solver!r} is not callable; pass the function that finds the best y for theta"
        )
    options: dict[str, Any] = {"num_samples": num_samples, "noise": noise, "sampler": sampler}
    options |= {"chunk_size": chunk_size, "sharding": sharding}
    smooth(solver, sigma=sigma, **options)  # refuses what is out of range
    _refusals.check_perturbation(perturbation, noise)
    problem = _Problem(solver, perturbation, options)
    default = sigma
    program = jax.jit(partial(_program, problem))

    def fenchel_young_loss(key: Any, theta: Any, target: Any, *args: Any, sigma: Any = None) -> Array:
        check_key(key)
        trees.check_arrays((theta, target), "(theta, target)", "pass arrays")
        trees.check_args(args)
        scale = default if sigma is None else sigma
        check_sigma(scale)
        if perturbation == multiplicative:
            _refusals.check_no_zeros(theta)
        value: Array = program(key, theta, target, args, scale)
        random.consume(key)
        _refusals.check_not_negative(value, theta, target)
        return value

    return fenchel_young_loss


class _Problem(NamedTuple):
    """What is asked, and how: `solver(theta, *args)`, the perturbation, and options of `esjax.smooth`."""

    solver: Callable[..., Any]
    perturbation: Perturbation
    options: dict[str, Any]


class _Inputs(NamedTuple):
    """All arrays that the loss depends on.

    Attributes:
        key: its data.
        theta: pytree of floating arrays, float32 or wider.
        sigma: one number, or θ's structure.
        target: of θ's shapes and dtypes.
        args: of the solver.
        consts: traced values that the solver closes over.
    """

    key: Array
    theta: Any
    sigma: Any
    target: Any
    args: Any
    consts: list[Any]


class _Means(NamedTuple):
    """What one call estimates: the loss, and its slopes along θ and σ, in their shapes."""

    value: Array
    slopes: tuple[Any, Any]


# --- the loss and its derivatives --------------------------------------------------------------------


def _program(problem: _Problem, key: Any, theta: Any, target: Any, args: Any, sigma: Any) -> Array:
    theta, target, args, sigma = jax.tree.map(trees.canonical, (theta, target, args, sigma))
    trees.check_floating(theta, "theta", "convert it with .astype(jnp.float32)")
    wide = jax.tree.map(trees.widen, theta)
    _refusals.check_like("target", "give a known good answer, of that shape", target, wide)
    trees.check_sigma_fits(sigma, wide)
    call, answer, consts = hoisted(checked("solver", problem.solver), wide, *args)
    _refusals.check_like(
        "the answer of solver", "return y as theta, which ⟨theta, y⟩ is the worth of", answer, wide
    )
    data, as_key = random.data_of(key)
    dtype = trees.accumulator_dtype(wide)
    sigma = jax.tree.map(lambda leaf: leaf.astype(dtype), sigma)
    target = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), target, wide)
    inputs = _Inputs(data, wide, sigma, target, args, consts)
    means_of = partial(_means_of, problem, call, as_key)
    means, location = means_of(jax.lax.stop_gradient(inputs))
    value, slopes = means(location)
    return with_rule(value, partial(_loss_dot, means_of), (inputs, slopes))


def _loss_dot(means_of: "_MeansOf", primals: Any, tangents: Any) -> Array:
    """Returns ⟨∂L/∂θ, θ̇⟩ + ⟨∂L/∂σ, σ̇⟩ − ⟨θ, ẏ⟩."""
    (inputs, slopes), (inputs_dot, _) = primals, tangents
    if jax.tree.leaves((inputs_dot.args, inputs_dot.consts)):
        raise ValueError(
            "solver has no derivative in args, nor in what it closes over, and the loss is differentiated in "
            "them; make theta hold all that is learned, or use jax.lax.stop_gradient"
        )
    slopes = with_rule(slopes, partial(_slopes_dot, means_of), inputs)
    parts = [
        *_products(slopes[0], inputs_dot.theta),
        *_products(slopes[1], inputs_dot.sigma),
        *(-part for part in _products(inputs.theta, inputs_dot.target)),
    ]
    dtype = trees.accumulator_dtype(inputs.theta)
    return sum((part.astype(dtype) for part in parts), jnp.zeros((), dtype))


def _slopes_dot(means_of: "_MeansOf", inputs: _Inputs, tangents: _Inputs) -> Any:
    """Returns how the slopes move: with the density that samples are drawn from, and along each sample."""
    leaves, structure = jax.tree.flatten(inputs)
    moves = jax.tree.leaves(tangents, is_leaf=_is_none)
    moved = [number for number, tangent in enumerate(moves) if tangent is not None]

    def slopes(chosen: list[Array]) -> Any:
        replaced = dict(zip(moved, chosen, strict=True))
        both = [replaced.get(number, leaf) for number, leaf in enumerate(leaves)]
        means, location = means_of(jax.tree.unflatten(structure, both))
        found, _ = jax.vjp(means, location)  # after a reverse pass there are derivatives by either mode
        return found.slopes

    chosen, directions = ([each[number] for number in moved] for each in (leaves, moves))
    return jax.jvp(slopes, (chosen,), (directions,))[1]


def _products(slopes: Any, tangents: Any) -> list[Array]:
    """Returns the inner product of each leaf with its tangent, where it has one."""
    pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(tangents, is_leaf=_is_none), strict=True)
    return [(slope * tangent).sum() for slope, tangent in pairs if tangent is not None]


def _is_none(leaf: Any) -> bool:
    return leaf is None


# --- one smoothed function ---------------------------------------------------------------------------


_MeansOf = Callable[[_Inputs], tuple[Callable[[Any], _Means], Any]]


def _means_of(
    problem: _Problem, call: Callable[..., Any], as_key: Callable[[Array], Any], inputs: _Inputs
) -> tuple[Callable[[Any], _Means], Any]:
    """Returns means over samples of what each loses against the target, as a function of x, and x itself."""
    location = jax.tree.map(problem.perturbation.location, inputs.theta)
    options = problem.options
    dim = sum(leaf.size for leaf in jax.tree.leaves(location))
    is_compared = (
        options["sampler"](options["num_samples"], dim, options["noise"]).size < options["num_samples"]
    )
    smoothed = smooth(
        partial(_sample, problem.perturbation, call),
        sigma=1.0,
        baseline=baselines.leave_one_out if is_compared else baselines.none,  # of use to Hessians alone
        **options,
    )
    of_solver = inputs._replace(key=jnp.zeros(0))

    def means(location: Any) -> _Means:
        found: Any = smoothed(as_key(inputs.key), location, of_solver, sigma=inputs.sigma)
        return found

    return means, location


def _sample(perturbation: Perturbation, call: Callable[..., Any], perturbed: Any, inputs: _Inputs) -> _Means:
    """Returns ⟨z, y*(z) − y⟩ of one sample, and its derivatives in θ and σ with the answer held constant.

    `perturbed` is the location of θ, plus σ ε.
    """

    def eps_of(perturbed: Array, theta: Array, sigma: Array) -> Array:
        location = perturbation.location(theta)
        is_fixed = jnp.isinf(location)  # a mask, which no noise moves
        return jnp.where(is_fixed, 0, (perturbed - jnp.where(is_fixed, 0, location)) / sigma)

    eps = jax.tree.map(eps_of, perturbed, inputs.theta, _for_each_leaf(inputs.sigma, inputs.theta))

    def z_of(theta: Any, sigma: Any) -> Any:
        return jax.tree.map(perturbation.at, theta, _for_each_leaf(sigma, theta), eps)

    z, pull = jax.vjp(z_of, inputs.theta, inputs.sigma)
    answer = jax.lax.stop_gradient(call(inputs.consts, jax.lax.stop_gradient(z), *inputs.args))
    lost = jax.tree.map(lambda y, known_y: y.astype(known_y.dtype) - known_y, answer, inputs.target)
    worth = jax.tree.map(lambda z, each: jnp.where(each == 0, 0, z * each).sum(), z, lost)
    return _Means(trees.flatten(worth, trees.accumulator_dtype(worth)).sum(), pull(lost))


def _for_each_leaf(sigma: Any, theta: Any) -> Any:
    """Returns σ in the structure and dtypes of θ."""
    if jax.tree_util.all_leaves([sigma]) and jnp.ndim(sigma) == 0:
        return jax.tree.map(lambda leaf: sigma.astype(leaf.dtype), theta)
    return jax.tree.map(lambda each, leaf: each.astype(leaf.dtype), sigma, theta)
