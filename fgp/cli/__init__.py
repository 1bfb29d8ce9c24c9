"""The command line `fgp` (= `python -m fgp`): one subcommand a stage."""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence

from fgp import provenance, torchrun
from fgp.errors import FgpError, exit_status

SUBCOMMANDS = ("data", "budgets", "train", "stage", "score", "plan", "prune", "finetune", "evaluate", "measure", "rerun")
_SHARED = ("train", "finetune")
_OUT_OF_MEMORY = re.compile("MemoryError|out of memory|(can't allocate|not enough) memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
_LOWER = {
    "data": "--size, --train-limit or --test-limit (in the configuration: the data set's size, train_limit, test_limit)",
    **dict.fromkeys(("train", "stage", "finetune"), "--batch-size (in the configuration: the recipe's batch_size)"),
    **dict.fromkeys(("score", "prune"), "--batch-size or --images (in the configuration: scoring.batch_size, scoring.images)"),
    "evaluate": "--batch-size",
    "measure": "--batch-sizes (in the configuration: latency.batch_sizes)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    return exit_status("fgp", lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(words: list[str]) -> None:
    """Run a subcommand; memory that runs out becomes an FgpError that says what to lower."""
    arguments = _parser(words).parse_args(words)
    if words[0] not in _SHARED and torchrun.launched():
        raise FgpError(f"torchrun: `fgp {words[0]}` runs in one process, only {' and '.join(_SHARED)} in several; leave it out")
    provenance.COMMAND.set(words)
    try:
        arguments.run(arguments)
    except (MemoryError, RuntimeError) as error:
        text = f"{type(error).__name__}: {error}"
        if not _OUT_OF_MEMORY.search(text):
            raise
        lower = f"lower {_LOWER[words[0]]}, or " if words[0] in _LOWER else ""
        raise FgpError(f"out of memory ({text.splitlines()[0]}); {lower}run fewer jobs at once") from None


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Build the parser; only the subcommand in `words` is imported, all of them when none is named."""
    parser = argparse.ArgumentParser(
        prog="fgp",
        description="Train, score, prune, fine-tune and measure convolutional networks, one step a subcommand.",
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
