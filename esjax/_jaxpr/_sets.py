"""Arrays of sets: for each element of a value the elements of x that it reads; imports only NumPy and SciPy.

Many elements read the same (a batch of outputs, all classes of an example), so different sets are stored
once, and an array of numbers says which set each element has. What moves elements then moves numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.int64]]

MOST_WORK = 32
"""A union may look at this many times more pairs than may be kept."""


class TooMuch(Exception):
    """The sets have more elements than may be kept, or there is too much to look at."""


class Readings(NamedTuple):
    """The sets of elements of x that the elements of one value read.

    `which` (shape of the value): rows of `sets`. `sets` (K, D): a Boolean CSR array whose row 0 is empty.
    `most_pairs`: how many elements the sets may have in all.
    """

    which: Numbers
    sets: Any
    most_pairs: int


def _csr(indices: Any, starts: Any, shape: tuple[int, int]) -> Any:
    """Returns a Boolean CSR array, from the elements of its rows and where each row starts."""
    from scipy import sparse

    return sparse.csr_array((np.ones(len(indices), bool), indices, starts), shape=shape)


def singletons(start: int, shape: tuple[int, ...], width: int, most_pairs: int) -> Readings:
    """Returns the readings of a part of x (D = `width`), from `start` on: each element reads itself."""
    size = int(np.prod(shape, dtype=np.int64))
    starts = np.concatenate([[0], np.arange(size + 1)])
    sets = _csr(np.arange(start, start + size), starts, (size + 1, width))
    return checked(Readings(np.arange(1, size + 1).reshape(shape), sets, most_pairs))


def all_of(width: int, most_pairs: int) -> Readings:
    """Returns the readings of a scalar that reads all of x (D = `width`)."""
    return Readings(
        np.ones((), np.int64), _csr(np.arange(width), np.array([0, 0, width]), (2, width)), most_pairs
    )


def checked(readings: Readings) -> Readings:
    """Returns `readings`. Raises `TooMuch` where they are too many."""
    if readings.sets.nnz > readings.most_pairs:
        raise TooMuch
    return readings


def _distinct(sets: Any) -> tuple[Any, Numbers]:
    """Returns the different rows of `sets` (n, D), an empty one first, and which of them each row is (n,).

    Rows are compared by a sum of random numbers, and then element by element.
    """
    sets.sort_indices()
    draws = np.random.default_rng(0).integers(1, 2**63, sets.shape[1], dtype=np.uint64)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(draws[sets.indices], dtype=np.uint64)])
    labels = np.concatenate([[np.uint64(0)], sums[sets.indptr[1:]] - sums[sets.indptr[:-1]]])
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    starts = np.concatenate([[0], sets.indptr])
    extended = _csr(sets.indices, starts, (sets.shape[0] + 1, sets.shape[1]))
    if len(first) == len(labels):
        return extended, np.arange(1, len(labels))
    kept = extended[first]
    again = kept[which]
    if not (np.array_equal(again.indptr, starts) and np.array_equal(again.indices, sets.indices)):
        return extended, np.arange(1, len(labels))
    return kept, which[1:]


def taken(readings: Readings, numbers: Numbers) -> Readings:
    """Returns the readings of elements by their flat numbers; those of -1 read nothing."""
    which = np.concatenate([readings.which.ravel(), [0]])
    return readings._replace(which=which[numbers])


def with_shared_sets(values: Sequence[Readings | None]) -> tuple[list[Numbers], Readings | None]:
    """Returns the numbers of each value's sets in one table, and that table (None where none reads).

    A value that reads nothing has a 0.
    """
    from scipy import sparse

    tables: list[Any] = []
    which: list[Numbers] = []
    shifts: dict[int, int] = {}
    num_rows = 1
    for value in values:
        if value is None:
            which.append(np.zeros((), np.int64))
            continue
        if id(value.sets) not in shifts:
            shifts[id(value.sets)] = num_rows - 1
            tables.append(value.sets[1:] if tables else value.sets)
            num_rows += value.sets.shape[0] - 1
        which.append(np.where(value.which > 0, value.which + shifts[id(value.sets)], 0))
    if not tables:
        return which, None
    model = next(value for value in values if value is not None)
    sets = tables[0] if len(tables) == 1 else sparse.vstack(tables, format="csr")
    return which, checked(model._replace(sets=sets))


def either(values: Sequence[Readings | None], shape: tuple[int, ...]) -> Readings | None:
    """Returns the union of several values' readings, element by element, broadcast to `shape`.

    Scalars are read by all, and so are all elements of an array with another number of axes.
    """
    union: Readings | None = None
    for value in values:
        if value is None:
            continue
        if value.which.ndim != len(shape):
            value = over_axes(value, range(value.which.ndim)) or value
        value = value._replace(which=np.broadcast_to(value.which, shape))
        union = value if union is None else _either_of_two(union, value)
    return union


def _either_of_two(left: Readings, right: Readings) -> Readings:
    if left.sets is right.sets and (left.which is right.which or np.array_equal(left.which, right.which)):
        return left
    for one, other in ((left, right), (right, left)):
        if not other.which.any():
            return one
    rows, inverse = _pairs(left.which.ravel(), right.which.ravel())
    if _work(left.sets, rows[0]) + _work(right.sets, rows[1]) > 2 * (left.sets.nnz + right.sets.nnz):
        rows[1] = _unless_inside(right.sets, rows[1], left.sets, rows[0])
        rows[0] = _unless_inside(left.sets, rows[0], right.sets, rows[1])
        rows, again = _pairs(*rows)
        inverse = again[inverse]
    sets, which = _unions_of_rows((left.sets, right.sets), rows, left.most_pairs)
    return checked(Readings(which[inverse].reshape(left.which.shape), sets, left.most_pairs))


def _pairs(left: Numbers, right: Numbers) -> tuple[list[Numbers], Numbers]:
    """Returns the different pairs of numbers, and which of them each pair is."""
    scale = int(right.max(initial=0)) + 1
    pairs, inverse = np.unique(left * scale + right, return_inverse=True)
    return list(np.divmod(pairs, scale)), inverse


def _work(sets: Any, rows: Numbers) -> int:
    """Returns how many elements the rows have in all."""
    return int(np.diff(sets.indptr)[rows].sum())


def _unless_inside(sets: Any, rows: Numbers, others: Any, of_others: Numbers) -> Numbers:
    """Returns `rows`, with 0 for those of one element that the other row has too.

    (Such is an element divided by its row's sum, or chosen where no other is NaN.)
    """
    single = np.diff(sets.indptr)[rows] == 1
    width = sets.shape[1]
    members = np.repeat(np.arange(others.shape[0]), np.diff(others.indptr)) * width + others.indices
    sought = of_others[single] * width + sets.indices[sets.indptr[rows[single]]]
    at = np.searchsorted(members, sought)
    inside = np.append(members, -1)[at] == sought
    rows = rows.copy()
    rows[single] = np.where(inside, 0, rows[single])
    return rows


def _unions_of_rows(both: tuple[Any, Any], rows: list[Numbers], most_pairs: int) -> tuple[Any, Numbers]:
    """Returns the different ones among the unions of two tables' rows, and which each is; some at a time."""
    from scipy import sparse

    work = np.cumsum(sum(np.diff(sets.indptr)[each] for sets, each in zip(both, rows, strict=True)))
    if len(work) and work[-1] > MOST_WORK * most_pairs:
        raise TooMuch
    ends: Any = (
        np.searchsorted(work, np.arange(most_pairs, work[-1], most_pairs), side="right") if len(work) else []
    )
    found, labels, num_found = [], [], 0
    for left, right in zip(*(np.split(each, ends) for each in rows), strict=True):
        sets, which = _distinct(both[0][left] + both[1][right])
        found.append(sets)
        labels.append(which + num_found)
        num_found += sets.shape[0]
        if sum(each.nnz for each in found) > 2 * most_pairs:
            raise TooMuch
    if len(found) == 1:
        return found[0], labels[0]
    sets, which = _distinct(sparse.vstack(found, format="csr"))
    return sets, which[np.concatenate(labels)]


def over_groups(readings: Readings, members: Numbers, starts: Numbers, shape: tuple[int, ...]) -> Readings:
    """Returns the unions, as an array of `shape`, over groups of elements.

    `members`: flat numbers of elements, group after group; `starts`: where each group starts, and the end.
    """
    numbers = readings.which.ravel()[members]
    some = numbers > 0
    starts = np.concatenate([[0], np.cumsum(some)])[starts]
    rows = _csr(numbers[some], starts, (len(starts) - 1, readings.sets.shape[0]))
    rows.sum_duplicates()
    rows, group = _distinct(rows)
    work = np.diff(readings.sets.indptr)[rows.indices].sum()
    if work > MOST_WORK * readings.most_pairs:
        raise TooMuch
    sets, which = _distinct(rows @ readings.sets)
    return checked(Readings(which[group].reshape(shape), sets, readings.most_pairs))


def over_last(readings: Readings) -> Readings:
    """Returns the unions over the last axis."""
    shape = readings.which.shape
    if shape[-1] == 1:
        return readings._replace(which=readings.which[..., 0])
    size = int(np.prod(shape[:-1], dtype=np.int64))
    return over_groups(readings, np.arange(size * shape[-1]), np.arange(size + 1) * shape[-1], shape[:-1])


def over_axes(readings: Readings | None, axes: Sequence[int], keep: bool = False) -> Readings | None:
    """Returns the unions over `axes`, which stay as axes of length 1 where `keep` says so."""
    if readings is None or not axes:
        return readings
    which = readings.which
    rest = [axis for axis in range(which.ndim) if axis not in axes]
    shape = tuple(which.shape[axis] for axis in rest)
    moved = which.transpose([*rest, *axes]).reshape(
        *shape, np.prod([which.shape[axis] for axis in axes], dtype=int)
    )
    union = over_last(readings._replace(which=moved))
    if keep:
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(which.shape))
        return union._replace(which=union.which.reshape(kept))
    return union


