"""Remove the channels that a plan drops

The output of the pruned network is checked against the dense network with the removed channels masked.
"""

import argparse

from fgp.cli import common
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="the dense network (`fgp train`)")
    parser.add_argument("--plan", required=True, metavar="FILE", help="plan (`fgp plan`)")
    common.add_input_size(parser)
    parser.add_argument(
        "--tied", action="store_true", help="as given to `fgp plan`; a plan made with it is applied with it anyway"
    )
    parser.add_argument("--repair", metavar="METHOD", help="let this method adjust the weights to the loss of the channels first")
    parser.add_argument("--images", type=int, metavar="N", help="--repair: training images it reads (default: all)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="--repair: images a forward pass (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="--repair: of the choice of images (default: 0)")
    common.add_device(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="pruned network to write (safetensors)")


def run(args: argparse.Namespace) -> None:
    """Prune and write `--out`."""
    from fgp.plans import load_plan

    file = load_plan(args.plan)
    from fgp import provenance
    from fgp.checkpoint import load, save
    from fgp.cli.structure import structure_of

    model = load(args.weights)
    spec = model.fgp_spec and model.fgp_spec.to_dict()
    if spec != file.spec:
        raise FgpError(f"{args.plan}: made for the network {file.spec}, but {args.weights} holds {spec}; make a plan for it")
    if args.repair:
        model = _repaired(args, model, file.plan)
    pruned = structure_of(model, common.read_example_input(args), args.tied or file.tied).prune(file.plan)
    save(pruned, args.out, selection=file.selection, provenance=provenance.collect(inputs=[args.data, args.weights, args.plan]))


def _repaired(args: argparse.Namespace, model, plan: dict[str, list[int]]):
    """Return the dense network with the weights that the method of --repair gives it, on the CPU."""
    import baselines
    from fgp import data

    method = baselines.get(args.repair)
    if not hasattr(method, "repair"):
        raise FgpError(f"--repair {args.repair}: this method adjusts no weights; leave --repair out")
    if not args.data:
        raise FgpError("--repair: give --data, the method reads training images")
    device = common.set_up_device(args)
    dataset = data.load(args.data)
    split = dataset.train if args.images is None else data.subset(dataset.train, limit=args.images, seed=args.seed)
    batches = data.batches(split, dataset, args.batch_size, device)
    repaired = method.repair(model.to(device).eval(), plan, batches, args.seed).cpu()
    repaired.fgp_spec, repaired.fgp_plan = model.fgp_spec, model.fgp_plan
    return repaired
