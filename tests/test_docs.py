"""The Python of README and docs/ runs, page by page from top to bottom, and prints what the page says."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
END = "\x1e"  # printed after each block


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
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
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


def _same(found, said):
    """The same words, and numbers within 3 % or their last decimal: other processors round otherwise."""
    assert NUMBER.split(found) == NUMBER.split(said), found
    for number, wanted in zip(NUMBER.findall(found), NUMBER.findall(said), strict=True):
        _, _, decimals = wanted.partition(".")
        last = 1.01 * 10.0 ** -len(decimals) if decimals else 0
        assert float(number) == pytest.approx(float(wanted), rel=0.03, abs=last), found
