"""The commands as a user meets them: status, the last lines, and one line for each wrong input."""

import dataclasses
import json
import re
import shutil
from typing import get_args

import numpy as np
import pytest

from esjax.train import cli, compare, config, objectives, rl, run, sigmas
from esjax.train.loop import Epoch


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = (rng.uniform(0, 0.5, (80, 4, 4)) + 0.5 * labels[:, None, None]).astype(np.float32)
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return path


def _small(npz):
    return f"--data {npz} --network mlp --epochs 2 --batch-size 20 --num-samples 4".split()


def test_train_ends_with_accuracy_pictures_and_checkpoint(npz, tmp_path, capsys):
    out = tmp_path / "deep" / "run"
    assert cli.main(["train", *_small(npz), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data     bars" and any(re.fullmatch(r"test accuracy \d+\.\d%", x) for x in lines)
    pictures, saved = lines[-2:]
    assert saved == f"checkpoint  {out}/checkpoints/2"
    assert pictures == f"pictures    {out}/curves.png, {out}/confusion.png"
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in ("curves.png", "confusion.png"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_class_in_the_test_set_only_is_not_laid_to_sigma(npz, tmp_path, capsys):
    arrays = dict(np.load(npz))
    arrays["y_test"][:3] = 2
    np.savez(tmp_path / "more.npz", **arrays)
    options = [*_small(tmp_path / "more.npz"), "--objective", "cross-entropy", "--learning-rate", "0.1"]
    options += ["--held-out", "0"]
    assert cli.main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "warning: no training image of class 2, which therefore cannot be learned\n" in printed
    assert "never right for classes [2]\n" in printed and "--sigma" not in printed


NAMES = ["accuracy:exact", "macro-f1", "cross-entropy"]


def test_compare_prints_a_table_and_leaves_it_with_a_picture(npz, tmp_path, capsys):
    out = tmp_path / "compared"
    arguments = [*_small(npz), "--seeds", "2", "--k", "1", "--objectives", *NAMES]
    assert cli.main(["compare", *arguments, "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    printed = capsys.readouterr().out
    assert all(f"\n| {name} | " in printed and f"\n| {name} | " in table for name in NAMES)
    assert table.count("\n| ") == 1 + len(NAMES) and "0% random labels" in table
    epochs = json.loads((out / "results.json").read_text())["epochs"]
    assert [[len(seed) for seed in seeds] for seeds in epochs.values()] == [[2, 2]] * len(NAMES)
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_sigma_prints_a_table_and_leaves_it_with_a_picture(npz, tmp_path, capsys):
    out = tmp_path / "sigma"
    options = [*_small(npz), "--factors", "0.5", "1", "--sigma", "3"]
    assert cli.main(["sigma", *options, "--out", str(out)]) == 0
    table = (out / "table.md").read_text()
    assert table.count("\n| ") == 3 and table.count("best") == 1
    assert [line.split(" | ")[0] for line in table.splitlines()[-2:]] == ["| 1.5", "| 3"]
    assert "\n| 1.5 | 0.5 | " in capsys.readouterr().out
    assert (out / "sigma.png").read_bytes()[:4] == b"\x89PNG"


def test_a_trial_is_the_run_that_train_makes_with_that_sigma(npz):
    options = config.SigmaConfig(
        data=str(npz), network="mlp", epochs=2, batch_size=20, factors=(2.0,), seed=1
    )
    default = sigmas.set_up(options)
    (row,) = sigmas.try_all(options, default)
    assert row.sigma == 2 * default.config.sigma
    same = dataclasses.replace(default.config, sigma=row.sigma)
    *_, (_, last) = run.stream(run.set_up(same))
    assert (row.fitted, row.lost_classes) == (last.train_accuracy, last.lost_classes)


@pytest.mark.parametrize(("held_out", "best"), [((None, None, None), 1), ((0.5, 0.6, 0.7), 2)])
def test_the_best_sigma_is_chosen_by_held_out_labels_or_those_of_training(held_out, best):
    found = zip((0.8, 0.9, 0.7), held_out, ([], [3], []), strict=True)
    rows = [sigmas.Row(1.0, 1.0, None, *each) for each in found]
    assert sigmas.best(rows) == rows[best]


@pytest.mark.parametrize("name", get_args(config.Contender))
def test_each_contender_is_an_objective_and_an_estimator(name):
    options = config.CompareConfig(objectives=(name,), k=3).of_run(name, 1)
    known = objectives.PLAIN.keys() | {":".join(names).removesuffix(":es") for names in objectives.SMOOTHED}
    assert name in known and (options.seed, options.k) == (1, 3)
    assert f"{options.objective}:{options.estimator}".removesuffix(":es") == name


def test_diagnose_says_for_each_class_whether_its_gradient_is_signal(npz, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", *_small(npz)[:-1], "64", "--out", str(out)]) == 0
    before = (out / "log.jsonl").read_bytes()
    capsys.readouterr()
    assert cli.main(["diagnose", str(out), "--num-examples", "50"]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if "%" in line]
    assert [row[:2] for row in rows[:3]] == [["all", "50"], ["0", "25"], ["1", "25"]]
    assert 0 < float(rows[0][5]) < 50 and "signal-to-noise  " in printed
    assert "Of 50 examples, " in printed and " out of reach (right in fewer" in printed
    assert (out / "diagnosis-2.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "log.jsonl").read_bytes() == before


def test_diagnose_refuses_what_has_no_samples_of_single_examples(npz, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert cli.main(["train", *_small(npz), "--objective", "cross-entropy", "--out", out]) == 0
    assert cli.main(["diagnose", out]) == 2
    assert "diagnose a run of accuracy or top-k" in capsys.readouterr().err


def test_the_summary_is_mean_and_standard_error_over_seeds():
    def epoch(number, test, seconds, recall=(1.0, 0.5), kept=1):
        return Epoch(
            number, 0.0, test / 2, test, 0.5, 0.5, kept, list(recall), 1.0, None, [1.0, 1.0], seconds
        )

    epochs = {
        "slow": [
            [epoch(1, 0.9, 3.0), epoch(2, 0.7, 3.0, (1.0, 0.0), 2)],
            [epoch(1, 0.6, 3.0), epoch(2, 0.8, 3.0)],
        ],
        "quick": [[epoch(1, 0.1, 1.0), epoch(2, 0.1, 2.0)], [epoch(1, 0.1, 2.0), epoch(2, 0.1, 2.0)]],
    }
    slow, quick = compare.summarise(epochs)
    assert slow.kept == pytest.approx((0.65, 0.05))
    assert slow.last == pytest.approx((0.75, 0.05))
    assert slow.best == pytest.approx((0.85, 0.05))
    assert slow.fitted == pytest.approx((0.375, 0.025))
    assert (slow.lost_classes, quick.lost_classes) == (1, 0)
    assert (slow.milliseconds, slow.relative_time, quick.relative_time) == (3000.0, 1.5, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --sigma 0", "sigma=0.0 must be a finite number > 0"),
        ("train --sigma nan", "sigma=nan must be"),
        ("train --num-samples 2", "num_samples=2 must be a whole number >= 4"),
        ("train --num-samples 5", "num_samples=5 is odd.*use 6"),
        ("train --label-noise 1.5", r"label_noise=1.5 must be in \[0, 1\]"),
        ("train --epochs 0", "epochs=0 must be"),
        ("train --k 0", "k=0 must be a whole number >= 1"),
        ("train --objective top-k --k 3 --data {npz}", "k=3 is more than the 2 classes"),
        ("train --learning-rate inf", "learning_rate=inf must be"),
        ("train --seed -1", "seed=-1 must be"),
        ("train --checkpoint-every 0", "checkpoint_every=0 must be"),
        ("train --batch-size 55 --data {npz}", r"batch_size=55 must be in \[1, 54\]"),
        ("train --held-out 1.5", r"held_out=1.5 must be in \[0, 1\]"),
        (
            "train --held-out 1 --data {npz}",
            "share=1.0 holds 60 of 60 training examples out.*or 0 to train on",
        ),
        ("compare --held-out 0.001 --data {npz}", "share=0.001 holds 0 of 60 training examples out"),
        ("train --data {tmp}/none", "none: no such folder"),
        ("train --data {tmp}", "has no file train-images-idx3-ubyte"),
        ("train --resume {tmp}", "holds no run"),
        (
            "train --resume {tmp} --seed 2",
            "options from that folder; leave out --seed; --data may be given",
        ),
        ("train --data {npz} --resume={tmp} --seed=0 --out r", "leave out --seed, --out"),
        ("rl --resume {tmp} --population 32", "takes all options from that folder; leave out --population$"),
        ("trian --epochs 3", "no command trian; did you mean train\\? The commands"),
        ("--versoin", "did you mean --version"),
        ("lern", "no command lern; the commands are train, compare"),
        ("train --out {tmp}", "exists already; give another --out"),
        ("compare --out {tmp}", "exists already; give another --out"),
        ("diagnose {tmp}", "holds no run"),
        ("sigma --out {tmp}", "exists already; give another --out"),
        ("sigma --factors 3 1", "factors=.* ascending"),
        ("sigma --factors 0", "factors=0.0 must be a finite number > 0"),
        ("sigma --seed -1", "seed=-1 must be"),
        ("sigma --data {tmp}/none", "none: no such folder"),
        ("compare --seeds 1", "seeds=1 must be a whole number >= 2"),
        ("compare --objectives accuracy accuracy", "each only once"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(npz, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(npz=npz, tmp=tmp_path) for argument in arguments.split()]
    assert cli.main(filled) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("esjax: ")
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_a_mistyped_option_is_answered_with_the_one_that_may_be_meant(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "--epchs", "3"])
    assert re.search("--epchs.*meant.*--epochs", capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not sound JSON"), ("[]", "instead of the options"), ('{"data": 1}', "instead of the options")],
)
def test_a_damaged_config_is_said_in_words(tmp_path, capsys, text, message):
    (tmp_path / "config.json").write_text(text)
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare", "sigma", "rl", "task"])
def test_an_unwritable_out_is_found_before_the_work(tmp_path, capsys, monkeypatch, command):
    (tmp_path / "file").write_text("")
    for module in (run, rl):
        monkeypatch.setattr(module, "train" if module is rl else "set_up", None)  # what begins the work
    monkeypatch.setattr("esjax.tasks.TASKS", {})
    for out in (tmp_path / "file" / "deep" / "run", "/proc/run"):
        options = ["yeast"] if command == "task" else []
        assert cli.main([command, *options, "--out", str(out)]) == 2
        printed, error = capsys.readouterr()
        assert error.count("\n") == 1 and f"{out}: cannot be made" in error and not printed


def test_diverged_training_says_so_in_one_line(npz, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert cli.main(["train", *_small(npz), "--learning-rate", "1e30", "--out", out]) == 1
    assert re.search("epoch .*lower learning_rate", capsys.readouterr().err)


def test_neighbouring_folders_are_left_alone(npz, tmp_path, capsys):
    for name in ("a.part", "a"):
        assert cli.main(["train", *_small(npz), "--out", str(tmp_path / name)]) == 0
    assert all(len((tmp_path / name / "log.jsonl").read_text().splitlines()) == 2 for name in ("a.part", "a"))


def test_a_run_goes_on_from_another_folder(npz, tmp_path, monkeypatch):
    monkeypatch.chdir(npz.parent)
    out = tmp_path / "run"
    assert cli.main(["train", *_small(npz.name), "--out", str(out)]) == 0
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--resume", "run"]) == 0


def test_a_log_without_its_checkpoints_is_not_thrown_away(npz, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", *_small(npz), "--checkpoint-every", "1", "--out", str(out)]) == 0
    shutil.rmtree(out / "checkpoints")
    assert cli.main(["train", "--resume", str(out)]) == 2
    assert "no checkpoint, though the log has 2 epochs" in capsys.readouterr().err


def test_options_out_of_range_in_a_config_name_the_file(tmp_path):
    values = {**config.TrainConfig().__dict__, "epochs": "many"}
    with pytest.raises(ValueError, match=r"config.json: epochs='many' must be"):
        config.from_json(values, tmp_path / "config.json", config.TrainConfig)
