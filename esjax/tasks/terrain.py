"""Hills as tiles to be crossed: the Jacksboro elevation model that matplotlib ships, its shade and routes."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib import cbook
from matplotlib.colors import LightSource
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

SIZE = 10  # cells along a side of a grid
CELL = 2  # pixels along a side of a cell
MARGIN = 4  # pixels that the network sees around a cell
PATCH = CELL + 2 * MARGIN
WINDOW = SIZE * CELL + 2 * MARGIN
NUM_STRIPS = 5
GAP = 8  # pixels between strips


class Tiles(NamedTuple):
    """Grids of cells, each to be crossed.

    Attributes:
        shade: (T, 28, 28) what the network sees: the pixels of the cells, and a margin.
        costs: (T, 100) true cost of each cell.
        best: (T,) cost of the cheapest route.
    """

    shade: NDArray[np.float32]
    costs: NDArray[np.float32]
    best: NDArray[np.float32]


@cache
def load() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns shade, standardised, and slope, both (344, 403): pixels of 3 arc seconds."""
    model: Any = cbook.get_sample_data("jacksboro_fault_dem.npz")
    height = model["elevation"].astype(float)
    dy = 111200 * float(model["dy"])  # metres
    dx = dy * np.cos(np.radians((float(model["ymin"]) + float(model["ymax"])) / 2))
    shade = LightSource(azdeg=315, altdeg=45).hillshade(height, dx=dx, dy=dy)
    slope = np.hypot(*np.gradient(height, dy, dx))
    return ((shade - shade.mean()) / shade.std()).astype(np.float32), slope.astype(np.float32)


def true_cost(slope: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns what it costs to enter a pixel: it grows as the cube of the slope."""
    return 0.01 + 20 * slope**3


def strips(seed: int) -> dict[str, list[tuple[slice, slice]]]:
    """Returns the parts for training, validation and testing as rows and columns of pixels.

    The map is cut into five strips, along columns or rows; seed 0 tests on the east, 1 on its neighbour.
    """
    shape, along = load()[0].shape, 1 - seed // NUM_STRIPS % 2
    edges = np.linspace(0, shape[along] + GAP, NUM_STRIPS + 1).astype(int)
    every = [slice(int(a), int(b) - GAP) for a, b in itertools.pairwise(edges)][::-1]
    areas = [(slice(0, shape[0]), strip) if along else (strip, slice(0, shape[1])) for strip in every]
    areas = areas[seed % NUM_STRIPS :] + areas[: seed % NUM_STRIPS]
    return {"test": areas[:1], "validation": areas[1:2], "training": areas[2:]}


def corners(areas: Sequence[tuple[slice, slice]], step: int) -> NDArray[np.int64]:
    """Returns row and column (T, 2) where each tile begins that lies in one area with all its margin.

    Args:
        areas: rows and columns of pixels.
        step: pixels from one tile to the next, ≥ 1.

    Raises:
        ValueError: there is no room for a tile.
    """
    found = [
        (row, column)
        for rows, columns in areas
        for row in range(rows.start, rows.stop - WINDOW + 1, step)
        for column in range(columns.start, columns.stop - WINDOW + 1, step)
    ]
    if not found:
        raise ValueError(f"areas={areas} have no room for a tile of {WINDOW} pixels; give larger ones")
    return np.array(found)


def cut(starts: NDArray[np.int64]) -> Tiles:
    """Returns the tiles that begin at rows and columns (T, 2)."""
    shade, pixels = (
        np.stack([image[row : row + WINDOW, column : column + WINDOW] for row, column in starts])
        for image in (load()[0], true_cost(load()[1]))
    )
    pixels = pixels[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    costs = pixels.reshape(-1, SIZE, CELL, SIZE, CELL).mean((2, 4)).reshape(len(starts), -1)
    best = np.array([(shortest_route(cost) * cost).sum() for cost in costs], np.float32)
    return Tiles(shade, costs, best)


@cache
def _edges(size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns the neighbours of every cell, one cell after the other, and where each begins."""
    cells = np.arange(size**2).reshape(size, size)
    pairs = [(cells[:, 1:], cells[:, :-1]), (cells[1:], cells[:-1])]
    both = [(a.ravel(), b.ravel()) for a, b in pairs] + [(b.ravel(), a.ravel()) for a, b in pairs]
    start, end = np.concatenate(both, axis=1)
    order = np.lexsort((end, start))
    begins = np.searchsorted(start[order], np.arange(size**2 + 1))
    return end[order].astype(np.int32), begins.astype(np.int32)


def shortest_route(costs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns 1 for each cell on the cheapest route from the first cell to the last, 0 for others.

    Args:
        costs: (n²,) > 0 of each cell of a grid of n × n, both ends included; routes step to four neighbours.

    Raises:
        ValueError: their number is not a square.
    """
    size = math.isqrt(len(costs))
    if size**2 != len(costs):
        raise ValueError(f"costs has shape {costs.shape}; give n² costs of a grid of n × n, row by row")
    end, begins = _edges(size)
    graph = csr_array((costs.astype(np.float64)[end], end, begins), shape=(size**2, size**2))
    _, before = dijkstra(graph, indices=0, return_predecessors=True)
    route = np.zeros(size**2, np.float32)
    cell = size**2 - 1
    while cell >= 0:
        route[cell] = 1
        cell = before[cell]
    return route
