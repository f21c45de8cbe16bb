"""Estimators of metrics of a batch side by side, each `(key, x) -> (value, gradient)`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from optax import perturbations

import esjax
from esjax.benchmarks.peers import ValueAndGradient, optax_perturbed
from esjax.benchmarks.problems import Labelled, Lists

Array = jax.Array


# --- accuracy and macro-F1 of a batch: `(key, logits) -> (value, gradient)` -----------------------------


def accuracy_plain(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """The plain algorithm as one writes it, for each example by itself: g = Σ f_n σ ε_n / (σ² N)."""

    def of_example(key: Any, logits: Array, label: Array) -> tuple[Array, Array]:
        eps = jax.random.normal(key, (num_samples, logits.size))
        hits = ((logits + batch.sigma * eps).argmax(-1) == label).astype(logits.dtype)
        return hits.mean(), hits @ eps / (batch.sigma * num_samples)

    def value_and_gradient(key: Any, logits: Array) -> tuple[Array, Array]:
        values, slopes = jax.vmap(of_example)(jax.random.split(key, len(logits)), logits, batch.labels)
        return values.mean(), slopes / len(logits)

    return value_and_gradient


def accuracy_iid(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """The plain algorithm by this library, for each example by itself."""
    options: Any = {"sampler": esjax.samplers.iid, "baseline": esjax.baselines.none}
    return _of_examples(
        batch.labels,
        esjax.smooth(esjax.blocks.accuracy, sigma=batch.sigma, num_samples=num_samples, **options),
    )


def accuracy_auto(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """This library's defaults for each example by itself."""
    return _of_examples(
        batch.labels, esjax.smooth(esjax.blocks.accuracy, sigma=batch.sigma, num_samples=num_samples)
    )


def accuracy_optax(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations`, its defaults with normal noise, for each example by itself."""

    def smoothed(key: Any, logits: Array, label: Array) -> Array:
        block = partial(esjax.blocks.accuracy, label=label)
        return optax_perturbed(block, num_samples, batch.sigma)(key, logits)

    return _of_examples(batch.labels, smoothed)


def _of_examples(targets: Array, smoothed: Callable[[Any, Array, Array], Array]) -> ValueAndGradient:
    """Returns the mean of `smoothed(key, x, target)` over examples, with its gradient."""

    def value(x: Array, key: Any) -> Array:
        return jax.vmap(smoothed)(jax.random.split(key, len(targets)), x, targets).mean()

    return lambda key, x: jax.value_and_grad(value)(x, key)


def accuracy_exact(batch: Labelled) -> ValueAndGradient:
    """The closed form; the key goes unused."""

    def value(logits: Array) -> Array:
        return esjax.exact.accuracy(logits, batch.labels, batch.sigma).mean()

    return lambda key, logits: jax.value_and_grad(value)(logits)


def f1_sampled(batch: Labelled, num_samples: int, baseline: esjax.baselines.Baseline) -> ValueAndGradient:
    """Macro-F1 of a batch whose logits are all perturbed together."""
    smoothed = esjax.smooth(
        partial(_f1_of_logits, batch),
        sigma=batch.sigma,
        num_samples=num_samples,
        sampler=esjax.samplers.iid,
        baseline=baseline,
    )
    return jax.value_and_grad(smoothed, argnums=1)


def f1_optax(batch: Labelled, num_samples: int) -> ValueAndGradient:
    """Macro-F1 of a batch by `optax.perturbations`, its defaults with normal noise."""
    return jax.value_and_grad(
        optax_perturbed(partial(_f1_of_logits, batch), num_samples, batch.sigma), argnums=1
    )


def f1_decided(batch: Labelled, num_samples: int, estimator: esjax.decisions.Estimator) -> ValueAndGradient:
    """Macro-F1 of a batch whose decisions are sampled."""
    smoothed = esjax.smooth_decisions(
        partial(_f1, batch),
        decision=esjax.decisions.argmax,
        sigma=batch.sigma,
        num_samples=num_samples,
        estimator=estimator,
    )
    return jax.value_and_grad(smoothed, argnums=1)


def f1_exact(batch: Labelled) -> ValueAndGradient:
    """The closed form; the key goes unused."""

    def value(logits: Array) -> Array:
        return esjax.exact.f1(logits, batch.labels, batch.sigma)

    return lambda key, logits: jax.value_and_grad(value)(logits)


def argmax_probs(batch: Labelled) -> ValueAndGradient:
    """What the closed form begins with: a weighted sum of every chance, with its gradient."""
    weights = jax.random.normal(jax.random.key(1), batch.logits.shape)

    def value(logits: Array) -> Array:
        return (weights * esjax.exact.argmax_probs(logits, batch.sigma)).sum()

    return lambda key, logits: jax.value_and_grad(value)(logits)


def _f1_of_logits(batch: Labelled, logits: Array) -> Array:
    return _f1(batch, logits.argmax(-1))


def _f1(batch: Labelled, predicted: Array) -> Array:
    return esjax.blocks.f1(predicted, batch.labels, num_classes=batch.logits.shape[1])


# --- NDCG of lists, each smoothed by itself with Gumbel noise: `(key, scores) -> (value, gradient)` -----


def ndcg_auto(lists: Lists, num_samples: int) -> ValueAndGradient:
    """This library's defaults."""
    block = partial(esjax.blocks.ndcg, k=lists.k)
    options: Any = {"sigma": lists.sigma, "num_samples": num_samples, "noise": esjax.noise.gumbel}
    return _of_examples(lists.relevance, esjax.smooth(block, **options))


def ndcg_optax(lists: Lists, num_samples: int) -> ValueAndGradient:
    """`optax.perturbations` with Gumbel noise and its default baseline."""

    def smoothed(key: Any, scores: Array, relevance: Array) -> Array:
        block = partial(esjax.blocks.ndcg, relevance=relevance, k=lists.k)
        return optax_perturbed(block, num_samples, lists.sigma, noise=perturbations.Gumbel())(key, scores)

    return _of_examples(lists.relevance, smoothed)


def ndcg_decided(lists: Lists, num_samples: int, places: int | None) -> ValueAndGradient:
    """Samples the first places of each ranking, or all of them where `places` is None."""

    def of_order(order: Array, relevance: Array) -> Array:
        scores = jnp.zeros(relevance.shape).at[order].set(jnp.arange(order.size, 0.0, -1.0))
        return esjax.blocks.ndcg(scores, relevance, k=lists.k)

    smoothed = esjax.smooth_decisions(
        of_order,
        decision=partial(esjax.decisions.ranking, k=places),
        sigma=lists.sigma,
        num_samples=num_samples,
    )
    return _of_examples(lists.relevance, smoothed)


def ndcg_exact(lists: Lists) -> ValueAndGradient:
    """The closed form under Gumbel noise; the key goes unused."""

    def value(scores: Array) -> Array:
        metric = partial(esjax.exact.ndcg, sigma=lists.sigma, k=lists.k, noise=esjax.noise.gumbel)
        return jax.vmap(metric)(scores, lists.relevance).mean()

    return lambda key, scores: jax.value_and_grad(value)(scores)


def ndcg_rax(lists: Lists, temperature: float = 0.1) -> ValueAndGradient:
    """NDCG with sigmoids in place of ranks, by rax: another function, whose time is compared and no error."""
    import rax

    ranks = partial(rax.utils.approx_ranks, step_fn=lambda x: jax.nn.sigmoid(x / temperature))

    def value(scores: Array) -> Array:
        return rax.ndcg_metric(scores, lists.relevance, topn=lists.k, rank_fn=ranks)

    return lambda key, scores: jax.value_and_grad(value)(scores)
