"""`esjax` and `python -m esjax`: the command line, where its packages are installed."""

import sys


def main() -> None:
    """Runs the command line of the extra `train`."""
    try:
        from esjax.train import cli
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("esjax"):
            raise
        sys.exit(f"esjax: the command line needs {error.name}; run pip install 'esjax[train]'")
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
