"""Metrics of a batch: accuracy, macro-F1, NDCG of lists, and a whole training step."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import esjax
from esjax.benchmarks import measure, metric_peers, problems, report
from esjax.benchmarks.peers import ValueAndGradient
from esjax.benchmarks.report import Claim, Row, Section, Table
from esjax.train import models, objectives, step

_EFFORT_QUICK, _EFFORT = measure.Effort(1, 3, 0.05), measure.Effort(1, 9, 0.3)


def run(quick: bool) -> Section:
    """Measures accuracy for several K, macro-F1, NDCG@10, and a step of a CNN."""
    tables: list[Table] = []
    claims: list[Claim] = []
    for part in (_accuracy, _macro_f1, _ndcg, _training_step):
        more_tables, more_claims = part(quick)
        tables += more_tables
        claims += more_claims
    return Section("Metrics of a batch", tables, claims, [])


def _accuracy(quick: bool, num_samples: int = 256) -> tuple[list[Table], list[Claim]]:
    tables, claims = [], []
    sizes: list[tuple[int, int, int | None]] = [(256, 10, 20), (256, 1000, 50), (8, 32_768, None)]
    for num_examples, num_classes, wanted in sizes[:1] if quick else sizes:
        batch = problems.labelled(num_examples, num_classes)
        functions = {
            "plain": metric_peers.accuracy_plain(batch, num_samples),
            "esjax.smooth, iid, no baseline": metric_peers.accuracy_iid(batch, num_samples),
            "optax": metric_peers.accuracy_optax(batch, num_samples),
            "esjax.smooth": metric_peers.accuracy_auto(batch, num_samples),
            "esjax.exact": metric_peers.accuracy_exact(batch),
        }
        title = (
            f"Accuracy of {num_examples} examples, K = {num_classes:,}, each smoothed with N = {num_samples}"
        )
        num_repeats = 5 if num_classes > 10 else 20
        found = measure.side_by_side(
            functions,
            batch.logits,
            problems.accuracy_gradient(batch),
            effort=_EFFORT_QUICK if quick else _EFFORT,
            num_repeats=num_repeats,
        )
        tables.append(report.beside_each_other(title, found))
        name = f"accuracy, K = {num_classes:,}"
        claims.append(_effort_claim(name, found, "esjax.exact"))
        if wanted:
            ratio = found["plain"].cost.seconds / found["esjax.exact"].cost.seconds
            claims.append(Claim(f"{name}: time of plain over exact's", ratio, wanted, at_most=False))
    many = problems.labelled(8, 262_144)
    compiled = jax.jit(metric_peers.accuracy_exact(many)).lower(jax.random.key(0), many.logits).compile()
    megabytes = measure.temporaries(compiled) / 2**20
    claims.append(Claim("exact accuracy, K = 262,144, 8 examples: temporaries, MB", megabytes, 1000))
    return tables, claims


def _macro_f1(quick: bool, num_evaluations: int = 2560) -> tuple[list[Table], list[Claim]]:
    batch = problems.labelled(256, 10, lead=1.5)
    local, score = esjax.decisions.local_expectation, esjax.decisions.score
    functions = {
        "plain": metric_peers.f1_sampled(batch, num_evaluations, esjax.baselines.none),
        "optax": metric_peers.f1_optax(batch, num_evaluations),
        "leave-one-out": metric_peers.f1_sampled(batch, num_evaluations, esjax.baselines.leave_one_out),
        "decisions.score": metric_peers.f1_decided(batch, num_evaluations, score),
        "decisions.local_expectation": metric_peers.f1_decided(batch, 1, local),
        "esjax.exact": metric_peers.f1_exact(batch),
    }
    long_run = metric_peers.f1_decided(batch, 200 if quick else 1000, local)
    title = f"Macro-F1 of 256 examples, K = 10, {num_evaluations:,} evaluations (the last: 2,305)"
    found = _beside_a_long_run(functions, long_run, batch.logits, quick, num_repeats=40)
    claims = [
        _effort_claim("macro-F1", found, "decisions.local_expectation"),
        Claim(
            "macro-F1: squared error, local_expectation", found["decisions.local_expectation"].error[0], 0.02
        ),
        Claim("macro-F1: squared error, score", found["decisions.score"].error[0], 0.4),
    ]
    closed_form = {
        "esjax.exact.f1": metric_peers.f1_exact(batch),
        "decisions.local_expectation": functions["decisions.local_expectation"],
        "esjax.exact.argmax_probs alone": metric_peers.argmax_probs(batch),
    }
    times, time_claims = _times_over("exact macro-F1", closed_form, batch.logits, (0.5, 2), quick)
    return [report.beside_each_other(title, found), times], claims + time_claims


def _ndcg(quick: bool, num_samples: int = 16) -> tuple[list[Table], list[Claim]]:
    lists = problems.lists()
    functions = {
        "optax": metric_peers.ndcg_optax(lists, num_samples),
        "esjax.smooth": metric_peers.ndcg_auto(lists, num_samples),
        "decisions.ranking": metric_peers.ndcg_decided(lists, num_samples, None),
        "decisions.ranking, k = 10": metric_peers.ndcg_decided(lists, num_samples, lists.k),
        "esjax.exact": metric_peers.ndcg_exact(lists),
    }
    long_run = metric_peers.ndcg_decided(lists, 2**13 if quick else 2**16, lists.k)
    found = _beside_a_long_run(functions, long_run, lists.scores, quick, num_repeats=100)
    num_lists, num_items = lists.scores.shape
    title = f"NDCG@10 of {num_lists} lists of {num_items}, each smoothed with N = {num_samples}"
    closed_form = {
        "esjax.exact.ndcg": functions["esjax.exact"],
        "decisions.ranking, k = 10": functions["decisions.ranking, k = 10"],
        "rax, ranks by sigmoids": metric_peers.ndcg_rax(lists),
    }
    times, time_claims = _times_over("exact NDCG@10", closed_form, lists.scores, (3,), quick)
    claims = [
        _effort_claim("NDCG@10", found, "decisions.ranking, k = 10", 5),
    ]
    return [report.beside_each_other(title, found), times], claims + time_claims


def _times_over(
    name: str,
    functions: dict[str, ValueAndGradient],
    x: jax.Array,
    wanted: tuple[float, ...],
    quick: bool,
) -> tuple[Table, list[Claim]]:
    """Times the first of `functions` beside the others, over each of which it may take what is `wanted`."""
    found = measure.costs(functions, jax.random.key(0), x, effort=_EFFORT_QUICK if quick else _EFFORT)
    ours, *others = found
    rows: list[Row] = [
        {
            "": each,
            "median ms ± spread": cost.milliseconds,
            f"{ours}'s time over it": found[ours].seconds / cost.seconds,
        }
        for each, cost in found.items()
    ]
    claims = [
        Claim(f"{name}: time over {other}'s", found[ours].seconds / found[other].seconds, most)
        for other, most in zip(others, wanted, strict=False)
    ]
    return Table(f"{name}: value and gradient beside others", rows), claims


def _beside_a_long_run(
    functions: dict[str, ValueAndGradient],
    long_run: ValueAndGradient,
    x: jax.Array,
    quick: bool,
    *,
    num_repeats: int,
) -> dict[str, measure.Compared]:
    """Measures functions against the gradient that `long_run` gives, for 10 keys if `quick`.

    (The error of a closed form is then that of the long run itself.)
    """
    _, reference = jax.jit(long_run)(jax.random.key(1), x)
    effort, count = (_EFFORT_QUICK, 10) if quick else (_EFFORT, num_repeats)
    return measure.side_by_side(functions, x, reference, effort=effort, num_repeats=count)


def _effort_claim(name: str, found: dict[str, measure.Compared], ours: str, wanted: float = 1e4) -> Claim:
    ratio = found["optax"].effort / found[ours].effort
    return Claim(f"{name}: error² × time of optax over {ours}'s", ratio, wanted, at_most=False)


def _training_step(quick: bool) -> tuple[list[Table], list[Claim]]:
    """Times a step of the CNN on 128 images for each objective."""
    images = np.random.RandomState(0).rand(128, 28, 28, 1).astype(np.float32)
    labels = np.arange(128, dtype=np.int32) % 10
    sampled = esjax.smooth(esjax.blocks.accuracy, sigma=1.0, num_samples=64)

    def exact(key: Any, logits: jax.Array, labels: jax.Array) -> objectives.Result:
        del key
        return -esjax.exact.accuracy(logits, labels, 1.0).mean(), None

    chosen: dict[str, objectives.Objective] = {
        "cross-entropy": objectives.cross_entropy,
        "accuracy, 64 samples": objectives.per_example(sampled),
        "accuracy, exact": exact,
    }
    steps: dict[str, Callable[..., Any]] = {}
    for name, objective in chosen.items():
        network = models.NETWORKS["cnn"]((28, 28, 1), 10, rngs=nnx.Rngs(0))
        trainer, state = step.make_trainer(network, objective, optax.adam(1e-3))
        steps[name] = trainer.step
    effort = _EFFORT_QUICK if quick else _EFFORT
    found = measure.costs(steps, state, (images, labels), jax.random.key(0), effort=effort)
    base = found["cross-entropy"].seconds
    rows: list[Row] = [
        {
            "": name,
            "median ms ± spread": cost.milliseconds,
            "over cross-entropy's": cost.seconds / base,
        }
        for name, cost in found.items()
    ]
    claims = [
        Claim(f"step of a CNN, {name}: time over cross-entropy's", found[name].seconds / base, wanted)
        for name, wanted in (("accuracy, 64 samples", 1.3), ("accuracy, exact", 1.1))
    ]
    return [Table("A training step of the CNN, 128 images", rows)], claims
