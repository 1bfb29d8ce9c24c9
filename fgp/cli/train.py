"""Train a network

A dense one from random weights (--network); the pruned architecture of a weights file with fresh weights (--architecture), the
control of "Rethinking the Value of Network Pruning" (Liu 2019), for the same epochs, or for as many training FLOPs, at most twice
the epochs. The weights are those of the last epoch; the test images are looked at once, afterwards.
"""

import argparse

from fgp.cli import common, training
from fgp.errors import FgpError
from fgp.models.names import NAMES
from fgp.train.recipe import Recipe

_MOST_TIMES_EPOCHS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", choices=NAMES, help="a dense network")
    which.add_argument("--architecture", metavar="FILE", help="the architecture of this weights file, with new weights")
    parser.add_argument("--width", type=float, help="with --network: factor on every channel count (default: 1)")
    parser.add_argument(
        "--epochs-scale",
        choices=("equal", "flops"),
        default="equal",
        help="with --architecture: flops multiplies the epochs by min(2, dense MACs / MACs) (default: equal)",
    )
    training.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train, evaluate on the test images, write weights, curve and metrics."""
    recipe = Recipe.from_args(args)
    if args.architecture and args.width is not None:
        raise FgpError("--width: an architecture from a file has its own width; leave --width out")
    if args.network and args.epochs_scale != "equal":
        raise FgpError("--epochs-scale flops: compares a pruned architecture with its dense network; give --architecture")
    from fgp.train import distributed

    distributed.join(args.device)
    device = common.set_up_device(args)
    from fgp import data
    from fgp.train import result

    dataset = data.load(args.data)
    recipe.check_task(dataset.task)
    model = training.new_network(args, dataset) if args.network else _fresh(args, dataset)
    if args.epochs_scale == "flops":
        dense, own = result.cost_on(result.dense_twin(model), dataset), result.cost_on(model, dataset)
        recipe = recipe.stretched(min(_MOST_TIMES_EPOCHS, dense.macs / own.macs))
    tags = training.tags(args, "scratch" if args.architecture else "dense", "unpruned")
    training.train(args, model, dataset, recipe, device, tags, [args.architecture])


def _fresh(args: argparse.Namespace, dataset):
    """Return the network of --architecture with weights drawn by the seed."""
    import torch

    import fgp
    from fgp.models.layers import initialise
    from fgp.train import result

    model = fgp.load(args.architecture)
    result.check_fits(model, dataset, args.architecture)
    torch.manual_seed(args.seed)
    for module in initialise(model).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    return model
