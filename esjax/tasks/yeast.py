"""Macro-F1 on Yeast: 2,417 genes, 14 labels, shipped in the package river (Elisseeff and Weston 2001).

Baselines: logistic loss with threshold 1/2, and with one for each label, tuned on the scores of held-out
folds; and a surrogate that people use, F1 of counts in which sigmoids stand for decisions (Bénédict et al.
2022, "sigmoidF1"). Ours: macro-F1 itself, smoothed, in closed form. All choose their options by folds of the
training set.
"""

import csv
import gzip
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from sklearn.metrics import f1_score

import esjax
from esjax.tasks import frame, models

Array = jax.Array

_NUM_TRAIN = 1500
_LOGISTIC = frame.grid(hidden=(0, 64), decay=(0.3, 1.0, 3.0, 10.0, 30.0))
_ON_F1 = frame.grid(hidden=(0, 64), decay=(1.0, 3.0, 6.0), sigma=(1.0, 3.0, 6.0))
_ON_SIGMOIDS = frame.grid(hidden=(0, 64), decay=(1.0, 3.0, 6.0), sigma=(0.3, 1.0, 3.0))


def task() -> frame.Task:
    """Returns the task; raises `ModuleNotFoundError` where river is not installed."""
    load()
    return frame.Task(
        title="macro-F1 on Yeast",
        baseline="logistic loss, tuned thresholds",
        ours="macro-F1 itself",
        higher_is_better=True,
        seeds=6,
        test_over_train=(2417 - _NUM_TRAIN) / _NUM_TRAIN,
        compare=compare,
        fits=3 * len(_LOGISTIC) + frame.num_fits(_ON_F1, _ON_SIGMOIDS) + 2,
    )


@cache
def load() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns features (2417, 103) and labels (2417, 14)."""
    spec = find_spec("river")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "Yeast ships in the package river; run pip install 'esjax[tasks]'", name="river"
        )
    with gzip.open(Path(spec.origin).parent / "datasets" / "yeast.csv.gz", "rt") as file:
        head, *rows = csv.reader(file)
    table = np.array(rows)
    is_label = np.array([name.startswith("Class") for name in head])
    labels = np.isin(np.char.upper(table[:, is_label]), ["TRUE", "1"])
    return table[:, ~is_label].astype(np.float32), labels.astype(np.int32)


def compare(seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns the test set's macro-F1 of each method, for a random split; see `frame.Task`."""
    x, y, test_x, test_y = _split(seed)

    def fitted(loss: models.Loss, options: dict[str, Any], rows: Any, **how: Any) -> models.Params:
        params = _fit(loss, x[rows], y[rows], seed, options, **how)
        on_fit()
        return params

    def logistic(options: dict[str, Any], rows: Any) -> models.Params:
        return fitted(_logistic_loss, options, rows, num_steps=400, rate=0.01)

    def out_of_fold(options: dict[str, Any]) -> NDArray[np.float32]:
        """Scores of all training examples by models that have not seen them, to tune thresholds on."""
        found = np.empty(y.shape, np.float32)
        for rows, held in frame.folds(len(x), seed=seed):
            found[held] = models.scores(logistic(options, rows), x[held])
        return found

    def on_f1(make_loss: Callable[[float], models.Loss], candidates: list[dict[str, Any]]) -> float:
        def of(options: dict[str, Any], rows: Any) -> models.Params:
            return fitted(make_loss(options["sigma"]), options, rows, num_steps=300, rate=0.03)

        def metric(options: dict[str, Any], rows: Any, held: Any) -> float:
            return _macro_f1(models.scores(of(options, rows), x[held]), y[held])

        best = frame.best_by_folds(candidates, metric, len(x), seed=seed)
        return _macro_f1(models.scores(of(best, slice(None)), test_x), test_y)

    unseen = [(options, out_of_fold(options)) for options in _LOGISTIC]
    plain_options, _ = max(unseen, key=lambda pair: _macro_f1(pair[1], y))
    tuned_options, tuned_scores = max(
        unseen, key=lambda pair: _macro_f1(pair[1] - _thresholds(pair[1], y), y)
    )
    plain_scores = models.scores(logistic(plain_options, slice(None)), test_x)
    test_scores = models.scores(logistic(tuned_options, slice(None)), test_x)
    return {
        "logistic loss, threshold 1/2": _macro_f1(plain_scores, test_y),
        "logistic loss, tuned thresholds": _macro_f1(test_scores - _thresholds(tuned_scores, y), test_y),
        "F1 of sigmoids": on_f1(_sigmoid_f1_loss, _ON_SIGMOIDS),
        "macro-F1 itself": on_f1(_f1_loss, _ON_F1),
    }


def _split(seed: int) -> tuple[Any, Any, Any, Any]:
    """Returns standardised features (1500, 103) and labels (1500, 14) to train on, and those to test on."""
    features, labels = load()
    order = np.random.default_rng(seed).permutation(len(features))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    features = (features - features[train].mean(0)) / features[train].std(0)
    return features[train], labels[train], features[test], labels[test]


def _fit(loss: models.Loss, x: Any, y: Any, seed: int, options: dict[str, Any], **how: Any) -> models.Params:
    key = jax.random.key(seed)
    params = models.init(key, x.shape[1], y.shape[1], options["hidden"])
    return models.fit(loss, params, key, (jnp.asarray(x), jnp.asarray(y)), decay=options["decay"], **how)


def _logistic_loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
    x, y = data
    return optax.sigmoid_binary_cross_entropy(models.scores(params, x), y).mean()


@cache
def _f1_loss(sigma: float) -> models.Loss:
    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        x, y = data
        return -esjax.exact.f1(models.scores(params, x), y, sigma)

    return loss


@cache
def _sigmoid_f1_loss(sigma: float) -> models.Loss:
    """Minus the mean over labels of 2 Σ y p / (Σ p + Σ y), p = sigmoid(score / σ)."""

    def loss(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        x, y = data
        chances = jax.nn.sigmoid(models.scores(params, x) / sigma)
        return -(2 * (y * chances).sum(0) / (chances.sum(0) + y.sum(0))).mean()

    return loss


def _thresholds(scores: Any, labels: Any) -> NDArray[np.float32]:
    """Returns for each label the threshold of the highest F1."""
    return np.array(
        [_threshold(*pair) for pair in zip(np.asarray(scores).T, labels.T, strict=True)], np.float32
    )


def _threshold(scores: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    candidates = np.quantile(scores, np.linspace(0.01, 0.99, 99))
    return float(max(candidates, key=lambda threshold: _f1(labels, scores > threshold)))


_f1 = partial(f1_score, zero_division=0)


def _macro_f1(scores: Any, labels: Any) -> float:
    return float(_f1(labels, np.asarray(scores) > 0, average="macro"))
