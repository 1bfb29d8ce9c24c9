"""The paper's Figures 1, 3a, 3b and 4 as PDF and PNG; `python -m fgp_workflow.figures --figure 3a ...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fgp.errors import FgpError, exit_status

FIGURES = ("1", "3a", "3b", "4")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m fgp_workflow.figures", description=__doc__, add_help=False)
    parser.add_argument("--figure", choices=FIGURES, required=True)
    figure = parser.parse_known_args(argv)[0].figure
    parser.add_argument("-h", "--help", action="help")
    parser.add_argument("--out-stem", required=True, type=Path, metavar="STEM", help="writes STEM.pdf and STEM.png")
    names = ("data", "weights", "plan", "scores") if figure == "1" else ("cells", "config")
    for name in names:
        parser.add_argument(f"--{name}", required=True, metavar="FILE")
    if figure == "1":
        parser.add_argument("--classes", type=int, default=3, help="columns: the first so many classes (default: 3)")
        parser.add_argument("--channels", type=int, default=6, help="rows: half of them kept, half removed (default: 6)")
        parser.add_argument("--layer", help="default: the deepest pruned layer with maps of at least 8 x 8")
    else:
        parser.add_argument("--missing-ok", action="store_true", help="write nothing where none of the figure's cells is there")
    args = parser.parse_args(argv)

    def make() -> None:
        if figure == "1":
            from fgp_workflow.figures import fig1

            drawn = fig1.draw(fig1.read(args.data, args.weights, args.plan, args.scores, args.classes, args.channels, args.layer))
        else:
            drawn = _from_cells(figure, args.cells, args.config, args.missing_ok)
        if drawn:
            from fgp_workflow.figures import style

            style.save(drawn, args.out_stem)

    return exit_status("figures", make)


def _from_cells(figure: str, file: str, config_file: str, missing_ok: bool):
    from fgp_workflow import cells, paper
    from fgp_workflow.figures import fig3a, fig3b, fig4, holes
    from fgp_workflow.inputs import read_experiment, read_yaml

    experiment = read_experiment(config_file)
    if figure not in experiment.figures:
        raise FgpError(f"{config_file}: key figures.fig{figure} is missing; say there what to draw")
    table = cells.read(file)
    module = {"3a": fig3a, "3b": fig3b, "4": fig4}[figure]
    printed = [read_yaml(paper.FILE)] if figure == "3b" else []
    try:
        return module.draw(module.prepare(table, experiment, *printed))
    except holes.NothingToDrawError as error:
        if not missing_ok:
            raise
        print(f"not drawn: {error}", file=sys.stderr)
        return None
