"""Metrics trained on real data, beside what a practitioner would do (extra `tasks`): `esjax task NAME`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from esjax.tasks import assignment, codec, noisy, ranking, shortest_path, survival, yeast
from esjax.tasks.frame import Task


def _shipped(task: Callable[[], Task]) -> Callable[[Path | None], Task]:
    """Makes a maker that refuses data from elsewhere, since a package ships them."""

    def maker(data: Path | None) -> Task:
        if data is not None:
            raise ValueError(f"data={data}: the data of this task ship in a package; leave the option out")
        return task()

    return maker


TASKS: dict[str, Callable[[Path | None], Task]] = {
    "assignment": _shipped(assignment.task),
    "codec": _shipped(codec.task),
    "noisy-0": partial(noisy.task, noisy.random_labels(0.0), "clean labels"),
    "noisy-20": partial(noisy.task, noisy.random_labels(0.2), "20 % random labels"),
    "noisy-40": partial(noisy.task, noisy.random_labels(0.4), "40 % random labels"),
    "noisy-60": partial(noisy.task, noisy.random_labels(0.6), "60 % random labels"),
    "noisy-flips": partial(noisy.task, noisy.flipped_labels(0.4), "40 % of some classes mistaken for others"),
    "ranking": ranking.task,
    "shortest-path": _shipped(shortest_path.task),
    "survival": _shipped(survival.task),
    "yeast": _shipped(yeast.task),
}
"""Makers of the tasks, `where the data are -> task`, by the names that the command line knows."""
