"""`python -m esjax.benchmarks.mnist`: MNIST-5k by evolution strategies in all weights, on accuracy alone.

No gradient is taken anywhere: `esjax.smooth_weights`, and evosax's OpenES with full noise, see how many
images of a batch are right. Both have the same network, first weights, batches of images that are moved by up
to a pixel, rule for σ (`esjax.sigma.by_fan_in`), Adam with weight decay, and wall time, over which the rate
falls as a cosine. They take turns of a few steps, so that a busy machine slows both; the clock of each counts
its own turns, without compilation and tests.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from evosax.algorithms import Open_ES
from jax.flatten_util import ravel_pytree

import esjax
from esjax.benchmarks import mnist_networks, plots, report
from esjax.benchmarks.mnist_networks import Problem
from esjax.benchmarks.report import Curve, Row, Section, Table

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains a network by esjax and by OpenES for the same time, prints a table, and draws test errors.

    Attributes:
        network: 784 pixels as 64 principal components, 64 hidden units, 10 logits; or two convolutions, of
            stride 4 and 2, with 8 and 16 channels, and 10 logits.
        seconds: of training for each of the two, without compilation and tests.
        num_samples: N of esjax.
        population: N of OpenES.
        batch_size: images that each sample is scored by.
        shift: pixels by which images are moved at random, up to.
        sigma: σ₀, over the root of the fan-in.
        sigma_open_es: the same of OpenES.
        learning_rate: of Adam, at the start.
        learning_rate_open_es: the same of OpenES.
        weight_decay: as in `optax.adamw`.
        turn: steps in a row.
        seed: of weights, batches and noise.
        only: which of the two is trained.
        out: the folder for the picture.
    """

    network: Literal["mlp", "cnn"] = "mlp"
    seconds: float = 180.0
    num_samples: int = 512
    population: int = 256
    batch_size: int = 256
    shift: int = 1
    sigma: float = 0.3
    sigma_open_es: float = 0.3
    learning_rate: float = 0.01
    learning_rate_open_es: float = 0.01
    weight_decay: float = 0.5
    turn: int = 20
    seed: int = 0
    only: Literal["both", "esjax", "evosax"] = "both"
    out: Path = Path("benchmarks")


class Contender(NamedTuple):
    """An optimiser of the weights: where it starts, a step, and the weights that it has arrived at."""

    state: Any
    step: Callable[[Any, Array, Array, Array, Array], Any]  # (state, key, images, labels, rate) -> state
    params: Callable[[Any], Any]


class Trained(NamedTuple):
    """A contender's test: steps and seconds before it, shares that are right, and seconds of compilation."""

    steps: int
    seconds: float
    test: float
    train: float
    compile_seconds: float


def main(options: Options) -> dict[str, list[Trained]]:
    """Prints the table, draws the picture, and returns what each contender had learned after each turn."""
    problem = mnist_networks.problem(options.network, jax.random.key(options.seed))
    known = {"esjax": _with_esjax, "evosax, OpenES": _with_evosax}
    contenders = {
        name: make(options, problem)
        for name, make in known.items()
        if options.only == "both" or name.startswith(options.only)
    }
    found = _taking_turns(options, problem, contenders)
    rows: list[Row] = [
        {
            "": name,
            "test accuracy": tests[-1].test,
            "on the training set": tests[-1].train,
            "steps": tests[-1].steps,
            "seconds": tests[-1].seconds,
            "and to compile": tests[-1].compile_seconds,
        }
        for name, tests in found.items()
    ]
    title = f"MNIST-5k, {options.network}, {report.environment()['device']}"
    curves = [_curve(name, _thinned(tests)) for name, tests in found.items()]
    print(report.markdown(Section(title, [Table("Accuracy at equal wall time", rows)], [], curves)))
    options.out.mkdir(parents=True, exist_ok=True)
    plots.draw(options.out / f"mnist-{options.network}.png", curves, title)
    return found


def _curve(name: str, tests: list[Trained]) -> Curve:
    seconds, errors = [each.seconds for each in tests], [1 - each.test for each in tests]
    return Curve("seconds of training", "test error, 1 − accuracy", name, seconds, errors)


# --- contenders --------------------------------------------------------------------------------------


def _with_esjax(options: Options, problem: Problem) -> Contender:
    smoothed = esjax.smooth_weights(
        partial(mnist_networks.right, problem.logits),
        sigma=esjax.sigma.by_fan_in(problem.params, options.sigma),
        num_samples=options.num_samples,
    )
    optimiser = _adam(options, jax.tree.map(jnp.ones_like, problem.params))

    def step(state: Any, key: Array, images: Array, labels: Array, rate: Array) -> Any:
        params, moments = state
        gradient = jax.grad(smoothed, argnums=1)(key, params, images, labels)
        moments = _at_rate(moments, rate * options.learning_rate)
        updates, moments = optimiser.update(jax.tree.map(jnp.negative, gradient), moments, params)
        return optax.apply_updates(params, updates), moments

    return Contender((problem.params, optimiser.init(problem.params)), step, lambda state: state[0])


