"""`python -m benchmarks`: run one benchmark with its flags, or all of them with their defaults."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import report
from fgp.errors import FgpError

SHARED = {"__init__", "__main__", "harness"}
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, or 1 where a benchmark cannot run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words:
        return _run(_parser().parse_args(words))
    return max(_run(_parser().parse_args([name])) for name in NAMES)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name in NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        command = commands.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _run(args: argparse.Namespace) -> int:
    report(f"benchmark {args.benchmark}")
    try:
        args.run(args)
    except FgpError as error:
        report(f"benchmarks {args.benchmark}: error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