def over_all(values: Sequence[Readings | None]) -> Readings | None:
    """Returns the union over all elements of all values, as that of a scalar."""
    unions = [over_axes(value, range(value.which.ndim)) for value in values if value is not None]
    return either(unions, ())


def over_table(readings: Readings, table: Numbers) -> Readings:
    """Returns the unions over the last axis of a table of flat numbers of elements; -1 stands for nothing."""
    if table.size > MOST_WORK * readings.most_pairs:
        raise TooMuch
    return over_last(taken(readings, table))


def expanded(readings: Readings) -> Any:
    """Returns the sets of all elements, in their flat order, as a Boolean CSR array (size, D)."""
    which = readings.which.ravel()
    if np.diff(readings.sets.indptr)[which].sum() > readings.most_pairs:
        raise TooMuch
    return readings.sets[which]


def placed(readings: Readings | None, places: Mapping[int, int], shape: tuple[int, ...]) -> Readings | None:
    """Returns readings broadcast to `shape`: axis i becomes axis `places[i]`; the others are joined."""
    if readings is None:
        return None
    kept = sorted(places)
    union = over_axes(readings, [axis for axis in range(readings.which.ndim) if axis not in places])
    assert union is not None
    which = union.which.transpose(np.argsort([places[axis] for axis in kept], kind="stable").astype(int))
    sizes = [1] * len(shape)
    for axis in kept:
        sizes[places[axis]] = readings.which.shape[axis]
    return union._replace(which=np.broadcast_to(which.reshape(sizes), shape))


def compact(readings: Readings | None) -> Readings | None:
    """Returns the same readings without the sets that no element has, where those are most of them."""
    if readings is None or readings.sets.shape[0] < 4 * readings.which.size + 8:
        return readings
    used, which = np.unique(np.append(readings.which.ravel(), 0), return_inverse=True)
    return readings._replace(which=which[:-1].reshape(readings.which.shape), sets=readings.sets[used])


def counts(readings: Readings | None, shape: tuple[int, ...]) -> Numbers:
    """Returns how many elements of x each element reads."""
    if readings is None:
        return np.zeros(shape, np.int64)
    return np.diff(readings.sets.indptr)[readings.which]
