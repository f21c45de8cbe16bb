"""The command line of `esjax`: commands made by tyro from dataclasses and signatures."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from esjax.train import compare, diagnosis, folder, rl, run, sigmas
from esjax.train.config import CompareConfig, Options, RLConfig, SigmaConfig, TrainConfig
from esjax.train.loop import Epoch
from esjax.train.run import Run

if TYPE_CHECKING:
    from esjax.tasks.frame import Task  # of an extra of its own

_INPUT_ERRORS = (ValueError, OSError, ModuleNotFoundError)
"""What the library raises for options and files that are wrong; anything else is a fault of its own."""

Work = Callable[[], None]

TaskName = Literal[
    "codec",
    "noisy-0",
    "noisy-20",
    "noisy-40",
    "noisy-60",
    "noisy-flips",
    "ranking",
    "shortest-path",
    "survival",
    "yeast",
]
"""The names of `esjax.tasks.TASKS`, which is an extra that may not be installed."""


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status, 2 for wrong input, 1 for training that failed.

    Each command below checks its options and reads its files, and returns the work that is left.
    """
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "compare": compare_objectives,
        "sigma": try_sigmas,
        "diagnose": diagnose_run,
        "rl": learn_cartpole,
        "task": do_task,
    }
    try:
        work: Work = tyro.extras.subcommand_cli_from_dict(commands, prog="esjax", args=args)
    except _INPUT_ERRORS as error:
        return _fail(error, status=2)
    try:
        work()
    except FloatingPointError as error:
        return _fail(error, status=1)
    except (OSError, ModuleNotFoundError) as error:
        return _fail(error, status=2)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("stopped, nothing was written"), status=130)
    return 0


