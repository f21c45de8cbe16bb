"""Assignments whose costs are predicted: predict, then optimise, on data as its literature makes them.

A linear model predicts the 5 × 5 costs of who does what from 5 features; SciPy's solver assigns. Its regret
is the true cost of the assignments over the least, minus 1. Costs are of degree 6 in the features, times
noise (Elmachtoub and Grigas 2022, sec. 6.1, scaled as in PyEPO), so that no linear model is right, and it
matters where it is wrong. Beside least squares: SPO+, differentiation of the black box, and the perturbed
Fenchel–Young loss. All three start from least squares, and choose their options on a quarter of the examples.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import esjax
from esjax.tasks import frame, models

Array = jax.Array

_SIZE = 5
_NUM_FEATURES = 5
_DEGREE = 6
_NOISE = 0.5  # half of the width of the factor's range
_NUM_TRAIN = 1000
_NUM_TEST = 10_000
_BATCH = 32
_NUM_STEPS = 1000
_RATES = (0.003, 0.01)
_SPO_PLUS = frame.grid(rate=_RATES)
_BLACK_BOX = frame.grid(rate=_RATES, step=(1.0, 10.0))
_FENCHEL_YOUNG = frame.grid(rate=_RATES, sigma=(0.1, 0.5))


class Examples(NamedTuple):
    """Features (n, 5), true costs (n, 25), and the cheapest assignments (n, 25), of zeros and ones."""

    features: NDArray[np.float32]
    costs: NDArray[np.float32]
    best: NDArray[np.float32]


def task() -> frame.Task:
    """Returns the task."""
    return frame.Task(
        title="regret of assignments",
        baseline="least squares",
        ours="Fenchel–Young",
        higher_is_better=False,
        seeds=10,
        test_over_train=0.0,  # each seed has data of its own
        compare=compare,
        fits=1 + sum(len(options) + 1 for options in (_SPO_PLUS, _BLACK_BOX, _FENCHEL_YOUNG)),
    )


def compare(seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns the regret on the test set of each method; see `frame.Task`."""
    train, test = make(np.random.default_rng(seed), _NUM_TRAIN, _NUM_TEST)
    some, held = (
        Examples(*(array[rows] for array in train)) for rows in np.split(np.arange(_NUM_TRAIN), [750])
    )
    first_of_some, first = least_squares(some), least_squares(train)
    on_fit()

    def fitted(loss: models.Loss, start: models.Params, examples: Examples, rate: float) -> models.Params:
        data = tuple(jnp.asarray(array) for array in examples)
        how = {"num_steps": _NUM_STEPS, "rate": rate, "decay": 0.0}
        params = models.fit(loss, start, jax.random.key(seed), data, **how)
        on_fit()
        return params

    def chosen(candidates: list[dict[str, Any]], loss: Callable[..., models.Loss]) -> float:
        def on_held(options: dict[str, Any]) -> float:
            rate, *others = options.values()
            return regret(fitted(loss(*others), first_of_some, some, rate), held)

        rate, *others = min(candidates, key=on_held).values()
        return regret(fitted(loss(*others), first, train, rate), test)

    return {
        "least squares": regret(first, test),
        "SPO+": chosen(_SPO_PLUS, lambda: _spo_plus),
        "black box": chosen(_BLACK_BOX, _black_box),
        "Fenchel–Young": chosen(_FENCHEL_YOUNG, _fenchel_young),
    }


# --- data --------------------------------------------------------------------------------------------


def make(rng: np.random.Generator, *counts: int) -> list[Examples]:
    """Draws sets of examples, of these numbers, from one distribution.

        cost_j = ((⟨b_j, x⟩ / √p + 3)^6 + 1) / 3.5^6 · u_j,   x ~ N(0, I), u_j ~ U(0.5, 1.5)

    with b_j of random zeros and ones, the same in all sets.
    """
    mixed = rng.integers(0, 2, (_NUM_FEATURES, _SIZE**2))
    sets = []
    for count in counts:
        x = rng.normal(size=(count, _NUM_FEATURES))
        sums = (x @ mixed / _NUM_FEATURES**0.5 + 3) ** _DEGREE + 1
        costs = sums / 3.5**_DEGREE * rng.uniform(1 - _NOISE, 1 + _NOISE, sums.shape)
        best = np.stack([cheapest(each) for each in costs])
        sets.append(Examples(x.astype(np.float32), costs.astype(np.float32), best))
    return sets


def cheapest(costs: NDArray[Any]) -> NDArray[np.float32]:
    """Returns 1 for each pair that the cheapest assignment makes, 0 for others, (n²,) for costs (n²,)."""
    size = round(len(costs) ** 0.5)
    rows, columns = linear_sum_assignment(costs.reshape(size, size))
    found = np.zeros((size, size), np.float32)
    found[rows, columns] = 1
    return found.ravel()


_solve = esjax.host.wrap(cheapest, np.zeros(_SIZE**2, np.float32))


def regret(params: models.Params, examples: Examples) -> float:
    """Returns by which share the predicted assignments cost more than the cheapest ones, all together."""
    predicted = np.asarray(models.scores(params, jnp.asarray(examples.features)))
    chosen = np.stack([cheapest(costs) for costs in predicted])
    return float((chosen * examples.costs).sum() / (examples.best * examples.costs).sum() - 1)


def least_squares(examples: Examples) -> models.Params:
    """Returns the linear model with the least squared error of costs."""
    x = np.column_stack([examples.features, np.ones(len(examples.features))])
    found, *_ = np.linalg.lstsq(x, examples.costs.astype(np.float64))
    return {"linear": jnp.asarray(found[:-1], jnp.float32), "offset": jnp.asarray(found[-1], jnp.float32)}


# --- losses ------------------------------------------------------------------------------------------


def _batch(params: models.Params, key: Any, data: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Returns predicted costs, true costs and the cheapest assignments of a batch, each (batch, 25)."""
    rows = jax.random.randint(key, (_BATCH,), 0, len(data[0]))
    features, costs, best = (array[rows] for array in data)
    return models.scores(params, features), costs, best


def _answer(costs: Array) -> Array:
    return jax.vmap(_solve)(jax.lax.stop_gradient(costs))


def _spo_plus(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
    """The mean of −min_y ⟨2 ĉ − c, y⟩ + 2 ⟨ĉ, y*⟩ − ⟨c, y*⟩ (Elmachtoub and Grigas 2022, def. 3)."""
    predicted, costs, best = _batch(params, key, data)
    reflected = 2 * predicted - costs
    return (reflected * (best - _answer(reflected))).sum(1).mean()


@cache
def _black_box(step: float) -> models.Loss:
    """A loss whose gradient is (y(ĉ + λ c) − y(ĉ)) / λ, for ⟨c, y(ĉ)⟩ (Pogančić et al. 2020, alg. 1)."""

    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        predicted, costs, _ = _batch(params, key, data)
        moved = _answer(predicted + step * costs) - _answer(predicted)
        return (predicted * moved).sum(1).mean() / step

    return loss


@cache
def _fenchel_young(sigma: float) -> models.Loss:
    of_one = esjax.losses.fenchel_young(
        lambda theta: _solve(-theta), sigma=sigma, num_samples=8, sampler=esjax.samplers.antithetic
    )

    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        batch_key, noise_key = jax.random.split(key)
        predicted, _, best = _batch(params, batch_key, data)
        return jax.vmap(of_one)(jax.random.split(noise_key, len(best)), -predicted, best).mean()

    return loss
