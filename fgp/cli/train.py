"""Train a network

A dense one from random weights (--network); the pruned architecture of a weights file with fresh weights (--architecture), the
control of "Rethinking the Value of Network Pruning" (Liu 2019), for the same epochs, or for as many training FLOPs, at most twice
the epochs; or one that is trained already (--weights). --method names a method of kind sparse-training or gradual that takes
part. The weights are those of the last epoch; the test images are looked at once, afterwards. A gradual method leaves the
network in its dense shape, beside the plan of the channels that are to go.
"""

import argparse

from fgp.cli import common, own_stage, training
from fgp.errors import FgpError
from fgp.models.names import NAMES
from fgp.train.recipe import Recipe

_MOST_TIMES_EPOCHS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", choices=NAMES, help="a dense network")
    which.add_argument("--architecture", metavar="FILE", help="the architecture of this weights file, with new weights")
    which.add_argument("--weights", metavar="FILE", help="a trained network, with its weights")
    parser.add_argument("--width", type=float, help="with --network: factor on every channel count (default: 1)")
    parser.add_argument(
        "--epochs-scale",
        choices=("equal", "flops"),
        default="equal",
        help="with --architecture: flops multiplies the epochs by min(2, dense MACs / MACs) (default: equal)",
    )
    own_stage.add_arguments(parser)
    training.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train, evaluate on the test images, write weights, curve, metrics and what a method found."""
    recipe = Recipe.from_args(args)
    if not args.network and args.width is not None:
        raise FgpError("--width: a network from a file has its own width; leave --width out")
    if not args.architecture and args.epochs_scale != "equal":
        raise FgpError("--epochs-scale flops: compares a pruned architecture with its dense network; give --architecture")
    method = own_stage.read_method(args)
    gradual = method is not None and method.METHOD.kind == "gradual"
    if gradual and args.metrics:
        raise FgpError(f"--metrics: {args.method} leaves a network to be pruned; fgp prune and fgp finetune measure it")
    device = common.set_up_device(args)
    from fgp import data
    from fgp.evaluate import evaluate
    from fgp.train import result
    from fgp.train.loop import fit

    dataset = data.load(args.data)
    recipe.check_task(dataset.task)
    hook = own_stage.make_hook(args, method, dataset.task) if method else None
    model = _network(args, dataset)
    if args.epochs_scale == "flops":
        dense, own = result.cost_on(result.dense_twin(model), dataset), result.cost_on(model, dataset)
        recipe = recipe.stretched(min(_MOST_TIMES_EPOCHS, dense.macs / own.macs))
    tags = training.tags(args, "scratch" if args.architecture else args.method or "dense", args.selection or "unpruned")
    checkpoint = training.checkpoint(args, args.architecture or args.weights)
    label = training.label(tags, args.seed)
    history = fit(model, dataset.train, dataset, recipe, args.seed, device, hook=hook, checkpoint=checkpoint, label=label)
    if method:
        own_stage.write(args, hook, model, history.seconds)
    after = None if gradual else evaluate(model, dataset.test, dataset, device, recipe.batch_size)
    training.write(args, model, recipe, dataset, history, device, tags, before=None, after=after, score_seconds=None)
    checkpoint.remove()


def _network(args: argparse.Namespace, dataset):
    """Build the network with weights drawn by the seed, or load a trained one."""
    import torch

    import fgp
    from fgp import models
    from fgp.models.layers import initialise
    from fgp.train import result

    torch.manual_seed(args.seed)
    if args.network:
        model = models.build(args.network, dataset.outputs, 1.0 if args.width is None else args.width)
        result.check_fits(model, dataset, f"--network {args.network}")
        return model
    file = args.architecture or args.weights
    model = fgp.load(file)
    result.check_fits(model, dataset, file)
    if args.weights:
        return model
    for module in initialise(model).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    return model
