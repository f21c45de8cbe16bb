"""Disks, folders, other processes and other data: one line from the command, and what was good stays good."""

import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from kill_and_resume import write_images

from esjax.train import checkpoint, cli, config, folder, record, run, shipped, sources


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped after its first of three epochs, and its state then."""
    path = tmp_path_factory.mktemp("run")
    write_images(path / "images.npz")
    options = {"data": str(path / "images.npz"), "network": "mlp", "batch_size": 30, "num_samples": 4}
    prepared = run.set_up(config.TrainConfig(**options, epochs=3, checkpoint_every=1))
    run.begin(prepared, path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.finish(prepared, path / "run", on_epoch=_stop)
    return path / "run", checkpoint.restore(path / "run" / folder.CHECKPOINTS, prepared.state)


def _stop(epoch):
    raise KeyboardInterrupt


@pytest.fixture
def copied(stopped, tmp_path):
    return shutil.copytree(stopped[0], tmp_path / "run")


@contextmanager
def _no_large_files(path):
    """No file can grow beyond 64 KB: options and log fit, the arrays of a checkpoint do not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def _full_disk(path):
    """As `shutil.disk_usage` tells it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1000))
        yield


_HEADER, _SETS = ctypes.c_uint32 * 2, ctypes.c_uint32 * 6
_OVERRIDES = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: with these, permissions do not bind root


@contextmanager
def _read_only(path):
    """The folder cannot be written to, by root either."""
    header, sets = _HEADER(0x20080522, 0), _SETS()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    bound = _SETS(*sets)
    bound[0] &= ~_OVERRIDES
    path.chmod(0o555)
    assert libc.capset(header, bound) == 0
    try:
        assert not os.access(path, os.W_OK, effective_ids=True)
        yield
    finally:
        libc.capset(header, sets)
        path.chmod(0o755)


def _one_line(capfd):
    """Returns what the command printed as its error, nothing of the packages beneath it."""
    error = capfd.readouterr().err
    assert error.startswith("esjax: ") and error.count("\n") == 1, error
    return error


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Orbax: it reports them, too
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_full_disk, r"checkpoints: 1,000 bytes are free, and a checkpoint takes [\d,]+; make room"),
        (_no_large_files, r"2\.part: cannot be written: .*File too large"),
        (_read_only, r"Permission denied: .*2\.part"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    stopped, copied, capfd, monkeypatch, fault, message
):
    save = checkpoint.save

    def faulty(path, step, state):
        with fault(path):
            return save(path, step, state)

    monkeypatch.setattr(checkpoint, "save", faulty)
    assert cli.main(["train", "--resume", str(copied)]) == 2
    error = capfd.readouterr().err if fault is _no_large_files else _one_line(capfd)
    assert re.fullmatch(f"esjax: .*{message}.*", error.splitlines()[-1])
    assert os.listdir(copied / folder.CHECKPOINTS) == ["1"]
    _assert_readable(stopped, copied)


def _assert_readable(stopped, path):
    """That the checkpoint of the first epoch is there, bit for bit."""
    found = checkpoint.restore(path / folder.CHECKPOINTS, stopped[1])
    for a, b in zip(jax.tree.leaves(stopped[1]), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_that_is_read_only_is_said_before_any_training(stopped, tmp_path, capfd):
    arguments = ["train", "--data", str(stopped[0].parent / "images.npz"), "--network", "mlp"]
    (tmp_path / "new").mkdir()
    with _read_only(tmp_path / "new"):
        assert cli.main([*arguments, "--batch-size", "30", "--out", str(tmp_path / "new" / "run")]) == 2
    assert "Permission denied" in (error := _one_line(capfd)) and f"{tmp_path}/new" in error


def test_a_run_that_is_read_only_cannot_go_on_and_stays_as_it_is(stopped, copied, capfd):
    before = (copied / folder.LOG).read_bytes()
    with _read_only(copied):
        assert cli.main(["train", "--resume", str(copied)]) == 2
    assert "Permission denied" in (error := _one_line(capfd)) and str(copied) in error
    assert (copied / folder.LOG).read_bytes() == before
    _assert_readable(stopped, copied)


@pytest.mark.parametrize("name", ["[x]", "a\\b", "what?*", "gs:"])
def test_checkpoints_are_read_again_whatever_the_folder_is_called(stopped, tmp_path, name):
    path = shutil.copytree(stopped[0], tmp_path / name / "run")
    _assert_readable(stopped, path)
    checkpoint.save(path / folder.CHECKPOINTS, 2, stopped[1])
    assert sorted(os.listdir(path / folder.CHECKPOINTS)) == ["1", "2"]
    _assert_readable(stopped, path)


def test_a_checkpoint_that_reads_back_as_something_else_leaves_the_one_before(stopped, copied, monkeypatch):
    save = checkpoint.ocp.Checkpointer.save

    def another(self, path, args):
        save(self, path, args=type(args)({name: array + 1 for name, array in args.item.items()}))

    monkeypatch.setattr(checkpoint.ocp.Checkpointer, "save", another)
    for step in (2, 3):
        with pytest.raises(OSError, match=r"part: cannot be written: .* reads back as something else"):
            checkpoint.save(copied / folder.CHECKPOINTS, step, stopped[1])
    assert os.listdir(copied / folder.CHECKPOINTS) == ["1"]


_HOLD = """
import sys, time
from pathlib import Path
from esjax.train import folder
with folder.locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_run_is_that_of_one_process_until_that_dies(copied, capfd):
    with subprocess.Popen([sys.executable, "-c", _HOLD, copied], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        before = {file: file.stat().st_mtime_ns for file in copied.rglob("*")}
        status = cli.main(["train", "--resume", str(copied)])
        other.kill()
    assert status == 2 and "another process is at work in this folder" in _one_line(capfd)
    assert {file: file.stat().st_mtime_ns for file in copied.rglob("*")} == before
    assert cli.main(["train", "--resume", str(copied)]) == 0


@pytest.mark.parametrize("is_new", [True, False])
def test_training_keeps_others_out_until_it_ends(copied, tmp_path, monkeypatch, is_new):
    path, finish, tried = tmp_path / "new" if is_new else copied, run.finish, []

    def interrupted(*arguments, **options):
        with pytest.raises(OSError, match="another process"), folder.locked(path):
            pass
        tried.append(path)
        return finish(*arguments, **options)

    monkeypatch.setattr(run, "finish", interrupted)
    images = json.loads((copied / folder.CONFIG).read_text())["data"]
    new = ["--data", images, "--network", "mlp", "--epochs", "1", "--batch-size", "30", "--out", str(path)]
    assert cli.main(["train", *(new if is_new else ["--resume", str(path)])]) == 0 and tried
    with folder.locked(path):
        pass


def _other_data(copied, change):
    """Writes the run's data with a change to another file; returns its path."""
    images = json.loads((copied / folder.CONFIG).read_text())["data"]
    arrays = dict(np.load(images))
    change(arrays)
    np.savez(copied.parent / "other.npz", **arrays)
    return str(copied.parent / "other.npz")


def _exchange_labels(arrays):
    arrays["y_train"] = np.array([1, 0, 2])[arrays["y_train"]]


def _leave_out(arrays):
    arrays["x_train"], arrays["y_train"] = arrays["x_train"][:60], arrays["y_train"][:60]


def _add_class(arrays):
    arrays["y_train"] = np.where(np.arange(90) % 9 == 0, 3, arrays["y_train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_exchange_labels, "the train labels are not the same, though as many"),
        (_leave_out, r"train images of shape \(81, 4, 4, 1\), and \(54, 4, 4, 1\) now"),
        (_add_class, "3 classes, and 4 now"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_run_goes_on_with_its_own_data_only(stopped, copied, capfd, monkeypatch, change, message, in_place):
    other = _other_data(copied, change)
    if in_place:
        text = (copied / folder.CONFIG).read_text()
        (copied / folder.CONFIG).write_text(text.replace(json.loads(text)["data"], other))
    before = {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()}
    monkeypatch.setattr(run, "prepare", None)  # the work begins there
    assert cli.main(["train", "--resume", str(copied), *([] if in_place else ["--data", other])]) == 2
    assert re.search(f"begun with other data: {message}", _one_line(capfd))
    (copied / folder.LOCK).unlink()
    assert {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before


def test_data_that_moved_are_found_again_and_written_down(copied, capfd):
    text, moved = (copied / folder.CONFIG).read_text(), _other_data(copied, lambda arrays: None)
    gone = str(copied.parent / "gone.npz")
    (copied / folder.CONFIG).write_text(text.replace(json.loads(text)["data"], gone))
    assert cli.main(["train", "--resume", str(copied)]) == 2
    assert re.search(f"gone.npz.*--resume {copied} --data NEW", _one_line(capfd))
    assert cli.main(["train", "--resume", str(copied), "--data", moved]) == 0
    assert json.loads((copied / folder.CONFIG).read_text()) == {**json.loads(text), "data": moved}


@pytest.mark.parametrize("is_moved", [True, False])
def test_data_of_the_default_name_are_taken_where_they_are_named(copied, capfd, monkeypatch, is_moved):
    named = _other_data(copied, (lambda arrays: None) if is_moved else _exchange_labels)
    monkeypatch.setitem(shipped.SHIPPED, "mnist-5k", lambda: sources.read_labelled_npz(Path(named)))
    before = json.loads((copied / folder.CONFIG).read_text())["data"]
    status = cli.main(["train", "--resume", str(copied), "--data", "mnist-5k"])
    found = json.loads((copied / folder.CONFIG).read_text())["data"]
    if is_moved:
        assert (status, found) == (0, "mnist-5k")
    else:
        assert (status, found) == (2, before) and "begun with other data" in _one_line(capfd)


def test_a_run_of_before_data_were_recorded_goes_on_with_a_word(copied, capfd):
    known = (copied / record.FILE).read_text()
    (copied / record.FILE).unlink()
    assert cli.main(["train", "--resume", str(copied)]) == 0
    assert "no record of the run's data" in capfd.readouterr().out
    assert (copied / record.FILE).read_text() == known
