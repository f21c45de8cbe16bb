"""Tables in Markdown, and the means with standard errors that stand in them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

Row = TypeVar("Row")


def markdown(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Any]]) -> str:
    """Returns the table of the rows; `columns` says, by title, what is shown of a row."""
    lines = [list(columns), *([str(cell(row)) for cell in columns.values()] for row in rows)]
    head, *body = ("| " + " | ".join(line) + " |\n" for line in lines)
    return head + "|" + "---|" * len(columns) + "\n" + "".join(body)


def mean_and_error(values: ArrayLike, *, test_over_train: float = 0.0) -> tuple[float, float]:
    """Returns the mean of J values and its standard error, s √(1/J).

    For J splits of one data set, which overlap, it is s √(1/J + test/train) (Nadeau and Bengio 2003, eq. 6).
    """
    found = np.asarray(values, float)
    return float(found.mean()), float(found.std(ddof=1) * math.sqrt(1 / len(found) + test_over_train))


def percent(share_and_error: tuple[float, float]) -> str:
    """Returns a share and its standard error, in per cent."""
    share, error = share_and_error
    return f"{share:.1%} ± {error:.1%}"
