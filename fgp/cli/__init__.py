"""The command line `fgp` (= `python -m fgp`): one subcommand a stage.

`fgp SUBCOMMAND ... then SUBCOMMAND ...` runs several in one process, in order, and stops at the first that fails.
"""

import argparse
import importlib
import itertools
import sys
from collections.abc import Iterator, Sequence

from fgp import provenance
from fgp.errors import FgpError

SUBCOMMANDS = ("data", "train", "stage", "score", "plan", "prune", "finetune", "evaluate", "measure")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        for words in _split(argv):
            arguments = _parser(words).parse_args(words)
            provenance.COMMAND.set(words)
            arguments.run(arguments)
    except FgpError as error:
        print(f"fgp: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fgp: error: {error.filename or 'the operating system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _split(argv: list[str]) -> Iterator[list[str]]:
    if not argv:
        yield []
    for is_separator, words in itertools.groupby(argv, key=lambda word: word == "then"):
        if not is_separator:
            yield list(words)


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Build the parser; only the subcommand in `words` is imported, all of them when none is named."""
    parser = argparse.ArgumentParser(
        prog="fgp",
        description="Train, score, prune, fine-tune and measure convolutional networks, one step a subcommand.",
        epilog="`fgp A ... then B ...` runs several subcommands in one process.",
    )
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    named = [name for name in SUBCOMMANDS if words and words[0] == name]
    for name in named or SUBCOMMANDS:
        module = importlib.import_module(f"fgp.cli.{name}")
        summary = module.__doc__.splitlines()[0]
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser
