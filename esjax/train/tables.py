"""Tables in Markdown, of rows that are tuples with names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Row = TypeVar("Row")


def markdown(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Any]]) -> str:
    """Returns the table whose columns, by their titles, say what is shown of a row."""
    lines = [list(columns), *([str(cell(row)) for cell in columns.values()] for row in rows)]
    head, *body = ("| " + " | ".join(line) + " |\n" for line in lines)
    return head + "|" + "---|" * len(columns) + "\n" + "".join(body)


def percent(mean_and_error: tuple[float, float]) -> str:
    """Returns a share with its standard error."""
    mean, error = mean_and_error
    return f"{mean:.1%} ± {error:.1%}"
