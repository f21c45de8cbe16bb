"""Objectives: what a network is trained for, as a loss of a batch of logits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import esjax
from esjax import diagnostics
from esjax.diagnostics import Report
from esjax.smoothing import Smoothed
from esjax.train.checks import require_at_least, require_callable
from esjax.train.config import Options

Array = jax.Array
Result = tuple[Array, Report | None]
"""The loss (), to be minimised, and a report on its gradient in the logits if that was sampled."""
Objective = Callable[[Any, Array, Array], Result]
"""`(key, logits (B, K), labels (B,)) -> (loss, report)`; `key` may go unused."""
BatchObjective = Callable[..., Result]
"""`(key, outputs, *targets) -> (loss, report)`, of any shapes; an `Objective` is one."""


def cross_entropy(key: Any, logits: Array, labels: Array) -> Result:
    """Returns the mean of −log softmax(logits)[label] over the batch; uses no randomness."""
    del key
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), None


def label_smoothing(key: Any, logits: Array, labels: Array) -> Result:
    """Returns cross-entropy with a tenth of each label spread over all classes (Szegedy et al. 2016)."""
    del key
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), 0.1)
    return optax.softmax_cross_entropy(logits, targets).mean(), None


def generalised_cross_entropy(key: Any, logits: Array, labels: Array) -> Result:
    """Returns the mean of (1 − p^q) / q, p = softmax(logits)[label], q = 0.7 (Zhang and Sabuncu 2018, eq. 6).

    Between cross-entropy (q → 0) and the mean absolute error (q = 1), which wrong labels cannot dominate.
    """
    del key
    log_p = -optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (-jnp.expm1(0.7 * log_p) / 0.7).mean(), None


def per_example(smoothed: Callable[..., Array]) -> Objective:
    """Makes an objective of a reward of one example, such as `esjax.smooth(block, ...)`.

    Each example is smoothed by itself, with a key of its own: at equal N its gradient has far less
    variance than that of the batch smoothed as a whole, since only the example's own values weight
    its scores.

    Args:
        smoothed: `(key, logits (K,), label ()) -> reward ()`, to be maximised.

    Returns:
        An objective: minus the mean reward of the batch. It reports on the gradient where `smoothed` is from
        `esjax.smooth`, and raises `ValueError` where the reward is not one number.

    Raises:
        ValueError: `smoothed` is not callable.
    """
    require_callable("smoothed", smoothed, "pass esjax.smooth(block, ...)")

    def objective(key: Any, logits: Array, labels: Array) -> Result:
        keys = jax.random.split(key, logits.shape[0])
        if isinstance(smoothed, Smoothed):
            rewards, reports = jax.vmap(smoothed.with_info)(keys, logits, labels)
            report = diagnostics.combined(reports)
        else:
            rewards, report = jax.vmap(smoothed)(keys, logits, labels), None
        _check_rewards(rewards, labels, "return one number, shape (), from the block")
        return -rewards.mean(), report

    return objective


def _check_rewards(rewards: Any, labels: Array, remedy: str) -> None:
    if getattr(rewards, "shape", None) != labels.shape:
        raise ValueError(
            f"the rewards of a batch have shape {jax.tree.map(jnp.shape, rewards)} instead of "
            f"{labels.shape}; {remedy}"
        )


# --- sampled -----------------------------------------------------------------------------------------


def sampled(block: Callable[..., Array], sigma: float | Array, num_samples: int) -> Smoothed:
    """Smooths a block of one example's logits and label, its gradient by evolution strategies.

    Args:
        block: `(logits (K,), label ()) -> reward ()`.
        sigma: σ > 0, in units of the logits; `esjax.sigma.from_logits` suggests one.
        num_samples: N, evaluations of the block per example and step, in pairs (ε, −ε); even, >= 4.

    Raises:
        ValueError: by `esjax.smooth`, for σ or N out of range.
    """
    antithetic = esjax.samplers.antithetic
    return esjax.smooth(block, sigma=sigma, num_samples=num_samples, sampler=antithetic)


def macro_f1(sigma: float | Array, num_samples: int) -> Objective:
    """Makes the objective −(smoothed macro-F1 of the batch), its gradient by single changes of decisions.

    Args:
        sigma: σ > 0, in units of the logits.
        num_samples: N, evaluations of F1 per example and step. All single changes of one sample take
            K − 1 per example, and at least one sample is drawn.

    Raises:
        ValueError: N is out of range; or, when the objective is called, σ is.
    """
    require_at_least("num_samples", num_samples, 1)

    def objective(key: Any, logits: Array, labels: Array) -> Result:
        num_classes = logits.shape[-1]
        smoothed = esjax.smooth_decisions(
            partial(esjax.blocks.f1, num_classes=num_classes),
            decision=esjax.decisions.argmax,
            sigma=sigma,
            num_samples=max(num_samples // (num_classes - 1), 1),
            estimator=esjax.decisions.local_expectation,
        )
        return -smoothed(key, logits, labels), None

    return objective


# --- in closed form ----------------------------------------------------------------------------------


def in_closed_form(rewards: Callable[[Array, Array], Array]) -> Objective:
    """Makes the objective −(mean of `rewards(logits (B, K), labels (B,))`, (B,)), which needs no samples.

    Raises:
        ValueError: `rewards` is not callable; or, when called, it returns another shape.
    """
    require_callable("rewards", rewards, "pass a function such as esjax.exact.accuracy with its sigma")

    def objective(key: Any, logits: Array, labels: Array) -> Result:
        del key
        found = rewards(logits, labels)
        _check_rewards(found, labels, "return one number for each example, shape (B,)")
        return -found.mean(), None

    return objective


def of_batch_in_closed_form(metric: Callable[..., Array]) -> BatchObjective:
    """Makes the objective −`metric(outputs, *targets)` of a batch, or of one list, as a whole.

        of_batch_in_closed_form(partial(esjax.exact.concordance, sigma=1.0))(key, scores, times, events)

    Args:
        metric: `(outputs, *targets) -> ()`, to be maximised, such as a function of `esjax.exact` with its
            sigma: `f1`, `matthews` or `auc`; `concordance` of a survival model; of a retrieval model the
            mean of `jax.vmap` of `ndcg` over lists.

    Returns:
        `(key, outputs, *targets) -> (loss (), None)`; the key goes unused.

    Raises:
        ValueError: `metric` is not callable; or, when called, it does not return one number.
    """
    require_callable("metric", metric, "pass a function such as esjax.exact.f1 with its sigma")

    def objective(key: Any, outputs: Array, *targets: Array) -> Result:
        del key
        value = metric(outputs, *targets)
        if getattr(value, "shape", None) != ():
            raise ValueError(
                f"the metric of a batch has shape {jax.tree.map(jnp.shape, value)} instead of (); return one "
                "number, or use in_closed_form for one number for each example"
            )
        return -value, None

    return objective


# --- of standardised logits --------------------------------------------------------------------------


def standardize(logits: Array) -> Array:
    """Returns logits (..., K) of K >= 3 classes, each example's less their mean and over their spread.

    Computed in float32 or wider, after the largest is taken off: what all logits of an example have in common
    costs no precision.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    return jax.nn.standardize(logits - largest)