def _fail(error: BaseException, *, status: int) -> int:
    Console(stderr=True).print(f"esjax: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return status


def train(
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
    resume: Path | None = None,
) -> Work:
    """Train a classifier, by default on accuracy itself.

    Args:
        config: the options.
        out: New folder for log, checkpoints and pictures. None: one in runs/ named by the time.
        resume: Folder of a run that was cut short, to go on with; its options are taken from there.
    """
    if resume is not None:
        if out is not None or config != TrainConfig():
            raise ValueError(f"--resume {resume} takes all options from that folder; leave the others out")
        return partial(_train, run.resume(resume), resume)
    path = out or _new_path(config.objective)
    folder.check_new(path)
    prepared = run.set_up(config)
    folder.create(path, prepared.config)
    return partial(_train, prepared, path)


def _train(prepared: Run, path: Path) -> None:
    console = Console()
    console.print(_headline(prepared.config, prepared.data.name), markup=False, highlight=False)
    total = prepared.config.epochs * run.num_batches(prepared)
    try:
        with _progress(console, total, int(prepared.state.step)) as advance:
            result = run.finish(
                prepared, path, on_step=advance, on_epoch=lambda epoch: advance(_describe(epoch), steps=0)
            )
    except KeyboardInterrupt:
        again = f"esjax train --resume {shlex.quote(str(path))}"
        _say(console, f"Stopped. Go on with: {again}")
        sys.exit(130)
    _report(console, result, path)


def compare_objectives(
    config: Annotated[CompareConfig, tyro.conf.arg(name="")] = CompareConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
) -> Work:
    """Train on several objectives, several seeds each, and print a table.

    Args:
        config: the options.
        out: New folder for table, numbers and picture. None: one in runs/ named by the time.
    """
    path = out or _new_path("compare")
    folder.check_new(path)
    return partial(_compare, config, compare.set_up(config, seed=0), path)


def _compare(config: CompareConfig, first: dict[str, Run], path: Path) -> None:
    console = Console()
    any_run = next(iter(first.values()))
    title = _headline(config, any_run.data.name)
    console.print(title, markup=False, highlight=False)
    total = config.seeds * len(config.objectives) * config.epochs * run.num_batches(any_run)
    with _progress(console, total, 0) as advance:

        def on_epoch(objective: str, seed: int, epoch: Epoch) -> None:
            advance(f"seed {seed}, {objective}, {_describe(epoch)}", steps=0)

        with folder.new(path) as part:
            epochs = compare.train(config, first, on_step=advance, on_epoch=on_epoch)
            compare.write(part, config, epochs, title)
    table = compare.markdown(compare.summarise(epochs))
    _say(console, f"\n{table}")
    for name in (compare.TABLE, compare.CURVES, compare.RESULTS):
        _say(console, f"{path / name}")


def try_sigmas(
    config: Annotated[SigmaConfig, tyro.conf.arg(name="")] = SigmaConfig(),  # noqa: B008  # frozen
    *,
    out: Path | None = None,
) -> Work:
    """Say which σ suits a network and a data set, by short trial runs.

    Args:
        config: the options.
        out: New folder for table and picture. None: one in runs/ named by the time.
    """
    path = out or _new_path("sigma")
    folder.check_new(path)
    return partial(_try_sigmas, config, sigmas.set_up(config), path)


def _try_sigmas(config: SigmaConfig, default: Run, path: Path) -> None:
    console = Console()
    title = _headline(config, default.data.name)
    console.print(title, markup=False, highlight=False)
    total = len(config.factors) * config.epochs * run.num_batches(default)
    with folder.new(path) as part:
        with _progress(console, total, 0) as advance:
            rows = sigmas.try_all(
                config,
                default,
                on_step=advance,
                on_trial=lambda sigma: advance(f"sigma {sigma:.3g}", steps=0),
            )
        sigmas.write(part, rows, title)
    _say(console, f"\n{sigmas.markdown(rows)}")
    for name in (sigmas.TABLE, sigmas.CURVES):
        _say(console, f"{path / name}")


def diagnose_run(path: tyro.conf.Positional[Path], *, num_examples: int = 1000, seed: int = 0) -> Work:
    """Say whether a run's gradient is signal, at its newest checkpoint, class by class.

    Args:
        path: Folder of the run, where the picture goes, too.
        num_examples: The first so many training examples are looked at, at least 1.
        seed: Of the perturbations, at least 0.
    """
    found, is_saved = run.restore(path)
    if not is_saved:
        raise FileNotFoundError(f"{path}: has no checkpoint yet; diagnose it after its first one")
    rows = diagnosis.diagnose(found, num_examples=num_examples, seed=seed)
    return partial(_diagnose, found, rows, path)


def _diagnose(found: Run, rows: Sequence[diagnosis.Row], path: Path) -> None:
    console = Console()
    epoch = int(found.state.step) // run.num_batches(found)
    title = f"{found.config.objective}, epoch {epoch}, sigma {found.config.sigma:.3g}"
    title += f", {found.config.num_samples} samples for each example"
    picture = path / f"diagnosis-{epoch}.png"
    diagnosis.plot(picture, rows, title)
    _say(console, f"{title}\n\n{diagnosis.markdown(rows)}")
    _say(console, f"{rows[0].report}\n\npicture  {picture}")


def learn_cartpole(
    config: Annotated[RLConfig, tyro.conf.arg(name="")] = RLConfig(),  # noqa: B008  # frozen
) -> Work:
    """Learn CartPole by evolution strategies over all of a policy's parameters.

    Args:
        config: the options.
    """
    return partial(_learn_cartpole, config)


def _learn_cartpole(config: RLConfig) -> None:
    console = Console()
    for generation in rl.train(config):
        console.print(
            f"generation {generation.number}, {generation.episodes} episodes: mean return of the population "
            f"{generation.population_return:.1f}, of the policy {generation.test_return:.1f}",
            highlight=False,
            soft_wrap=True,
        )
    end = "solved" if generation.test_return >= rl.SOLVED else "not solved: try more --generations"
    console.print(f"{end}: mean return {generation.test_return:.1f} over 100 episodes", highlight=False)


def do_task(
    name: tyro.conf.Positional[TaskName],
    *,
    data: Path | None = None,
    seeds: int | None = None,
    out: Path | None = None,
) -> Work:
    """Train on a metric people report, on real data, beside an honest baseline.

    Args:
        name: codec (accuracy through JPEG), noisy (accuracy on Fashion-MNIST, so many per cent of its
            training labels random, or 40 % flipped), ranking (NDCG@10 on MSLR), shortest-path (regret of
            routes across hills), survival (concordance on GBSG2) or yeast (macro-F1 of 14 labels).
        data: Where the data are, where no package ships them. None: where the task looks first.
        seeds: Splits of the data, at least 2. None: as many as tell the methods apart.
        out: New folder for table, numbers and picture. None: one in runs/ named by the time.
    """
    from esjax.tasks import TASKS

    if seeds is not None and seeds < 2:
        raise ValueError(f"seeds={seeds} must be >= 2, for a standard error")
    path = out or _new_path(name)
    folder.check_new(path)
    task = TASKS[name](data)
    return partial(_do_task, task, seeds or task.seeds, path)


def _do_task(task: "Task", seeds: int, path: Path) -> None:
    from esjax.tasks import frame

    console = Console()
    results = []
    with folder.new(path) as part:
        with _progress(console, seeds, 0) as advance:
            for seed in range(seeds):
                results.append(task.compare(seed))
                advance(f"{task.title}, seed {seed}")
        frame.write(part, task, results)
    rows = frame.summarise(task, results)
    text = f"\n{frame.markdown(task, rows)}\n{frame.verdict(task, rows)}"
    _say(console, text)
    for file in (frame.TABLE, frame.PICTURE, frame.RESULTS):
        _say(console, f"{path / file}")


def _say(console: Console, text: str) -> None:
    """Prints the text as it is: paths stay whole, and brackets are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _new_path(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _headline(config: Options, data: str) -> str:
    return f"{data}; {config.label_noise:.0%} random labels; {config.network}; {config.epochs} epochs"


def _describe(epoch: Epoch) -> str:
    return f"epoch {epoch.epoch}, test {epoch.test_accuracy:.1%}"


@contextmanager
def _progress(console: Console, total: int, done: int) -> Iterator[Callable[..., None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=total, completed=done)

        def advance(description: str | None = None, steps: int = 1) -> None:
            bar.update(task, advance=steps, description=description)

        yield advance


def _report(console: Console, result: run.Result, path: Path) -> None:
    last = result.epochs[-1]
    lines = [f"test accuracy {last.test_accuracy:.1%}"]
    if last.lost_classes:
        lines.append(f"never right for classes {last.lost_classes}")
    if last.vanished_classes:
        lines.append(
            f"no gradient is left for classes {last.vanished_classes}: start a new run with a larger --sigma"
        )
    lines += [
        f"pictures    {path / folder.CURVES}, {path / folder.CONFUSION}",
        f"checkpoint  {path / folder.CHECKPOINTS / str(last.epoch)}",
    ]
    _say(console, "\n".join(lines))
