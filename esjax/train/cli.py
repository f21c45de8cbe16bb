"""The command line of `esjax`: commands made by tyro from dataclasses and signatures."""

import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from esjax.train import compare, diagnosis, folder, interrupts, loop, reach, record, run, sigmas
from esjax.train.cli_rl import learn_policy
from esjax.train.cli_task import TaskName, do_task
from esjax.train.config import CompareConfig, Options, SigmaConfig, TrainConfig
from esjax.train.loop import Epoch
from esjax.train.run import Run
from esjax.train.screen import Screen, Work, fail, new_path, progress
from esjax.train.summary import summary

__all__ = ["TaskName", "main"]

_INPUT_ERRORS = (ValueError, OSError, ModuleNotFoundError)
"""What the library raises for wrong options and files; anything else is a bug."""


class _Unnamed(str):
    """The data set where the user names none: the same name, given as an option, is a plain `str`."""


_DEFAULTS = TrainConfig(data=_Unnamed(TrainConfig.data))

_COMMANDS_HELP = "Train on metrics that have no gradient. esjax --version prints the version."


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 2 for wrong input, 1 for training that failed.

    Each command below checks its options, reads its files, and returns the work that remains.

    Raises:
        BrokenPipeError: nobody reads the output any more.
    """
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "compare": compare_objectives,
        "sigma": try_sigmas,
        "diagnose": diagnose_run,
        "rl": learn_policy,
        "task": do_task,
    }
    args = sys.argv[1:] if args is None else args
    try:
        _check_command(args, list(commands))
        _check_resume(args)
        work: Work = tyro.extras.subcommand_cli_from_dict(
            commands, prog="esjax", description=_COMMANDS_HELP, args=args
        )
    except BrokenPipeError:
        raise
    except _INPUT_ERRORS as error:
        return fail(error, status=2)
    except KeyboardInterrupt:
        return _stopped()
    try:
        work()
    except BrokenPipeError:
        raise
    except (FloatingPointError, ChildProcessError) as error:
        return fail(error, status=1)
    except (OSError, ModuleNotFoundError) as error:
        return fail(error, status=2)
    except KeyboardInterrupt:
        return _stopped()
    return 0


def _check_command(args: Sequence[str], commands: list[str]) -> None:
    """Raises `ValueError` for a command that does not exist, and suggests the nearest one."""
    name = args[0] if args else "--help"
    known = [*commands, "--help", "-h", "--version"]
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    if near or not name.startswith("-"):
        meant = f"did you mean {near[0]}? The" if near else "the"
        raise ValueError(f"no command {name}; {meant} commands are {', '.join(commands)}; see esjax --help")


def _check_resume(args: Sequence[str]) -> None:
    """Raises `ValueError` for options beside --resume, defaults included: a run has its own."""
    given = [argument.partition("=")[0] for argument in args if argument.startswith("--")]
    if "--resume" not in given or args[0] not in ("train", "rl"):
        return
    allowed = ["--resume", "--help", *(["--data"] if args[0] == "train" else [])]
    if others := [option for option in given if option not in allowed]:
        but = "; --data may be given, where the data moved" if args[0] == "train" else ""
        raise ValueError(f"--resume takes all options from that folder; leave out {', '.join(others)}{but}")


def _stopped() -> int:
    return fail(KeyboardInterrupt("stopped, nothing was written"), status=interrupts.STATUS)


def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = _DEFAULTS,
    *,
    out: Path | None = None,
    resume: Path | None = None,
) -> Work:
    """Train a classifier, by default on accuracy itself.

    Args:
        config: the options.
        out: New folder for log, checkpoints and pictures. None: one in runs/, named after the time.
        resume: Folder of an interrupted run to continue; its options are taken from there, except for --data,
            which says where the data are now if they have moved.
    """
    if resume is not None:
        return _resume(resume, None if isinstance(config.data, _Unnamed) else config.data)
    path = out or new_path(config.objective)
    folder.check_new(path)
    prepared = run.set_up(config)
    run.begin(prepared, path)
    with ExitStack() as held:
        held.enter_context(folder.locked(path))
        if folder.num_logged(path):
            raise OSError(f"{path}: another process has continued this run already; --resume it")
        return partial(_train, prepared, path, held.pop_all())


def _resume(path: Path, data: str | None) -> Work:
    folder.read_config(path)  # a lock is left only in a folder that holds a run
    with ExitStack() as held:
        held.enter_context(folder.locked(path))
        if not (path / record.FILE).exists():
            Screen().say(
                f"{path}: no record of the run's data; the data found are taken to be the same, and recorded"
            )
        return partial(_train, run.resume(path, data=data), path, held.pop_all())


def _train(prepared: Run, path: Path, held: ExitStack) -> None:
    screen = Screen()
    screen.say(f"{summary(prepared.data)}\n{_headline(prepared.config)}")
    total = prepared.config.epochs * run.num_batches(prepared)
    again = f"Stopped. Go on with: esjax train --resume {shlex.quote(str(path))}"
    with held, interrupts.saying(again):
        with progress(screen, total, int(prepared.state.step)) as advance:
            result = run.finish(
                prepared, path, on_step=advance, on_epoch=lambda epoch: advance(_describe(epoch), steps=0)
            )
        _report(screen, result, path)


def compare_objectives(
    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = CompareConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
) -> Work:
    """Train on several objectives, several seeds each, and print a table.

    Args:
        config: the options.
        out: New folder for table, numbers and picture. None: one in runs/, named after the time.
    """
    path = out or new_path("compare")
    folder.check_new(path)
    return partial(_compare, config, compare.set_up(config, seed=0), path)


def _compare(config: CompareConfig, first: dict[str, Run], path: Path) -> None:
    screen = Screen()
    any_run = next(iter(first.values()))
    title = f"{any_run.data.name}; {_headline(config)}"
    screen.say(f"{summary(any_run.data)}\n{_headline(config)}")
    total = config.seeds * len(config.objectives) * config.epochs * run.num_batches(any_run)
    with progress(screen, total, 0) as advance:

        def on_epoch(objective: str, seed: int, epoch: Epoch) -> None:
            advance(f"seed {seed}, {objective}, {_describe(epoch)}", steps=0)

        with folder.new(path) as part:
            epochs = compare.train(config, first, on_step=advance, on_epoch=on_epoch)
            compare.write(part, config, epochs, title)
    table = compare.markdown(compare.summarise(epochs))
    screen.say(f"\n{table}")
    for name in (compare.TABLE, compare.CURVES, compare.RESULTS):
        screen.say(f"{path / name}")


def try_sigmas(
    config: Annotated[SigmaConfig, tyro.conf.arg(name="")] = SigmaConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
) -> Work:
    """Find the σ that suits a network and a data set, by short trial runs.

    Args:
        config: the options.
        out: New folder for table and picture. None: one in runs/, named after the time.
    """
    path = out or new_path("sigma")
    folder.check_new(path)
    return partial(_try_sigmas, config, sigmas.set_up(config), path)


def _try_sigmas(config: SigmaConfig, default: Run, path: Path) -> None:
    screen = Screen()
    title = f"{default.data.name}; {_headline(config)}"
    screen.say(f"{summary(default.data)}\n{_headline(config)}")
    total = len(config.factors) * config.epochs * run.num_batches(default)
    with folder.new(path) as part:
        with progress(screen, total, 0) as advance:
            rows = sigmas.try_all(
                config,
                default,
                on_step=advance,
                on_trial=lambda sigma: advance(f"sigma {sigma:.3g}", steps=0),
            )
        sigmas.write(part, rows, title)
    screen.say(f"\n{sigmas.markdown(rows)}")
    for name in (sigmas.TABLE, sigmas.CURVES):
        screen.say(f"{path / name}")


def diagnose_run(path: tyro.conf.Positional[Path], *, num_examples: int = 1000, seed: int = 0) -> Work:
    """Say whether a run's gradient is signal or noise, class by class, and what is out of reach.

    Args:
        path: Folder of the run; the picture goes there, too.
        num_examples: How many training examples to look at, from the first on; at least 1.
        seed: Seed of the perturbations, at least 0.
    """
    found, is_saved = run.restore(path)
    if not is_saved:
        raise FileNotFoundError(f"{path}: has no checkpoint yet; diagnose it after its first one")
    rows = diagnosis.diagnose(found, num_examples=num_examples, seed=seed)
    return partial(_diagnose, found, rows, reach.look(found, num_examples=num_examples), path)


def _diagnose(found: Run, rows: Sequence[diagnosis.Row], seen: reach.Reach, path: Path) -> None:
    screen = Screen()
    epoch = int(found.state.step) // run.num_batches(found)
    title = f"{found.config.objective}, epoch {epoch}, sigma {found.config.sigma:.3g}"
    title += f", {found.config.num_samples} samples for each example"
    picture = path / f"diagnosis-{epoch}.png"
    diagnosis.plot(picture, rows, title)
    screen.say(f"{title}\n\n{diagnosis.markdown(rows)}")
    assert found.config.sigma is not None
    screen.say(reach.sentences(seen, found.config.sigma, found.config.num_samples))
    screen.say(f"\n{rows[0].report}\n\npicture  {picture}")


def _headline(config: Options) -> str:
    return f"{config.label_noise:.0%} random labels; {config.network}; {config.epochs} epochs"


def _describe(epoch: Epoch) -> str:
    return f"epoch {epoch.epoch}, test {epoch.test_accuracy:.1%}"


def _report(screen: Screen, result: run.Result, path: Path) -> None:
    last, kept = result.epochs[-1], loop.kept(result.epochs)
    lines = [f"test accuracy {kept.test_accuracy:.1%}"]
    if kept is not last:
        lines[0] += f" with the weights of epoch {kept.epoch}, which did best on what was held out; "
        lines[0] += f"{last.test_accuracy:.1%} with those of epoch {last.epoch}"
    if kept.lost_classes:
        lines.append(f"never right for classes {kept.lost_classes}")
    if last.vanished_classes:
        lines.append(
            f"no gradient is left for classes {last.vanished_classes}: start a new run with a larger --sigma"
        )
    lines += [
        f"pictures    {path / folder.CURVES}, {path / folder.CONFUSION}",
        f"checkpoint  {path / folder.CHECKPOINTS / str(last.epoch)}",
    ]
    screen.say("\n".join(lines))
