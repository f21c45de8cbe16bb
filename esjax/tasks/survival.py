"""Concordance on GBSG2: 686 women with breast cancer, shipped in lifelines (Schumacher et al. 1994).

Baseline: Cox's proportional hazards. Ours: a network trained on Harrell's concordance itself, smoothed, in
closed form. In between: the same network on Cox's partial likelihood, and on the bound of concordance that
people use, the mean over comparable pairs of log sigmoid((s_j − s_i) / T) (Steck et al. 2007). All choose
their options by folds of the training set.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import esjax
from esjax.tasks import frame, models

Array = jax.Array

_NUM_TRAIN = 457  # two thirds
_PENALTIES = frame.grid(penalizer=(0.0, 0.003, 0.01, 0.03, 0.1, 0.3))
_COX = frame.grid(hidden=(16, 64), num_steps=(50, 100), decay=(1.0, 3.0))
_CONCORDANCE = frame.grid(hidden=(16, 64), num_steps=(50, 100), decay=(1.0, 3.0), sigma=(1.0, 3.0))
_PAIRS = frame.grid(hidden=(16, 64), num_steps=(50, 100), decay=(1.0, 3.0), temperature=(0.3, 1.0))


def task() -> frame.Task:
    """Returns the task; raises `ModuleNotFoundError` where lifelines is not installed."""
    load()
    return frame.Task(
        title="concordance on GBSG2",
        baseline="Cox",
        ours="concordance itself, network",
        higher_is_better=True,
        seeds=20,
        test_over_train=(686 - _NUM_TRAIN) / _NUM_TRAIN,
        compare=compare,
        fits=frame.num_fits(_PENALTIES, _COX, _PAIRS, _CONCORDANCE),
    )


@cache
def load() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Returns covariates (686, 9), times (686,) in days, and whether the event was seen (686,)."""
    try:
        from lifelines.datasets import load_gbsg2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "GBSG2 ships in the package lifelines; run pip install 'esjax[tasks]'", name="lifelines"
        ) from error
    table = load_gbsg2()
    columns = [
        table["horTh"] == "yes",
        table["menostat"] == "Post",
        table["tgrade"] == "II",
        table["tgrade"] == "III",
        *(table[name] for name in ("age", "tsize", "pnodes", "progrec", "estrec")),
    ]
    covariates = np.stack([np.asarray(column, np.float32) for column in columns], 1)
    return covariates, np.asarray(table["time"], np.float32), np.asarray(table["cens"], np.float32)


def compare(seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns the test set's concordance of each method, for a random split; see `frame.Task`."""
    x, times, events = load()
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    x = (x - x[train].mean(0)) / x[train].std(0)

    def fitted(options: dict[str, Any], rows: NDArray[np.int64]) -> models.Params:
        loss = _loss(options)
        data = tuple(jnp.asarray(array[rows]) for array in (x, times, events))
        params = models.init(jax.random.key(seed), x.shape[1], 1, options["hidden"])
        how = {"num_steps": options["num_steps"], "decay": options["decay"], "rate": 0.01}
        return models.fit(loss, params, jax.random.key(seed), data, **how)

    def network(options: dict[str, Any], rows: NDArray[np.int64], held: NDArray[np.int64]) -> float:
        found = models.scores(fitted(options, rows), jnp.asarray(x[held]))[:, 0]
        return float(esjax.blocks.concordance(found, times[held], events[held]))

    def cox(options: dict[str, Any], rows: NDArray[np.int64], held: NDArray[np.int64]) -> float:
        return _cox(x, times, events, rows, held, **options)

    def by_folds(candidates: list[dict[str, Any]], metric: Callable[..., float]) -> float:
        def counted(options: dict[str, Any], rows: NDArray[np.int64], held: NDArray[np.int64]) -> float:
            found = metric(options, rows, held)
            on_fit()
            return found

        chosen = frame.best_by_folds(
            candidates,
            lambda options, some, held: counted(options, train[some], train[held]),
            len(train),
            seed=seed,
        )
        return counted(chosen, train, test)

    return {
        "Cox": by_folds(_PENALTIES, cox),
        "Cox, network": by_folds(_COX, network),
        "pairs, logistic loss, network": by_folds(_PAIRS, network),
        "concordance itself, network": by_folds(_CONCORDANCE, network),
    }


def _cox(x: Any, times: Any, events: Any, train: Any, test: Any, penalizer: float) -> float:
    import pandas as pd
    from lifelines import CoxPHFitter

    table = pd.DataFrame(x[train]).assign(time=times[train], event=events[train])
    model = CoxPHFitter(penalizer=penalizer).fit(table, "time", "event")
    risk = model.predict_partial_hazard(pd.DataFrame(x[test])).to_numpy(np.float32)
    return float(esjax.blocks.concordance(-risk, times[test], events[test]))


def _loss(options: dict[str, Any]) -> models.Loss:
    if "sigma" in options:
        return _concordance_loss(options["sigma"])
    return _pairs_loss(options["temperature"]) if "temperature" in options else _cox_loss


@cache
def _concordance_loss(sigma: float) -> models.Loss:
    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        x, times, events = data
        return -esjax.exact.concordance(models.scores(params, x)[:, 0], times, events, sigma)

    return loss


@cache
def _pairs_loss(temperature: float) -> models.Loss:
    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        x, times, events = data
        found = models.scores(params, x)[:, 0]
        sooner = ((times[:, None] < times[None, :]) & (events[:, None] > 0)).astype(found.dtype)
        ordered = jax.nn.log_sigmoid((found[None, :] - found[:, None]) / temperature)
        return -(sooner * ordered).sum() / sooner.sum()

    return loss


def _cox_loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
    """Minus Cox's log partial likelihood per event (Cox 1975), with ties as Breslow treats them."""
    x, times, events = data
    risk = -models.scores(params, x)[:, 0]
    at_risk = jnp.where(times[None, :] >= times[:, None], risk[None, :], -jnp.inf)
    return -((risk - jax.nn.logsumexp(at_risk, axis=1)) * events).sum() / events.sum()
