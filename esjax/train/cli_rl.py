"""The command `esjax rl`."""

import shlex
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from esjax.train import folder, interrupts, rl, tables
from esjax.train.config import RLConfig
from esjax.train.screen import Screen, Work, new_path


def learn_policy(
    config: Annotated[RLConfig, tyro.conf.arg(name="")] = RLConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
    resume: Path | None = None,
) -> Work:
    """Learn CartPole, or any environment of Gymnasium, by evolution strategies over a policy's parameters.

    Args:
        config: the options.
        out: New folder for policy, log, checkpoints and picture. None: one in runs/, named after the time.
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
        return partial(_learn_policy, config, since, path, held.pop_all())


def _learn_policy(config: RLConfig, since: rl.Generation, path: Path, held: ExitStack) -> None:
    screen = Screen()
    with held, interrupts.saying(f"Stopped. Go on with: esjax rl --resume {shlex.quote(str(path))}"):
        result = rl.finish(
            config, since, path, on_generation=lambda generation: screen.say(_described(generation))
        )
    screen.say(_outcome(result))
    screen.say(f"policy      {path / rl.POLICY}")
    screen.say(f"picture     {path / folder.CURVES}")


def _described(generation: rl.Generation) -> str:
    text = (
        f"generation {generation.number}, {generation.episodes} episodes: mean return of the population "
        f"{generation.population_return:.1f}"
    )
    is_tested = generation.test_return == generation.test_return
    return f"{text}, of the policy {generation.test_return:.1f}" if is_tested else text


def _outcome(result: rl.Result) -> str:
    tested, number = result.last.test_return, len(result.returns)
    mean, error = tables.mean_and_error(result.returns)
    means = f"mean return {tested:.1f} over {number} episodes, {mean:.1f} ± {error:.1f} over {number} others"
    if result.target == float("inf"):
        return means
    return f"{'solved' if tested >= result.target else 'not solved: try more --generations'}: {means}"
