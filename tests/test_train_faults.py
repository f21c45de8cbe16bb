"""A full disk and a read-only folder: one line from the command, and the last good checkpoint stays."""

import ctypes
import os
import re
import resource
import shutil
import types
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from kill_and_resume import write_images

from esjax.train import checkpoint, cli, config, folder, run


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped after its first of three epochs, and its state then."""
    path = tmp_path_factory.mktemp("run")
    write_images(path / "images.npz")
    options = {"data": str(path / "images.npz"), "network": "mlp", "batch_size": 30, "num_samples": 4}
    prepared = run.set_up(config.TrainConfig(**options, epochs=3, checkpoint_every=1))
    folder.create(path / "run", prepared.config)
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