def _with_evosax(options: Options, problem: Problem) -> Contender:
    """OpenES has one σ: it searches in weights over their scales, in which Adam's rate is scaled alike."""
    scales = esjax.sigma.by_fan_in(problem.params, 1.0)
    start = jax.tree.map(jnp.divide, problem.params, scales)
    vector, unravel = ravel_pytree(start)
    of_entries = ravel_pytree(jax.tree.map(jnp.full_like, start, scales))[0]
    strategy = Open_ES(
        options.population,
        vector,
        optimizer=_adam(options, 1 / of_entries),
        std_schedule=optax.constant_schedule(options.sigma_open_es),
    )
    fixed = strategy.default_params

    def params(state: Any) -> Any:
        return jax.tree.map(jnp.multiply, unravel(state.mean), scales)

    def step(state: Any, key: Array, images: Array, labels: Array, rate: Array) -> Any:
        ask_key, tell_key = jax.random.split(key)
        state = state.replace(opt_state=_at_rate(state.opt_state, rate * options.learning_rate_open_es))
        population, state = strategy.ask(ask_key, state, fixed)

        def wrong(each: Array) -> Array:
            weights = jax.tree.map(jnp.multiply, unravel(each), scales)
            return 1 - mnist_networks.right(problem.logits, weights, images, labels)

        return strategy.tell(tell_key, population, jax.vmap(wrong)(population), state, fixed)[0]

    state = strategy.init(jax.random.key(options.seed), vector, fixed).replace(mean=vector)
    return Contender(state, step, params)


def _adam(options: Options, units: Any) -> optax.GradientTransformation:
    """Returns AdamW with steps in the units of each weight, of which `_at_rate` says the rate."""

    def with_rate(rate: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(),
            optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, units)),
            optax.add_decayed_weights(options.weight_decay),
            optax.scale_by_learning_rate(rate),
        )

    return optax.inject_hyperparams(with_rate)(rate=0.0)


def _at_rate(moments: Any, rate: Array) -> Any:
    return moments._replace(hyperparams={"rate": rate})


# --- time --------------------------------------------------------------------------------------------


def _taking_turns(
    options: Options, problem: Problem, contenders: dict[str, Contender]
) -> dict[str, list[Trained]]:
    """Gives the next turn to the one that has had the least time, until all have had theirs."""
    turns = {name: _turns(options, problem, contender) for name, contender in contenders.items()}
    found = {name: [next(own)] for name, own in turns.items()}
    while min(tests[-1].seconds for tests in found.values()) < options.seconds:
        name = min(found, key=lambda name: found[name][-1].seconds)
        found[name].append(next(turns[name]))
    return found


def _turns(options: Options, problem: Problem, contender: Contender) -> Iterator[Trained]:
    state, key, steps, seconds = contender.state, jax.random.key(options.seed), 0, 0.0
    examples = problem.images, problem.labels
    start = time.perf_counter()
    turn = jax.jit(partial(_turn, options, contender)).lower(state, key, jnp.float32(0), *examples).compile()
    compile_seconds = time.perf_counter() - start
    tested = jax.jit(lambda params: mnist_networks.tested(problem, params))
    while True:
        key, own = jax.random.split(key)
        rate = jnp.float32(0.5 + 0.5 * math.cos(math.pi * min(seconds / options.seconds, 1)))
        start = time.perf_counter()
        state = turn(state, own, rate, *examples)
        jax.tree.map(lambda leaf: leaf.block_until_ready(), state)
        seconds += time.perf_counter() - start
        steps += options.turn
        test, train = map(float, tested(contender.params(state)))
        yield Trained(steps, seconds, test, train, compile_seconds)


def _turn(
    options: Options, contender: Contender, state: Any, key: Any, rate: Array, images: Array, labels: Array
) -> Any:
    def step(state: Any, key: Any) -> tuple[Any, None]:
        batch_key, shift_key, key = jax.random.split(key, 3)
        batch = jax.random.choice(batch_key, len(labels), (options.batch_size,), replace=False)
        shifted = mnist_networks.shifted(shift_key, images[batch], options.shift)
        return contender.step(state, key, shifted, labels[batch], rate), None

    return jax.lax.scan(step, state, jax.random.split(key, options.turn))[0]


def _thinned(tests: list[Trained], most: int = 60) -> list[Trained]:
    """Returns tests at about equal distances on a logarithmic axis, the last among them."""
    numbers = np.unique(np.geomspace(1, len(tests), most).round().astype(int))
    return [tests[number - 1] for number in numbers]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
