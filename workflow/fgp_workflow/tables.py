"""The paper's Tables 1 to 3 from `cells.csv`, our numbers beside the printed ones, as CSV, Markdown, LaTeX and HTML."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fgp.errors import exit_status
from fgp_workflow import cells, paper
from fgp_workflow.inputs import read_experiment, read_yaml
from fgp_workflow.table_data import TITLES, build
from fgp_workflow.table_formats import write


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fgp_workflow.tables", description=__doc__)
    parser.add_argument("--cells", required=True, metavar="FILE", help="cells.csv")
    parser.add_argument("--config", required=True, metavar="FILE", help="the experiment's configuration")
    parser.add_argument("--table", required=True, type=int, choices=sorted(TITLES))
    parser.add_argument("--out-dir", required=True, metavar="FOLDER", help="gets table<N>.csv, .md, .tex and .html")
    parser.add_argument(
        "--paper", default=paper.FILE, metavar="FILE", help="the printed numbers (default: config/printed/tables.yaml)"
    )
    args = parser.parse_args(argv)

    def make() -> None:
        experiment = read_experiment(args.config)
        write(build(args.table, cells.read(args.cells), experiment, read_yaml(args.paper)), Path(args.out_dir))

    return exit_status("tables", make)


if __name__ == "__main__":
    sys.exit(main())
