"""Tables and figures of the cells that there are, the others marked; Figure 1, which shows no cells, is left out."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fgp.errors import exit_status
from fgp_workflow import collect, figures, tables
from fgp_workflow.inputs import read_experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fgp_workflow.partial", description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="the resolved configuration of a run")
    parser.add_argument("--accept-code", action="store_true", help="as for fgp_workflow.collect")
    parser.add_argument("--out-dir", required=True, metavar="FOLDER", help="is emptied first")
    args = parser.parse_args(argv)
    wanted = []

    def read() -> None:
        wanted.append(read_experiment(args.config))
        if Path(args.out_dir).exists():
            shutil.rmtree(args.out_dir)

    status = exit_status("partial", read)
    return status or _make(wanted[0], args.config, args.out_dir, ["--accept-code"] if args.accept_code else [])


def _make(experiment, config: str, folder: str, accept: list[str]) -> int:
    """Run collection, tables and figures; stop at the first that fails and return its exit status."""
    cells = f"{folder}/cells.csv"
    given = ["--cells", cells, "--config", config]
    calls = [(collect.main, ["--config", config, "--missing-ok", *accept, "--out", cells])]
    calls += [(tables.main, [*given, "--table", str(table), "--out-dir", f"{folder}/tables"]) for table in experiment.tables]
    for figure in experiment.figures:
        if figure != "1":
            words = [*given, "--figure", figure, "--missing-ok", "--out-stem", f"{folder}/figures/fig{figure}"]
            calls.append((figures.main, words))
    return next((status for call, words in calls if (status := call(words))), 0)


if __name__ == "__main__":
    sys.exit(main())
