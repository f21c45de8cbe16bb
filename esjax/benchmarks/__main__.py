"""`python -m esjax.benchmarks`: the tables, in Markdown, with the device and versions they are from."""

import platform
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

import esjax
from esjax.benchmarks import measure, peers, problems


def main() -> None:
    """Prints every table."""
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, {platform.machine()}")
    print(f"esjax {esjax.__version__}, jax {jax.__version__}, optax {optax.__version__}\n")
    print_variance()
    print_cost()
    print_exact()
    print_decisions()


def print_variance(num_samples: int = 256, num_repeats: int = 200) -> None:
    """Relative squared error of the gradient at equal N, and how far below optax's it is."""
    print(f"Relative squared error of the gradient, N = {num_samples}, mean of {num_repeats} keys\n")
    rows = []
    below = []
    for dim in (10, 100):
        for make in (problems.rank_correlation, problems.rounding, problems.threshold_count):
            problem = make(dim)
            reference = jax.grad(problem.smoothed)(problem.x)
            errors = [
                measure.relative_squared_error(
                    _gradient(peer(problem, num_samples), problem.x), reference, num_repeats=num_repeats
                )
                for peer in (peers.plain, peers.optax_no_baseline, peers.optax_normal, peers.auto)
            ]
            below.append(errors[2][0] / errors[3][0])
            rows.append(
                [problem.name, *(f"{mean:.3g} ± {error:.1g}" for mean, error in errors), f"{below[-1]:.1f}"]
            )
    _print_table(["block", "plain", "optax, no baseline", "optax", "esjax", "optax / esjax"], rows)
    geometric = float(np.exp(np.mean(np.log(below))))
    print(
        f"Geometric mean of the last column {geometric:.1f} (wanted 6), least {min(below):.1f} (wanted 2.5)\n"
    )


def print_cost(dim: int = 10_000, num_samples: int = 4096) -> None:
    """Time, memory and compile time beside optax's, and memory at a million samples."""
    problem = problems.threshold_count(dim)
    named = {"optax": peers.optax_normal, "esjax": peers.auto, "esjax, antithetic": peers.antithetic}
    functions = {name: peer(problem, num_samples) for name, peer in named.items()}
    found = measure.costs(functions, jax.random.key(0), problem.x)
    print(f"Value and gradient of a {problem.name}, N = {num_samples:,}; ratios to optax\n")
    base = found["optax"]
    rows = [
        [
            name,
            f"{1e3 * cost.seconds:.0f} ms ± {cost.spread:.0%}",
            f"{cost.seconds / base.seconds:.2f}",
            f"{cost.temporaries / 2**20:.1f} MB",
            f"1/{base.temporaries / max(cost.temporaries, 1):.0f}",
            f"{cost.compile_seconds:.2f} s",
            f"{cost.compile_seconds / base.compile_seconds:.2f}",
        ]
        for name, cost in found.items()
    ]
    _print_table(["", "time", "ratio", "temporaries", "ratio", "compile", "ratio"], rows)
    many = jax.jit(peers.auto(problem, 1_000_000)).lower(jax.random.key(0), problem.x).compile()
    print(f"Temporaries at N = 1,000,000: {measure.temporaries(many) / 2**20:.1f} MB (wanted 200)\n")


def print_exact(num_examples: int = 256, num_samples: int = 256) -> None:
    """Time of the gradient of accuracy in closed form beside the plain algorithm's."""
    print(f"Value and gradient of accuracy, {num_examples} examples, K classes; the plain algorithm at N =")
    print(f"{num_samples} has the error of its samples, the closed form that of float32\n")
    rows = []
    for num_classes, wanted in ((10, 20), (1000, 50)):
        batch = problems.labelled(num_examples, num_classes)
        functions = {
            "plain": peers.accuracy_plain(batch, num_samples),
            "exact": peers.accuracy_exact(batch),
        }
        found = measure.costs(functions, jax.random.key(0), batch.logits, num_compiles=1, num_turns=9)
        ratio = found["plain"].seconds / found["exact"].seconds
        times = [f"{1e3 * cost.seconds:.2f} ms ± {cost.spread:.0%}" for cost in found.values()]
        rows.append([f"K = {num_classes}", *times, f"{ratio:.0f}", f"{wanted}"])
    _print_table(["", "plain", "exact", "plain / exact", "wanted"], rows)
    batch = problems.labelled(8, 262_144)
    many = jax.jit(peers.accuracy_exact(batch)).lower(jax.random.key(0), batch.logits).compile()
    print(f"Temporaries, 8 examples, K = 262,144: {measure.temporaries(many) / 2**20:.0f} MB (wanted 1000)\n")


def print_decisions(num_evaluations: int = 2560, num_repeats: int = 40) -> None:
    """Relative squared error of the gradient of macro-F1, and time, at an equal number of evaluations."""
    batch = problems.labelled(256, 10, lead=1.5)
    local = esjax.decisions.local_expectation
    named = {
        "plain": (peers.f1_sampled(batch, num_evaluations, esjax.baselines.none), None),
        "leave-one-out": (peers.f1_sampled(batch, num_evaluations, esjax.baselines.leave_one_out), None),
        "decisions.score": (peers.f1_decided(batch, num_evaluations, esjax.decisions.score), 0.4),
        "decisions.local_expectation": (peers.f1_decided(batch, 1, local), 0.02),
    }
    reference = jax.jit(_gradient(peers.f1_decided(batch, 1000, local), batch.logits))(jax.random.key(1))
    functions = {name: peer for name, (peer, _) in named.items()}
    found = measure.costs(functions, jax.random.key(0), batch.logits, num_compiles=1, num_turns=9)
    print(
        f"Gradient of macro-F1, 256 examples, 10 classes, {num_evaluations:,} evaluations (the last: 2,305)\n"
    )
    rows = []
    for name, (peer, wanted) in named.items():
        mean, error = measure.relative_squared_error(
            _gradient(peer, batch.logits), reference, num_repeats=num_repeats, at_once=2
        )
        milliseconds = 1e3 * found[name].seconds
        rows.append(
            [
                name,
                f"{mean:.3g} ± {error:.1g}",
                f"{wanted or ''}",
                f"{milliseconds:.1f}",
                f"{mean * milliseconds:.3g}",
            ]
        )
    _print_table(["", "relative squared error", "wanted", "ms", "error² × ms"], rows)


def _gradient(function: peers.ValueAndGradient, x: jax.Array) -> Callable[[Any], jax.Array]:
    return lambda key: function(key, x)[1]


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    main()