def seen(options: Options) -> Callable[[Array], Array]:
    """Returns what the options make of logits (..., K) before a metric sees them."""
    return standardize if options.logits == "standardised" else lambda logits: logits


def standardised(objective: Objective) -> Objective:
    """Applies the objective to each example's logits less their mean, over their spread: the unit of σ.

    Accuracy does not change with the scale of an example's logits, so nothing is lost. Where logits outgrow a
    fixed σ, examples that they get wrong have no gradient left, and classes that are hard to tell apart stay
    mixed up: standardised logits cannot grow. Nor can they run away, as they do where σ follows their spread
    but counts as constant in the gradient: here the gradient has no component along the scale.

    Args:
        objective: of accuracy, top-k accuracy or another metric of nothing but the order of the logits. It is
            given float32, or what is wider.

    Raises:
        ValueError: when called, logits of two classes, which would be 1 and −1 whatever they were, without a
            gradient.
    """

    def of_standardised(key: Any, logits: Array, labels: Array) -> Result:
        if logits.shape[-1] < 3:
            raise ValueError(
                f"logits has shape {logits.shape}, and two standardised ones are 1 and −1, without a "
                "gradient; leave them as they are, with esjax.sigma.from_logits"
            )
        return objective(key, standardize(logits), labels)

    return of_standardised


# --- by name -----------------------------------------------------------------------------------------

BLOCKS: dict[str, Callable[[Options], Callable[..., Array]]] = {
    "accuracy": lambda options: esjax.blocks.accuracy,
    "top-k": lambda options: partial(esjax.blocks.top_k_accuracy, k=options.k),
}
"""Makers of the blocks of one example, `options -> block`, by the name of their objective."""

CHANCES: dict[str, Callable[[Options], Callable[..., Array]]] = {
    "accuracy": lambda options: esjax.exact.accuracy,
    "top-k": lambda options: partial(esjax.exact.top_k_accuracy, k=options.k),
}
"""Makers of their means in closed form, `options -> ((logits (B, K), labels (B,), sigma=σ) -> (B,))`."""


def _by_es(name: str, sigma: float, options: Options) -> Objective:
    return per_example(sampled(BLOCKS[name](options), sigma, options.num_samples))


def _in_closed_form(name: str, sigma: float, options: Options) -> Objective:
    return in_closed_form(partial(CHANCES[name](options), sigma=sigma))


PLAIN: dict[str, Objective] = {
    "cross-entropy": cross_entropy,
    "label-smoothing": label_smoothing,
    "generalised-cross-entropy": generalised_cross_entropy,
}
"""Objectives with a gradient of their own, by the names that the command line knows."""

SMOOTHED: dict[tuple[str, str], Callable[[float, Options], Objective]] = {
    ("accuracy", "es"): partial(_by_es, "accuracy"),
    ("accuracy", "exact"): partial(_in_closed_form, "accuracy"),
    ("top-k", "es"): partial(_by_es, "top-k"),
    ("top-k", "exact"): partial(_in_closed_form, "top-k"),
    ("macro-f1", "es"): lambda sigma, options: macro_f1(sigma, options.num_samples),
    ("macro-f1", "exact"): lambda sigma, options: of_batch_in_closed_form(
        partial(esjax.exact.f1, sigma=sigma)
    ),
}
"""Makers of smoothed objectives, `(sigma, options) -> objective`, by the names of objective and estimator."""
