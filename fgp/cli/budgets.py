"""Check that a network can be pruned to numbers of MACs, before anything is trained

What it takes depends on the architecture and the image size alone: a layer keeps one channel at least, and layers that reach a
residual sum stay whole unless --tied is given.
"""

import argparse
import json

from fgp import selections
from fgp.errors import FgpError
from fgp.models.names import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--network", choices=NAMES, required=True, help="a dense network")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every channel count (default: 1)")
    parser.add_argument("--data", metavar="FILE", required=True, help="prepared data, for image size and number of classes")
    parser.add_argument("--tied", action="store_true", help="prune layers that reach a residual sum too, together")
    parser.add_argument("--selections", nargs="+", default=[], metavar="macs-BUDGET", help="to be reached, e.g. macs-0.2655")
    parser.add_argument("--out", metavar="FILE", help="file to write what is printed (JSON)")


def run(args: argparse.Namespace) -> None:
    """Print, and write with --out, the MACs of the dense network and the fewest that each selection can reach.

    Raises:
        FgpError: a selection is out of reach; the message names it, the range and what would help.
    """
    wanted = [selections.parse(name) for name in args.selections]
    if other := [selection.name for selection in wanted if selection.kind != "macs"]:
        raise FgpError(f"--selections {other[0]}: names no number of MACs; give macs-BUDGET")
    import torch

    from fgp import data, files, models, provenance
    from fgp.select import least_macs, reachable
    from fgp.surgery import Structure

    header = data.read_header(args.data)
    with torch.device("meta"):
        model = models.build(args.network, header.outputs, args.width)
    structure = Structure(model, torch.empty(1, *header.shape, device="meta"), args.tied)
    dense = structure.macs()
    least = {selection.name: least_macs(structure, selection.multiple) for selection in wanted}
    for selection in wanted:
        if not reachable(structure, selection.value, selection.multiple):
            raise FgpError(
                f"{selection.name}: {args.network} at width {args.width:g} cannot be pruned to so few MACs; between "
                f"{least[selection.name] / dense:.4f} and 1 of its {dense:,} MACs can be reached{_hint(args.tied, structure)}"
            )
    found = {"dense_macs": dense, "least_macs": least}
    print(json.dumps(found, indent=1))
    if args.out:
        files.write_json(args.out, found | {"provenance": provenance.collect(inputs=[args.data])})


def _hint(tied: bool, structure) -> str:
    """Return what would lower the fewest MACs: residual layers, where they stay whole."""
    if tied or not any(group.residual for group in structure.groups):
        return "; ask for more"
    return "; ask for more, or prune its residual layers too: --tied, in the configuration `tied: true` in the task"
