"""Tell how few MACs a network can be pruned to, before anything is trained

That depends on the architecture and the image size alone: a layer keeps one channel at least, or the multiple that its number
is to be of; layers that reach a residual sum stay whole unless --tied is given. What is asked for (--selections) and out of reach
is refused.
"""

import argparse
import json

from fgp import selections
from fgp.errors import FgpError
from fgp.models.names import NAMES

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--network", choices=NAMES, required=True, help="a dense network")
    parser.add_argument("--width", type=float, default=1.0, help="factor on every channel count (default: 1)")
    parser.add_argument("--data", metavar="FILE", required=True, help="prepared data, for image size and number of classes")
    parser.add_argument("--selections", nargs="+", default=[], metavar="macs-BUDGET", help="to be reached, e.g. macs-0.2655-x8")
    parser.add_argument("--tied", action="store_true", help="for --selections: layers that reach a residual sum are pruned too")
    parser.add_argument("--out", metavar="FILE", help="file to write what is printed (JSON)")


def run(args: argparse.Namespace) -> None:
    """Print, and write with --out, the MACs of the dense network and the fewest that pruning leaves, tied or not, by multiple.

    Raises:
        FgpError: a selection is out of reach; the message names it, the range and what would help.
    """
    wanted = [selections.parse(name) for name in args.selections]
    if other := [selection.name for selection in wanted if selection.kind != "macs"]:
        raise FgpError(f"--selections {other[0]}: names no number of MACs; give macs-BUDGET")
    import torch

    from fgp import coupling, data, files, models, provenance
    from fgp.select import least_macs
    from fgp.surgery import Structure

    header = data.read_header(args.data)
    with torch.device("meta"):
        model = models.build(args.network, header.outputs, args.width)
    example = torch.empty(1, *header.shape, device="meta")
    traced = coupling.trace(model, example)
    ways = {way: Structure(model, example, way == "tied", traced) for way in ("inside", "tied")}
    multiples = sorted({*MULTIPLES, *(selection.multiple for selection in wanted)})
    least = {way: {str(number): least_macs(found, number) for number in multiples} for way, found in ways.items()}
    record = {"dense_macs": ways["inside"].macs(), "least_macs": least}
    for selection in wanted:
        if problem := selections.out_of_reach(selection, record, args.tied):
            raise FgpError(f"{args.network} at width {args.width:g}: {problem}")
    print(json.dumps(record, indent=1))
    if args.out:
        files.write_sealed(args.out, record | {"provenance": provenance.collect(inputs=[args.data])})
