"""What a section of the benchmarks found: tables, curves, and claims that are met or not."""

import json
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

import esjax
from esjax.benchmarks.measure import Compared
from esjax.train import tables

Row = dict[str, Any]
"""Cells by the titles of their columns: text, a number, or a pair that is shown as one ± the other."""


class Table(NamedTuple):
    """Rows with the same columns."""

    title: str
    rows: list[Row]


class Claim(NamedTuple):
    """A figure that is to be at most, or at least, another."""

    name: str
    found: float
    wanted: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the claim holds; never if the figure is NaN."""
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


class Curve(NamedTuple):
    """A line of a picture; the panels of one picture are told apart by their axes."""

    x_label: str
    y_label: str
    name: str
    xs: list[float]
    ys: list[float]


class Section(NamedTuple):
    """What one part of the benchmarks found."""

    name: str
    tables: list[Table]
    claims: list[Claim]
    curves: list[Curve]


def beside_each_other(title: str, found: dict[str, Compared]) -> Table:
    """Returns the table of estimators of one gradient."""
    rows: list[Row] = [
        {
            "": name,
            "relative squared error": error,
            "median ms ± spread": cost.milliseconds,
            "error² × ms": 1e3 * error[0] * cost.seconds,
            "temporaries, MB": cost.temporaries / 2**20,
            "compile, s": cost.compile_seconds,
        }
        for name, (error, cost) in found.items()
    ]
    return Table(title, rows)


def environment() -> dict[str, str]:
    """Returns the device and the versions that figures belong to."""
    device = jax.devices()[0]
    versions = {module.__name__: module.__version__ for module in (esjax, jax, optax)}
    return {"device": f"{device.device_kind}, {os.cpu_count()} cores, {platform.machine()}"} | versions


def markdown(section: Section) -> str:
    """Returns the tables of a section, and its claims."""
    parts = [f"## {section.name}\n", *map(_table, section.tables)]
    if section.claims:
        parts.append(claims(section.claims))
    return "\n".join(parts)


def claims(found: list[Claim]) -> str:
    """Returns claims as a table: green where met, red where not."""
    rows = [
        {
            "": "green" if claim.met else "red",
            "claim": claim.name,
            "found": claim.found,
            "wanted": f"{'at most' if claim.at_most else 'at least'} {_cell(claim.wanted)}",
        }
        for claim in found
    ]
    return _table(Table(f"{sum(claim.met for claim in found)} of {len(found)} claims met", rows))


def save(folder: Path, sections: list[Section]) -> None:
    """Writes `benchmarks.md` and `benchmarks.json` into a folder that exists."""
    where = environment()
    head = ", ".join(f"{name} {value}" for name, value in where.items())
    (folder / "benchmarks.md").write_text(
        "\n".join([f"{head}\n", *map(markdown, sections)]), encoding="utf-8"
    )
    found = {
        "environment": where,
        "sections": [
            {
                "name": section.name,
                "tables": [table._asdict() for table in section.tables],
                "claims": [claim._asdict() | {"met": claim.met} for claim in section.claims],
                "curves": [curve._asdict() for curve in section.curves],
            }
            for section in sections
        ],
    }
    (folder / "benchmarks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def _table(table: Table) -> str:
    columns = {title: lambda row, title=title: _cell(row[title]) for title in table.rows[0]}
    return f"{table.title}\n\n{tables.markdown(table.rows, columns)}"


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.3g} ± {value[1]:.1g}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
