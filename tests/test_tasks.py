"""Tasks: the frame against arithmetic by hand, the data as it is, and each task from end to end."""

import json
from typing import get_args

import jax
import numpy as np
import pytest

from esjax.tasks import TASKS, frame, models, noisy, ranking, survival, yeast
from esjax.train import cli, data, folder
from esjax.train.data import Dataset

TASK = frame.Task(
    "loss of nothing",
    "base",
    "ours",
    higher_is_better=False,
    seeds=2,
    test_over_train=0.0,
    compare=lambda seed, on_fit: {},
    fits=1,
)


def test_rows_are_means_with_standard_errors_and_paired_differences():
    results = [{"base": 3.0, "ours": 1.0}, {"base": 5.0, "ours": 3.2}]
    base, ours = frame.summarise(TASK, results)
    assert base.metric == pytest.approx((4.0, 1.0)) and base.difference == (0.0, 0.0)
    assert ours.metric == pytest.approx((2.1, 1.1)) and ours.difference == pytest.approx((-1.9, 0.1))
    assert frame.verdict(TASK, results) == "ours beats base by 1.9000 ± 0.1000"
    assert "does not beat" in frame.verdict(TASK._replace(higher_is_better=True), results)
    _, ours = frame.summarise(TASK._replace(test_over_train=0.5), results)
    assert ours.difference == pytest.approx((-1.9, 0.2**0.5 * 0.2**0.5 / 2**0.5))  # s = √0.02, √(1/2 + 1/2)
    close = [{"base": 3.0, "other": 1.5, "ours": 3.0}, {"base": 5.0, "other": 3.3, "ours": 4.8}]
    assert frame.verdict(TASK, close) == (
        "ours does not beat base: +0.1000 ± 0.1000\nours does not beat other: -1.5000 ± 0.0000"
    )


def test_the_command_line_knows_every_task():
    assert list(get_args(cli.TaskName)) == sorted(TASKS)


def test_folds_hold_each_example_out_once_and_the_best_options_win():
    seen = []

    def metric(options, fitted, held):
        seen.append(held)
        assert not set(fitted) & set(held) and len(fitted) + len(held) == 10
        return options["a"] * options["b"]

    candidates = frame.grid(a=(1, 2), b=(3, -4))
    assert frame.best_by_folds(candidates, metric, 10, seed=0) == {"a": 2, "b": 3}
    assert sorted(np.concatenate(seen[:3]).tolist()) == list(range(10))


def test_the_data_are_those_that_people_know():
    features, labels = yeast.load()
    assert features.shape == (2417, 103) and labels.shape == (2417, 14)
    assert labels.sum(1).mean() == pytest.approx(4.237, abs=1e-3)  # the cardinality that papers give
    covariates, times, events = survival.load()
    assert covariates.shape == (686, 9) and events.sum() == 299 and times.max() == 2659


def test_thresholds_are_those_of_the_highest_f1():
    scores = np.linspace(-1, 1, 200)[:, None]
    labels = (scores > 0.3).astype(int)
    assert yeast._thresholds(scores, labels) == pytest.approx([0.3], abs=0.02)


def test_scores_begin_at_zero_and_fit_lowers_the_loss():
    x = jax.random.normal(jax.random.key(0), (50, 4))
    params = models.init(jax.random.key(1), 4, 2, hidden=8)
    assert not models.scores(params, x).any()

    def loss(params, key, data):
        return ((models.scores(params, data[0]) - data[0][:, :2]) ** 2).mean()

    fitted = models.fit(loss, params, jax.random.key(2), (x,), num_steps=200, rate=0.03, decay=0.0)
    assert loss(fitted, None, (x,)) < 0.05 * loss(params, None, (x,))


