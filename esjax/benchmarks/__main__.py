"""`python -m esjax.benchmarks`: the tables, in Markdown, with the device and versions they are from."""

import platform
from collections.abc import Sequence

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


def print_variance(num_samples: int = 256, num_repeats: int = 200) -> None:
    """Relative squared error of the gradient at equal N, and how far below optax's it is."""
    print(f"Relative squared error of the gradient, N = {num_samples}, mean of {num_repeats} keys\n")
    rows = []
    below = []
    for dim in (10, 100):
        for make in (problems.rank_correlation, problems.rounding, problems.threshold_count):
            problem = make(dim)
            errors = [
                measure.relative_squared_error(problem, peer(problem, num_samples), num_repeats=num_repeats)
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


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")
    print()


if __name__ == "__main__":
    main()
