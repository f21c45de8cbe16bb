"""The Python of README and docs/ runs, page by page from top to bottom, and prints what the page says."""

import os
import re
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
END = "\x1e"  # printed after each block
LONG = {"README"}  # pages whose programs take more time to run than to compile


def _blocks(page):
    return FENCE.findall(page.read_text("utf-8"))


PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
    if "python" in dict(_blocks(page))
]


def test_the_tour_and_the_readme_have_code():
    assert {"README.md", "tour.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_code_runs_and_prints_what_the_page_says(page, tmp_path):
    blocks = _blocks(page)
    code = [text + f"\nprint({END!r})\n" for language, text in blocks if language == "python"]
    optimised = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"} if page.stem in LONG else {}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        env=os.environ | optimised,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = iter(done.stdout.split(END))
    for (language, _), (next_language, said) in pairwise([*blocks, ("", "")]):
        if language == "python":
            found = next(printed).strip()
            if next_language == "text":
                _same(found, said.strip())


FIGURES = ROOT / ".ci" / "figures"


def test_each_table_and_picture_of_figures_says_how_and_when_it_was_measured():
    done = subprocess.run([sys.executable, FIGURES, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_figures_without_their_origin_and_of_files_that_are_gone_are_found(tmp_path, monkeypatch, capsys):
    """A table in a fence, or of words alone, is none of figures."""
    figures = runpy.run_path(str(FIGURES))
    origin = "<!-- measured 2026-11-27 at 0123abc by `esjax train`, of gone.py -->"
    table = "| x | 0.31 ± 0.02 |"
    parts = {
        "A": table,
        "B": f"{table}\n\n{origin}",
        "C": f"```text\n{table}\n```\n\n| x | N >= 2 |",
        "D": "<!-- measured yesterday -->",
        "E": "| x | **4 ms** | y |",
    }
    page = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in parts.items())
    (tmp_path / "README.md").write_text(page, "utf-8")
    monkeypatch.setitem(figures["main"].__globals__, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["figures"])
    assert figures["main"]() == 1
    printed = capsys.readouterr()
    assert printed.out == "README.md | B | 2026-11-27 | esjax train | 0123abc is not in this clone\n"
    assert [line.split(":")[0][-1] for line in printed.err.splitlines()] == ["A", "B", "D", "E"]


def _same(found, said):
    """The same words, and numbers within 3 % or their last decimal: other processors round otherwise."""
    assert NUMBER.split(found) == NUMBER.split(said), found
    for number, wanted in zip(NUMBER.findall(found), NUMBER.findall(said), strict=True):
        _, _, decimals = wanted.partition(".")
        last = 1.01 * 10.0 ** -len(decimals) if decimals else 0
        assert float(number) == pytest.approx(float(wanted), rel=0.03, abs=last), found
