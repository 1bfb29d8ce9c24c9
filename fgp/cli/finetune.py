"""Fine-tune a pruned network and measure it before and after

The weights are those of the last epoch; nothing is chosen by the test images. The metrics compare the network with the dense
one of the same name and width.
"""

import argparse
from pathlib import Path

from fgp.cli import common, training
from fgp.errors import FgpError
from fgp.train.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--weights", required=True, metavar="FILE", help="pruned network (`fgp prune`)")
    parser.add_argument("--method", metavar="NAME", help="method whose own way of fine-tuning is used")
    training.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate, fine-tune, evaluate again, write weights, curve and metrics."""
    recipe = Recipe.from_args(args)
    hook = _hook(args.method) if args.method else None
    from fgp.train import distributed

    distributed.join(args.device)
    device = common.set_up_device(args)
    import fgp
    from fgp import checkpoint, data
    from fgp.evaluate import evaluate
    from fgp.train import result

    tags = training.tags(args, "pruned", Path(args.weights).stem)
    dataset = data.load(args.data)
    recipe.check_task(dataset.task)
    model = fgp.load(args.weights)
    result.check_fits(model, dataset, args.weights)
    score_seconds = checkpoint.read_metadata(args.weights).get("score_seconds")
    before = evaluate(model, dataset.test, dataset, device, recipe.batch_size)
    entries = {"before": before, "score_seconds": score_seconds}
    training.train(args, model, dataset, recipe, device, tags, [args.weights], hook=hook, **entries)


def _hook(name: str):
    import baselines

    method = baselines.get(name)
    if not hasattr(method, "finetuning"):
        raise FgpError(f"--method {name}: it is fine-tuned like every other; leave --method out")
    return method.finetuning()
