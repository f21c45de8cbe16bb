"""What mkdocs does beyond Markdown: pages made of files outside of docs/, and formulas as MathML.

The README is the front page, and the notebooks are pages, with the outputs that they hold: neither is
kept twice. Formulas become MathML here, which browsers draw by themselves: no script, no network.
"""

import base64
import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

LOG = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]")
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">(\\[(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages whose sources lie outside of docs/."""
    for source, page in PAGES.items():
        text = _relinked((ROOT / source).read_text("utf-8"))
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for page, content in _pages_of_notebook(path):
            files.append(File.generated(config, f"notebooks/{page}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Makes links to notebooks, which lie beside docs/, links to their pages."""
    return _to_pages(markdown.replace("](../notebooks/", "](notebooks/"))


def on_page_content(content: str, **_: Any) -> str:
    """Turns formulas into MathML."""
    return FORMULA.sub(_mathml, content)


def _relinked(text: str) -> str:
    """Makes links from the top of the repository links from docs/."""
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return _to_pages(text.replace("](docs/", "]("))


def _to_pages(text: str) -> str:
    return re.sub(r"\]\(([\w/]+)\.ipynb\)", r"](\1.md)", text)


def _pages_of_notebook(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Yields names and contents: pictures among the outputs, then the page. The set-up cell is left out."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text("utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text = BADGE.sub("[Open in Colab]", source).replace("](../docs/", "](../")
            parts.append(_to_pages(text))
        elif "setup" not in cell["metadata"].get("tags", []):
            parts.append(f"```python\n{source}\n```")
            pictures = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
            for index, picture in enumerate(pictures):
                name = f"{path.stem}_{number}_{index}.png"
                yield name, base64.b64decode("".join(picture))
                parts.append(f"![output of the code above]({name})")
            if text := "".join(map(_text_of, cell["outputs"])).rstrip("\n"):
                parts.append(f"```text\n{text}\n```")
    yield f"{path.stem}.md", "\n\n".join(parts)


def _text_of(output: dict[str, Any]) -> str:
    """Returns what was printed, or the value of a cell that is no picture."""
    data = output.get("data", {})
    return "" if "image/png" in data else "".join(output.get("text") or data.get("text/plain", ""))


def _mathml(found: re.Match[str]) -> str:
    opening, formula = found.groups()
    mathml = convert(html.unescape(formula), display="block" if opening == r"\[" else "inline")
    if "\\" in mathml:
        LOG.warning("a command that latex2mathml does not know in %s", formula)
    return mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # the relation, not an accent
