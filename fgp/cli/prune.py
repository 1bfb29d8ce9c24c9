"""Remove the channels that a plan drops

The output of the pruned network is checked against the dense network with the removed channels masked.
"""

import argparse

from fgp.cli.plan import add_input_size, read_example_input
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="the dense network (`fgp train`)")
    parser.add_argument("--plan", required=True, metavar="FILE", help="plan (`fgp plan`)")
    add_input_size(parser)
    parser.add_argument(
        "--tied", action="store_true", help="as given to `fgp plan`; a plan made with it is applied with it anyway"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="pruned network to write (safetensors)")


def run(args: argparse.Namespace) -> None:
    """Prune and write `--out`."""
    from fgp.plans import load_plan

    file = load_plan(args.plan)
    from fgp import provenance
    from fgp.checkpoint import load, save
    from fgp.surgery import prune

    model = load(args.weights)
    spec = model.fgp_spec and model.fgp_spec.to_dict()
    if spec != file.spec:
        raise FgpError(f"{args.plan}: made for the network {file.spec}, but {args.weights} holds {spec}; make a plan for it")
    pruned = prune(model, file.plan, read_example_input(args), tied=args.tied or file.tied)
    save(pruned, args.out, selection=file.selection, provenance=provenance.collect())
