"""`esjax` and `python -m esjax`: the command line, if its packages are installed."""

import os
import signal
import sys

from esjax._version import __version__


def main() -> None:
    """Runs the command line of the extra `train`; Ctrl-C ends it with status 130, a broken pipe silently."""
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # until `interrupts` is imported
    if sys.argv[1:] == ["--version"]:
        print(f"esjax {__version__}")
        return
    try:
        from esjax.train import interrupts

        with interrupts.watched():
            from esjax.train import cli, screen

            with screen.quiet_when_unread():
                sys.exit(cli.main())
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("esjax"):
            raise
        sys.exit(f"esjax: the command line needs {error.name}; run pip install 'esjax[train]'")


if __name__ == "__main__":
    main()
