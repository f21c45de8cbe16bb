"""The notebooks run from top to bottom, as a reader would run them, and show what they found."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ADDRESS = Path(__file__).parent.parent / ".ci" / "address"
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def _cells(notebook, kind):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    chosen = [cell for cell in cells if cell["cell_type"] == kind]
    return [cell for cell in chosen if "setup" not in cell["metadata"].get("tags", [])]


def test_all_five_are_there():
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(notebook, tmp_path):
    script = tmp_path / f"{notebook.stem}.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in _cells(notebook, "code")), "utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_kept_and_without_errors(notebook):
    outputs = [output for cell in _cells(notebook, "code") for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)


def test_badges_and_first_cells_are_of_the_address_in_pyproject():
    done = subprocess.run([sys.executable, ADDRESS, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_address_goes_into_badge_and_first_cell_and_out_again():
    address = runpy.run_path(str(ADDRESS))
    before = NOTEBOOKS[0].read_text("utf-8")
    there = address["with_address"](before, "x.ipynb", "https://github.com/someone/esjax")
    title, setup = ("".join(cell["source"]) for cell in json.loads(there)["cells"][:2])
    assert title.splitlines()[0].endswith("/github/someone/esjax/blob/main/notebooks/x.ipynb)")
    assert "'https://github.com/someone/esjax'" in setup and "input" not in setup
    assert address["with_address"](there, "x.ipynb", "") == address["with_address"](before, "x.ipynb", "")
