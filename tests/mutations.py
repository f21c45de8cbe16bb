"""Breaks the estimators in named ways, one at a time, in a copy; the tests must turn red each time.

    python tests/mutations.py                    # all of them
    python tests/mutations.py "no 1/σ" "..."     # some

It prints a line for each, and fails if one went unseen, or if the tests are red without any.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A break, and the tests that should see it.

    Attributes:
        name: what is wrong.
        file: of the package.
        old: text that is there once.
        new: what takes its place.
        tests: arguments to pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "no 1/σ",
        "_sums.py",
        "jnp.where(jnp.isinf(x), 0, in_x / sigma)",
        "jnp.where(jnp.isinf(x), 0, in_x * jnp.ones_like(sigma))",
        "test_smoothing.py",
    ),
    Mutation(
        "σ's gradient without the density's normaliser",
        "_sums.py",
        "jnp.where(jnp.isinf(x)[None], 0, in_x * eps - 1)",
        "jnp.where(jnp.isinf(x)[None], 0, in_x * eps)",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "leave-one-out with the mean of all",
        "baselines.py",
        "return -1.0 / (in_all - in_group), 1.0 / (in_all - in_group)",
        "return 0.0 * in_group, 1.0 / in_all",
        "test_baselines.py test_unbiased.py",
    ),
    Mutation(
        "the same draws for every group",
        "_sampling.py",
        "return problem.draw(inputs[2:], jax.random.fold_in(key, group))",
        "return problem.draw(inputs[2:], jax.random.fold_in(key, 0 * group))",
        "test_smoothing.py test_samplers.py",
    ),
    Mutation(
        "N − 1 in place of N",
        "_sums.py",
        "in_x, in_sigma = jax.tree.map(lambda sums: sums / count, score_sums)",
        "in_x, in_sigma = jax.tree.map(lambda sums: sums / (count - 1), score_sums)",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "the last chunk dropped",
        "_sampling.py",
        "    if rest:\n        sums, out = step(sums, first + jnp.int32(full * size), rest)",
        "    if rest:\n        _, out = step(sums, first + jnp.int32(full * size), rest)",
        "test_estimator.py test_smoothing.py",
    ),
    Mutation(
        "pairs of equal signs",
        "samplers.py",
        "return jnp.concatenate([eps, -eps])",
        "return jnp.concatenate([eps, eps])",
        "test_samplers.py",
    ),
    Mutation(
        "orthogonal directions of one length",
        "samplers.py",
        "return jnp.linalg.norm(rows, axis=1, keepdims=True) * _rotation(rows)",
        "return dim**0.5 * _rotation(rows)",
        "test_samplers.py",
    ),
    Mutation(
        "half the logistic score",
        "noise.py",
        "return jnp.tanh(eps / 2)",
        "return jnp.tanh(eps / 2) / 2",
        "test_noise.py",
    ),
    Mutation(
        "Gumbel noise off its centre",
        "noise.py",
        "return -jnp.expm1(-eps - np.euler_gamma)",
        "return -jnp.expm1(-eps)",
        "test_noise.py",
    ),
    Mutation(
        "discarded samples counted",
        "_sums.py",
        "return saved.values.sum(0) / saved.kept.sum()",
        "return saved.values.sum(0) / saved.kept.size",
        "test_discard.py",
    ),
    Mutation(
        "second derivatives without the box",
        "_surrogate.py",
        "terms = values * box + chunk * (1 - box)",
        "terms = values * jax.lax.stop_gradient(box) + 0 * chunk",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "decisions compared with their own value",
        "_decision_estimators.py",
        "(values.sum(0, keepdims=True) - values) / (count - 1)",
        "values.mean(0, keepdims=True)",
        "test_decisions.py",
    ),
    Mutation(
        "some coordinates in place of all, not scaled",
        "_decision_estimators.py",
        "probs = law.probs(outcome)[chosen] * (law.num_coordinates / chosen_count)",
        "probs = law.probs(outcome)[chosen]",
        "test_decisions.py",
    ),
    Mutation(
        "the first places of a ranking, without those left",
        "_laws.py",
        "if k < size:",
        "if k < 0:",
        "test_decisions.py",
    ),
    Mutation(
        "the closed form's gradient 1 % too small",
        "_exact.py",
        'return value, -einsum("...k,...k->...", slopes, *tangents)',
        'return value, -0.99 * einsum("...k,...k->...", slopes, *tangents)',
        "test_exact.py",
    ),
    Mutation(
        "a control variate scaled on its own half",
        "_control.py",
        "for own, other, size in ((first, second, sizes[0]), (second, first, sizes[1]))",
        "for own, other, size in ((first, first, sizes[0]), (second, second, sizes[1]))",
        "test_control.py",
    ),
    Mutation(
        "the same samples on every device",
        "_sampling.py",
        "first = jax.lax.axis_index(axes) * samples_of_device(problem)",
        "first = jnp.int32(0)",
        "test_sharding.py",
    ),
    Mutation(
        "another rotation in threefry",
        "_random.py",
        "(13, 15, 26, 6)",
        "(13, 15, 26, 7)",
        "test_random.py",
    ),
    Mutation(
        "standard errors of samples, not of groups",
        "_statistics.py",
        "1 / jnp.where(several, 1 - (shares**2).sum(), 1)",
        "1 / jnp.where(several, 1 / (shares**2).sum() - 1, 1)",
        "test_diagnostics.py",
    ),
    Mutation(
        "one key for both halves of a control variate",
        "_control.py",
        "keys = jax.random.split(key)",
        "keys = [key, key]",
        "test_control.py",
    ),
    Mutation(
        "the first coordinate of independent draws larger",
        "samplers.py",
        "lambda key, dtype: noise.sample(key, (1, dim), dtype)",
        "lambda key, dtype: noise.sample(key, (1, dim), dtype).at[0, 0].multiply(1.1)",
        "test_laws.py",
    ),
    Mutation(
        "one σ for all coordinates in its gradient",
        "_sums.py",
        "in_sigma.reshape(sigma.shape) / sigma",
        "in_sigma.reshape(sigma.shape) / sigma.mean()",
        "test_smoothing.py",
    ),
    Mutation(
        "a lone group compared with nothing",
        "_sums.py",
        "(jnp.where(alone, 0, c) for c in",
        "(c for c in",
        "test_discard.py",
    ),
    Mutation(
        "second derivatives with what was discarded",
        "_surrogate.py",
        "jnp.where(kept[:, None] > 0, terms, 0).sum(0)",
        "terms.sum(0)",
        "test_discard.py",
    ),
    Mutation(
        "the bias of many blocks added up",
        "diagnostics.py",
        "bias=root_of_sum(reports.bias)",
        "bias=reports.bias.sum(axis)",
        "test_diagnostics.py",
    ),
]


def stale(mutation: Mutation) -> str | None:
    """Says why a break does not apply to the package as it is; None: it does."""
    name, file, old, *_ = mutation
    count = (ROOT / "esjax" / file).read_text("utf-8").count(old)
    return None if count == 1 else f"{name}: {file} holds {old!r} {count} times; give text that is there once"


def main(names: list[str]) -> int:
    """Makes the breaks of those names, or all; returns how many of them went unseen."""
    unknown = set(names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        raise SystemExit(f"no such break: {sorted(unknown)}; there are {[m.name for m in MUTATIONS]}")
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    if complaints := list(filter(None, map(stale, chosen))):
        raise SystemExit("\n".join(complaints))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("esjax", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        everything = sorted({test for mutation in chosen for test in mutation.tests.split()})
        if _is_red(copy, " ".join(everything)):
            raise SystemExit("the tests are red without any break")
        unseen = [mutation.name for mutation in chosen if not _is_seen(copy, mutation)]
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} breaks seen", *unseen, sep="\n  unseen: ")
    return len(unseen)


def _is_seen(copy: Path, mutation: Mutation) -> bool:
    path = copy / "esjax" / mutation.file
    sound = path.read_text("utf-8")
    path.write_text(sound.replace(mutation.old, mutation.new), "utf-8")
    found = _is_red(copy, mutation.tests)
    path.write_text(sound, "utf-8")
    print("seen  " if found else "UNSEEN", mutation.name, flush=True)
    return found


def _is_red(copy: Path, tests: str) -> bool:
    """Runs the tests in the copy, until the first that fails; raises where they cannot be run."""
    files = [str(copy / "tests" / name) for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode != 0 and (" failed" not in last or " error" in last):
        raise SystemExit(f"pytest could not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
