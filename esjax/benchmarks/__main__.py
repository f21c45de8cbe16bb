"""`python -m esjax.benchmarks`: every claim about speed and error, measured, beside the peers."""

import dataclasses
import time
from pathlib import Path

import tyro

from esjax.benchmarks import (
    batches,
    black_boxes,
    controls,
    credit,
    first_calls,
    plots,
    report,
    scaling,
    sorting,
    whole_networks,
)

_SECTIONS = {
    "batches": batches.run,
    "black-boxes": black_boxes.run,
    "controls": controls.run,
    "credit": credit.run,
    "first-calls": first_calls.run,
    "sorting": sorting.run,
    "scaling": scaling.run,
    "whole-networks": whole_networks.run,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures esjax beside its peers, and writes tables (Markdown, JSON) and pictures (PNG).

    Attributes:
        quick: fewer problems and repeats, in 5 minutes on 2 cores instead of 24.
        out: the folder to write into, replacing what an earlier run left there.
        only: the sections to run, of batches, black-boxes, controls, credit, first-calls, sorting, scaling
            and whole-networks; if empty, all.
    """

    quick: bool = False
    out: Path = Path("benchmarks")
    only: tuple[str, ...] = ()


def main(options: Options) -> None:
    """Runs the sections, prints their tables, and finally which claims are met."""
    for name in options.only:
        if name not in _SECTIONS:
            raise SystemExit(f"--only {name} is not a section; choose from {', '.join(_SECTIONS)}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--out {options.out} cannot be a folder: {error.strerror}; name another") from error
    print(", ".join(f"{name} {value}" for name, value in report.environment().items()), "\n", flush=True)
    start = time.perf_counter()
    found = []
    for name in options.only or _SECTIONS:
        section = _SECTIONS[name](options.quick)
        found.append(section)
        print(report.markdown(section), flush=True)
        report.save(options.out, found)
        if section.curves:
            plots.draw(options.out / f"{name}.png", section.curves, f"{section.name}, {_device()}")
    print(report.claims([claim for section in found for claim in section.claims]))
    print(f"{time.perf_counter() - start:.0f} s; written to {options.out}")


def _device() -> str:
    return report.environment()["device"]


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
