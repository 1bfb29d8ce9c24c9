"""Remove channels: those that a plan drops, or those that scores and a selection say

The output of the pruned network is checked against the dense network with the removed channels masked.
"""

import argparse
from types import ModuleType

from fgp import selections
from fgp.cli import common, plan
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="the dense network (`fgp train`)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--plan", metavar="FILE", help="plan (`fgp plan`)")
    which.add_argument("--scores", metavar="FILE", help="scores (`fgp score`), to choose and remove channels in one step")
    common.add_input_size(parser)
    parser.add_argument("--selection", metavar="NAME", help="--scores: e.g. cumulative-0.40 or macs-0.2368-x8, see `fgp plan`")
    parser.add_argument("--write-plan", metavar="FILE", help="--scores: plan to write (JSON)")
    parser.add_argument(
        "--tied", action="store_true", help="as given to `fgp plan`; a plan made with it is applied with it anyway"
    )
    parser.add_argument("--repair", metavar="METHOD", help="let this method adjust the weights to the loss of the channels first")
    parser.add_argument("--images", type=int, metavar="N", help="--repair: training images it reads (default: all)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="--repair: images a forward pass (default: 128)")
    plan.add_choice(parser)
    common.add_device(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="pruned network to write (safetensors)")


def run(args: argparse.Namespace) -> None:
    """Choose channels where --scores are given, prune and write `--out`."""
    if {bool(args.selection), bool(args.write_plan)} != {bool(args.scores)}:
        raise FgpError("--selection, --write-plan: give both with --scores, and neither with --plan")
    if args.scores:
        selections.parse(args.selection)
    method = _repairing(args) if args.repair else None
    from fgp import provenance
    from fgp.checkpoint import load, save
    from fgp.cli.structure import structure_of
    from fgp.plans import load_plan

    given = load_plan(args.plan) if args.plan else None
    model = load(args.weights)
    if given and given.spec != (spec := model.fgp_spec and model.fgp_spec.to_dict()):
        raise FgpError(f"{args.plan}: made for the network {given.spec}, but {args.weights} holds {spec}; make a plan for it")
    structure = structure_of(model, common.read_example_input(args), args.tied or bool(given and given.tied))
    kept, seconds = (given.plan, None) if given else plan.write(args, model, structure, args.write_plan)
    if method:
        model = _repaired(args, method, model, kept)
        structure = structure_of(model, common.read_example_input(args), structure.tied)
    save(
        structure.prune(kept),
        args.out,
        selection=given.selection if given else args.selection,
        score_seconds=seconds,
        provenance=provenance.collect(inputs=[args.data, args.weights, args.plan or args.scores]),
    )


def _repairing(args: argparse.Namespace) -> ModuleType:
    """Return the module of --repair, after a check that it adjusts weights."""
    import baselines

    method = baselines.get(args.repair)
    if not hasattr(method, "repair"):
        raise FgpError(f"--repair {args.repair}: this method adjusts no weights; leave --repair out")
    if not args.data:
        raise FgpError("--repair: give --data, the method reads training images")
    return method


def _repaired(args: argparse.Namespace, method: ModuleType, model, kept: dict[str, list[int]]):
    """Return the dense network with the weights that the method of --repair gives it, on the CPU."""
    from fgp import data

    device = common.set_up_device(args)
    dataset = data.load(args.data)
    split = dataset.train if args.images is None else data.subset(dataset.train, limit=args.images, seed=args.seed)
    batches = data.batches(split, dataset, args.batch_size, device)
    repaired = method.repair(model.to(device).eval(), kept, batches, args.seed).cpu()
    repaired.fgp_spec, repaired.fgp_plan = model.fgp_spec, model.fgp_plan
    return repaired
