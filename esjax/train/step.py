"""One step of training, and evaluation: pure functions of an explicit state."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from esjax.train import models
from esjax.train.checks import require_callable
from esjax.train.held_out import Kept, Weights
from esjax.train.objectives import Objective, Result

Array = jax.Array
Batch = tuple[Any, Any]  # images (B, H, W, C), labels (B,)

_PREDICTED_AT_ONCE = 1000
"""Images evaluated together, so that a larger test set needs no more memory."""


class State(NamedTuple):
    """What the next step needs.

    Attributes:
        step: () int32, steps taken.
        params: the network's trainable variables, an `nnx.State`.
        variables: its others, such as running means of batch normalisation, an `nnx.State`.
        opt_state: the optimiser's state.
        kept: the weights that have done best on held-out examples; None if none are held out.
    """

    step: Array
    params: Any
    variables: Any
    opt_state: Any
    kept: Kept | None = None

    @property
    def chosen(self) -> "State":
        """The state with the weights that training is for: those kept, or else the newest."""
        return self if self.kept is None else self.with_weights(self.kept.weights)

    @property
    def offered(self) -> "State":
        """The state with the weights that its epoch offers: their running mean, or else the newest."""
        return self if self.kept is None else self.with_weights(self.kept.mean)

    @property
    def weights(self) -> Weights:
        """The newest weights."""
        return Weights(self.params, self.variables)

    def with_weights(self, weights: Weights) -> "State":
        """Returns the state with other weights."""
        return self._replace(params=weights.params, variables=weights.variables)


class Metrics(NamedTuple):
    """What a person wants to see of a step.

    Attributes:
        loss: (), the objective on the batch, before the update.
        accuracy: (), share of the batch that the network, unperturbed, gets right.
        gradient_norm: (), Euclidean, of the gradient in all parameters.
        signal_to_noise: (), of the gradient in the batch's logits; NaN where it was not sampled.
        class_counts: (K,), examples of each class.
        class_gradients: (K,), sum over each class's examples of B ‖∂loss/∂logits_b‖.
    """

    loss: Array
    accuracy: Array
    gradient_norm: Array
    signal_to_noise: Array
    class_counts: Array
    class_gradients: Array


class Trainer(NamedTuple):
    """A network, its objective and its optimiser, as functions of a state.

    Attributes:
        step: jitted `(state, batch, key) -> (state, metrics)`.
        logits: jitted `(state, images (B, H, W, C)) -> logits (B, K)`, in the network's evaluation mode.
    """

    step: Callable[[State, Batch, Any], tuple[State, Metrics]]
    logits: Callable[[State, Any], Array]


def make_trainer(
    network: nnx.Module, objective: Objective, optimizer: optax.GradientTransformation
) -> tuple[Trainer, State]:
    """Turns a Flax network into pure functions and the state that they start from.

    Args:
        network: any `nnx.Module` from images (B, H, W, C) to logits (B, K); it stays as it is.
        objective: `(key, logits (B, K), labels (B,)) -> (loss (), report or None)`.
        optimizer: any optimiser of Optax.

    Raises:
        ValueError: an argument is of another kind; or, at a step, the objective returns something else.
    """
    if not isinstance(network, nnx.Module):
        raise ValueError(f"network={network!r} is not a flax.nnx.Module; pass one, made with rngs")
    require_callable("objective", objective, "pass one of esjax.train.objectives")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            f"optimizer={optimizer!r} is not an optimiser of Optax; pass one such as optax.adam(1e-3)"
        )
    graphdef, params, variables = cast(tuple[Any, Any, Any], nnx.split(network, nnx.Param, ...))

    def forward(params: Any, variables: Any, images: Any) -> Any:
        network = nnx.merge(graphdef, params, variables, copy=True)  # the forward pass may write to it
        network.train()
        logits = models.logits_of(network, images)
        return logits, nnx.state(network, nnx.Not(nnx.Param))

    @jax.jit
    def step(state: State, batch: Batch, key: Any) -> tuple[State, Metrics]:
        images, labels = batch
        logits, pull_back, variables = jax.vjp(
            lambda params: forward(params, state.variables, images), state.params, has_aux=True
        )
        value_and_grad = jax.value_and_grad(_checked(objective), argnums=1, has_aux=True)
        (loss, report), in_logits = value_and_grad(key, logits, labels)
        (gradient,) = pull_back(in_logits)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = _metrics((loss, report), logits, labels, in_logits, optax.tree.norm(gradient))
        return State(state.step + 1, params, variables, opt_state, state.kept), metrics

    @jax.jit
    def predict(state: State, images: Array) -> Array:
        network = nnx.merge(graphdef, state.params, state.variables, copy=True)
        network.eval()
        return models.logits_of(network, images)

    return Trainer(step, predict), State(jnp.int32(0), params, variables, optimizer.init(params))


def _checked(objective: Objective) -> Objective:
    """Makes an objective that raises `ValueError` unless it returns a pair."""

    def checked(key: Any, logits: Array, labels: Array) -> Result:
        result = objective(key, logits, labels)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                f"objective returns {jax.tree.map(jnp.shape, result)}; return (loss, report), with None as "
                "the report if the gradient was not sampled"
            )
        return result

    return checked


def _metrics(result: Result, logits: Array, labels: Any, in_logits: Array, gradient_norm: Array) -> Metrics:
    """Returns the metrics of a batch, whose loss has the gradient `in_logits` (B, K) in its logits (B, K)."""
    loss, report = result
    is_class = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return Metrics(
        loss=loss,
        accuracy=(logits.argmax(-1) == labels).mean(),
        gradient_norm=gradient_norm,
        signal_to_noise=jnp.float32(jnp.nan) if report is None else report.signal_to_noise,
        class_counts=is_class.sum(0),
        class_gradients=len(labels) * jnp.linalg.norm(in_logits, axis=1) @ is_class,
    )


def logits_of(trainer: Trainer, state: State, images: Any) -> Array:
    """Returns the logits (N, K) of images (N, H, W, C), a bounded number of which are evaluated at a time."""
    parts = np.split(images, range(_PREDICTED_AT_ONCE, len(images), _PREDICTED_AT_ONCE))
    return jnp.concatenate([trainer.logits(state, part) for part in parts])


def confusion(trainer: Trainer, state: State, images: Any, labels: Any) -> NDArray[np.int64]:
    """Counts examples by label (row) and predicted class (column).

    Args:
        trainer: a network.
        state: its parameters.
        images: (N, H, W, C), evaluated a bounded number at a time.
        labels: (N,) integers in [0, K).

    Returns:
        (K, K), with K the number of the network's logits.
    """
    logits = np.asarray(logits_of(trainer, state, images))
    counts = np.zeros((logits.shape[-1],) * 2, np.int64)
    np.add.at(counts, (labels, logits.argmax(-1)), 1)
    return counts
