"""The command line as a process: what it imports, its streams, its status, and Ctrl-C."""

import signal
import subprocess
import sys
import time

import pytest
from kill_and_resume import write_images

import esjax
from esjax.train import cli

SMALL = ["--network", "mlp", "--epochs", "2", "--batch-size", "30", "--num-samples", "4"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    write_images(path)
    return path


def test_the_core_imports_no_training_package():
    extras = {"flax", "optax", "orbax", "tyro", "matplotlib"}
    code = f"import sys, esjax; print(sorted({extras} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_command_without_its_packages_says_what_to_install():
    code = (
        "import sys; sys.modules['tyro'] = None\nfrom esjax.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    print(stop.code)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == "esjax: the command line needs tyro; run pip install 'esjax[train]'\n"


def _esjax(*arguments, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "esjax", *map(str, arguments)], **pipes | options)


def test_the_version_is_said_without_the_packages_of_training():
    code = "import sys; sys.modules['tyro'] = None; sys.argv[1:] = ['--version']\n"
    code += "from esjax.__main__ import main; main()"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == f"esjax {esjax.__version__}\n"


def test_nobody_who_stops_reading_is_shouted_at_and_training_ends(images, tmp_path):
    for arguments in (["--help"], ["train", *SMALL, "--data", images, "--out", tmp_path / "run"]):
        process = _esjax(*arguments)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == (141 if arguments == ["--help"] else 0)
        process.stderr.close()
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("command", ["train", "compare"])
def test_control_c_before_the_first_step_ends_with_130_at_once(images, tmp_path, command):
    with _esjax(command, *SMALL, "--data", images, "--out", tmp_path / "run") as process:
        while not process.stdout.readline().startswith("0% random labels"):
            assert process.poll() is None
        time.sleep(0.5)  # XLA compiles the step
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait() == 130 and time.monotonic() - start < 2
        said = process.stderr.read()
    if command == "train":
        assert said == f"Stopped. Go on with: esjax train --resume {tmp_path}/run\n"
        assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    else:
        assert said == "esjax: stopped, nothing was written\n" and not list(tmp_path.iterdir())


_LONG = """
import jax, sys
from esjax import __main__
from esjax.train import cli

def work():
    print("begins", flush=True)
    jax.jit(lambda: jax.lax.fori_loop(0, 10**9, lambda i, x: jax.numpy.sin(x + i), 0.0))().block_until_ready()

cli.main = work
__main__.main()
"""


def test_control_c_ends_a_program_that_runs_for_minutes():
    with subprocess.Popen([sys.executable, "-c", _LONG], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begins\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(2) == 130
        finally:
            process.kill()


_AT_IMPORT = """
import signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == {name!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from esjax.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["esjax.train.interrupts", "jax", "tyro"])
def test_control_c_while_packages_are_imported_is_no_traceback(name):
    command = [sys.executable, "-c", _AT_IMPORT.format(name=name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr
