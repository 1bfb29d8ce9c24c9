"""Train a network from random weights

A dense one (--network), or the pruned architecture of a weights file with fresh weights (--architecture), the control of
"Rethinking the Value of Network Pruning" (Liu 2019): for the same epochs, or for as many training FLOPs, at most twice the
epochs. --regulariser names a method of kind sparse-training whose penalty is added to the loss. The weights are those of the
last epoch; the test images are looked at once, afterwards.
"""

import argparse
import json

from fgp.cli import common, training
from fgp.errors import FgpError
from fgp.models.names import NAMES
from fgp.train.recipe import Recipe

_MOST_TIMES_EPOCHS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--network", choices=NAMES, help="a dense network")
    which.add_argument("--architecture", metavar="WEIGHTS", help="the architecture of this weights file, with new weights")
    parser.add_argument("--width", type=float, help="with --network: factor on every channel count (default: 1)")
    parser.add_argument(
        "--epochs-scale",
        choices=("equal", "flops"),
        default="equal",
        help="with --architecture: flops multiplies the epochs by min(2, dense MACs / MACs) (default: equal)",
    )
    parser.add_argument("--regulariser", metavar="METHOD", help="method of kind sparse-training: add its penalty to the loss")
    parser.add_argument(
        "--regulariser-option", action="append", default=[], metavar="KEY=VALUE", help="option of the regulariser; repeatable"
    )
    training.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train, evaluate on the test images, write weights, curve and metrics."""
    recipe = Recipe.from_args(args)
    if args.architecture and args.width is not None:
        raise FgpError("--width: an architecture from a file has its own width; leave --width out")
    if args.network and args.epochs_scale != "equal":
        raise FgpError("--epochs-scale flops: compares a pruned architecture with its dense network; give --architecture")
    if args.regulariser_option and not args.regulariser:
        raise FgpError("--regulariser-option: give --regulariser too")
    penalty = _regulariser(args)
    device = common.set_up_device(args)
    from fgp import data
    from fgp.evaluate import evaluate
    from fgp.train import result
    from fgp.train.loop import fit

    dataset = data.load(args.data)
    recipe.check_task(dataset.task)
    model = _network(args, dataset)
    if args.epochs_scale == "flops":
        dense, own = result.cost_on(result.dense_twin(model), dataset), result.cost_on(model, dataset)
        recipe = recipe.stretched(min(_MOST_TIMES_EPOCHS, dense.macs / own.macs))
    tags = training.tags(args, "scratch" if args.architecture else args.regulariser or "dense", "unpruned")
    history = fit(
        model, dataset.train, dataset, recipe, args.seed, device, regulariser=penalty, label=training.label(tags, args.seed)
    )
    after = evaluate(model, dataset.test, dataset, device, recipe.batch_size)
    training.write(args, model, recipe, dataset, history, device, tags, before=None, after=after, score_seconds=None)


def _network(args: argparse.Namespace, dataset):
    """Build the network with weights drawn by the seed."""
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
    model = fgp.load(args.architecture)
    result.check_fits(model, dataset, args.architecture)
    for module in initialise(model).modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    return model


def _regulariser(args: argparse.Namespace):
    if not args.regulariser:
        return None
    import baselines

    method = baselines.get(args.regulariser)
    if method.METHOD.kind != "sparse-training":
        raise FgpError(
            f"--regulariser {args.regulariser}: a method of kind {method.METHOD.kind} has none; use one of kind sparse-training"
        )
    options = {}
    for option in args.regulariser_option:
        key, equals, value = option.partition("=")
        if not equals:
            raise FgpError(f"--regulariser-option {option}: expected KEY=VALUE")
        options[key] = _value(value)
    try:
        return method.regulariser(**options)
    except TypeError as error:
        raise FgpError(f"--regulariser-option: {args.regulariser}: {error}") from None


def _value(text: str) -> object:
    """Read a number, true, false or null as such, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
