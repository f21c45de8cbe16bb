"""Metrics trained on real data, beside what a practitioner would do (extra `tasks`): `esjax task NAME`."""

from collections.abc import Callable

from esjax.tasks import survival, yeast
from esjax.tasks.frame import Task

TASKS: dict[str, Callable[[], Task]] = {"survival": survival.task, "yeast": yeast.task}
"""Makers of the tasks, by the names that the command line knows."""
