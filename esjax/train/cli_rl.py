"""The command `esjax rl`."""

import shlex
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from esjax.train import folder, interrupts, rl
from esjax.train.config import RLConfig
from esjax.train.screen import Screen, Work, new_path


def learn_cartpole(
    config: Annotated[RLConfig, tyro.conf.arg(name="")] = RLConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
    resume: Path | None = None,
) -> Work:
    """Learn CartPole by evolution strategies over all of a policy's parameters.

    Args:
        config: the options.
        out: New folder for policy, log and checkpoints. None: one in runs/, named after the time.
        resume: Folder of an interrupted run to continue; its options are taken from there.
    """
    path = resume or out or new_path("rl")
    if resume is None:
        rl.begin(config, path)
    else:
        config = folder.read_options(path, RLConfig)
    with ExitStack() as held:
        held.enter_context(folder.locked(path))
        since = rl.restore(config, path)
        return partial(_learn_cartpole, config, since, path, held.pop_all())


def _learn_cartpole(config: RLConfig, since: rl.Generation, path: Path, held: ExitStack) -> None:
    screen = Screen()

    def on_generation(generation: rl.Generation) -> None:
        screen.say(
            f"generation {generation.number}, {generation.episodes} episodes: mean return of the population "
            f"{generation.population_return:.1f}, of the policy {generation.test_return:.1f}"
        )

    with held, interrupts.saying(f"Stopped. Go on with: esjax rl --resume {shlex.quote(str(path))}"):
        last = rl.finish(config, since, path, on_generation=on_generation)
    end = "solved" if last.test_return >= rl.SOLVED else "not solved: try more --generations"
    screen.say(f"{end}: mean return {last.test_return:.1f} over 100 episodes")
    screen.say(f"policy      {path / rl.POLICY}")