def test_the_bound_by_pairs_is_that_of_steck_by_hand():
    covariates, times, events = (array[:12] for array in survival.load())
    params = models.init(jax.random.key(0), 9, 1, hidden=0)
    params = params | {"linear": jax.random.normal(jax.random.key(1), (9, 1)) / 10}
    scores = np.asarray(models.scores(params, covariates)[:, 0], float)
    terms = [
        -np.log1p(np.exp(-(scores[j] - scores[i]) / 0.5))
        for i in range(12)
        for j in range(12)
        if times[i] < times[j] and events[i]
    ]
    found = survival._pairs_loss(0.5)(params, None, (covariates, times, events))
    np.testing.assert_allclose(found, -np.mean(terms), rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_task_ends_with_table_verdict_and_picture(tmp_path, capsys, monkeypatch):
    small = {"hidden": (16,), "num_steps": (50,), "decay": (1.0,)}
    monkeypatch.setattr(survival, "_COX", frame.grid(**small))
    monkeypatch.setattr(survival, "_PAIRS", frame.grid(temperature=(1.0,), **small))
    monkeypatch.setattr(survival, "_CONCORDANCE", frame.grid(sigma=(1.0,), **small))
    out = tmp_path / "task"
    assert cli.main(["task", "survival", "--seeds", "2", "--out", str(out)]) == 0
    printed, fits = capsys.readouterr().out, 2 * TASKS["survival"](None).fits
    assert f" {fits}/{fits} " in printed  # as many as were counted before
    assert "concordance itself, network" in printed and "beat Cox" in printed
    assert (out / "table.md").read_text().count("\n| ") == 4
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_a_task_that_was_stopped_goes_on_after_its_finished_splits(tmp_path, capsys, monkeypatch):
    done, out = [], str(tmp_path / "task")

    def compare(seed, on_fit):
        on_fit()
        if seed == len(done) == 2:
            done.append("stopped")
            raise KeyboardInterrupt
        done.append(seed)
        return {"base": 1.0 + seed, "ours": 0.5 * seed}

    task = TASK._replace(compare=compare, seeds=4, checksum="a")
    monkeypatch.setitem(TASKS, "yeast", lambda data: task)
    with pytest.raises(SystemExit, match="130"):
        cli.main(["task", "yeast", "--out", out])
    assert f"esjax task yeast --resume {out}" in capsys.readouterr().err
    with (tmp_path / "task" / "log.jsonl").open("a") as file:
        file.write('{"base": 1')  # the line that a kill cuts short
    monkeypatch.setitem(TASKS, "yeast", lambda data: task._replace(checksum="b"))
    assert cli.main(["task", "yeast", "--resume", out]) == 2
    assert "begun with other data" in capsys.readouterr().err
    assert cli.main(["task", "survival", "--resume", out]) == 2
    assert "holds the task yeast, not survival" in capsys.readouterr().err
    monkeypatch.setitem(TASKS, "yeast", lambda data: task)
    with folder.locked(tmp_path / "task"):
        assert cli.main(["task", "yeast", "--resume", out]) == 2
    assert "another process is at work" in capsys.readouterr().err
    assert cli.main(["task", "yeast", "--resume", out]) == 0
    assert done == [0, 1, "stopped", 2, 3]
    assert "2 of 4 splits are finished already" in (printed := capsys.readouterr().out) and " 4/4 " in printed
    results = json.loads((tmp_path / "task" / frame.RESULTS).read_text())
    assert results == [{"base": 1.0 + seed, "ours": 0.5 * seed} for seed in range(4)]


def _without_fitting(monkeypatch):
    """Small data, and models that stay as they begin."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(size=(40, 28, 28, 1)).astype(np.float32), np.arange(40) % 10
    small = Dataset("noise", images, labels, images, labels, 10)
    queries = ranking.Queries(np.ones((86, 3, 136)), np.ones((86, 3)), np.ones((86, 3), bool))
    for target, value in {
        "assignment.regret": lambda params, examples: 0.0,
        "codec.accuracy": lambda *_: 0.0,
        "codec.common_factor": lambda *_: 1.0,
        "codec._initial": lambda *_: {"encoder": None},
        "codec.weighted_by": lambda encoder, image: image,
        "models.fit": lambda loss, params, *_, **__: params,
        "noisy.fit": lambda *_: noisy.Fit(0.0, [0.0]),
        "noisy.load": lambda folder: small,
        "ranking.load": lambda archive: queries,
        "shortest_path._fit": lambda loss, params, *_, **__: params,
        "shortest_path.regret": lambda params, tiles: 0.0,
        "terrain.cut": lambda corners: None,
    }.items():
        monkeypatch.setattr(f"esjax.tasks.{target}", value)
    monkeypatch.setattr(data, "load", lambda source: small)


@pytest.mark.parametrize("name", ["assignment", "codec", "noisy-40", "ranking", "shortest-path"])
def test_as_many_models_are_fitted_as_were_counted_before(monkeypatch, name):
    _without_fitting(monkeypatch)
    task, fits = TASKS[name](None), []
    task.compare(0, lambda: fits.append(0))
    assert len(fits) == task.fits


@pytest.mark.large
def test_yeast_compares_four_methods(monkeypatch):
    monkeypatch.setattr(yeast, "_LOGISTIC", frame.grid(hidden=(0,), decay=(1.0,)))
    for name in ("_ON_F1", "_ON_SIGMOIDS"):
        monkeypatch.setattr(yeast, name, frame.grid(hidden=(0,), decay=(1.0,), sigma=(1.0,)))
    task, fits = TASKS["yeast"](None), []
    plain, tuned, sigmoids, ours = task.compare(0, lambda: fits.append(0)).values()
    assert plain < tuned and sigmoids > 0.44 and ours > 0.44 and len(fits) == task.fits


def test_wrong_input_is_said_in_one_line(tmp_path, capsys):
    assert cli.main(["task", "survival", "--seeds", "1"]) == 2
    assert "seeds=1 must be >= 2" in capsys.readouterr().err
    assert cli.main(["task", "survival", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["task", "survival", "--data", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    assert "ship in a package" in capsys.readouterr().err
