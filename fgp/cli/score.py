"""Score the channels of a trained network by a method of baselines/

Reads training images without augmentation, in eval mode. --images draws them evenly over the classes. Of a method that scores
while it trains (`fgp stage`) the scores are taken from the weights file.
"""

import argparse
import time
from types import ModuleType

from fgp import options
from fgp.cli import common
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--data", required=True, metavar="FILE", help="prepared data (`fgp data`)")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the network to score (`fgp train`)")
    parser.add_argument("--method", required=True, metavar="NAME", help="a file of baselines/, written with hyphens")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the method; repeatable")
    images = parser.add_mutually_exclusive_group()
    images.add_argument("--images", type=int, metavar="N", help="training images used (default: all)")
    images.add_argument("--per-class", type=int, metavar="N", help="training images used of every class (classification)")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images a forward pass (default: 128)")
    parser.add_argument("--seed", type=int, required=True, help="of the choice of images, and of methods that draw")
    parser.add_argument("--out", required=True, metavar="FILE", help="scores to write (safetensors)")
    common.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Score and write `--out`."""
    import baselines

    method = baselines.get(args.method)
    given = _options(args, method)
    import torch

    import fgp
    from fgp import data, provenance
    from fgp.scoring.files import save_scores

    device = common.set_up_device(args)
    dataset = data.load(args.data)
    model = fgp.load(args.weights)
    _check(args, method, model, dataset)
    model.to(device).eval()
    scores, seconds, images = _scored(args, method, model, dataset, given) if hasattr(method, "score") else _recorded(args)
    save_scores(
        args.out,
        scores,
        method=args.method,
        options=given,
        seconds=seconds,
        images=images,
        seed=args.seed,
        spec=model.fgp_spec and model.fgp_spec.to_dict(),
        provenance=provenance.collect(str(device), [args.data, args.weights], threads=torch.get_num_threads()),
    )
    print(f"{args.method}: scored {len(scores)} layers, {images} training images offered, {seconds:.2f} s -> {args.out}")


def _scored(args: argparse.Namespace, method: ModuleType, model, dataset, given: dict) -> tuple[dict, float, int]:
    """Score; return scores, seconds and the number of images offered."""
    import torch

    from fgp import data

    device = next(model.parameters()).device
    split = dataset.train
    if args.images is not None or args.per_class is not None:
        split = data.subset(split, limit=args.images, per_class=args.per_class, seed=args.seed)
    batches = data.batches(split, dataset, args.batch_size, device)
    torch.manual_seed(args.seed)
    start = _now(device)
    scores = method.score(model, batches, args.seed, **given)
    return scores, _now(device) - start, len(split)


def _recorded(args: argparse.Namespace) -> tuple[dict, float, int]:
    """Return the scores that the method's own training left in the weights file, with the seconds of that training."""
    import torch

    from fgp.checkpoint import read_metadata

    about = read_metadata(args.weights)
    if about.get("scored_by") != args.method:
        raise FgpError(
            f"--weights {args.weights}: {args.method} scores while it trains, and this file holds none of its scores; give the "
            f"network that `fgp stage --method {args.method}` wrote"
        )
    return {name: torch.tensor(values) for name, values in about["scores"].items()}, about["score_seconds"], 0


def _options(args: argparse.Namespace, method: ModuleType) -> dict[str, object]:
    facts = method.METHOD
    if facts.kind == "scratch":
        raise FgpError(f"--method {args.method}: kind scratch has no scores; its architecture is that of {facts.plan_of}")
    if facts.kind not in ("criterion", "sparse-training"):
        raise FgpError(f"--method {args.method}: kind {facts.kind} does not score a trained network; see fgp stage")
    if not hasattr(method, "score"):
        return {}
    return options.check_for(method.score, options.parse(args.option, "--option"), args.method, "--option ")


def _check(args: argparse.Namespace, method: ModuleType, model, dataset) -> None:
    if dataset.task not in method.METHOD.tasks:
        raise FgpError(
            f"--method {args.method}: defined for {', '.join(sorted(method.METHOD.tasks))}, {args.data} is {dataset.task}"
        )
    spec = model.fgp_spec
    if spec and (spec.task, spec.num_classes) != (dataset.task, dataset.outputs):
        raise FgpError(
            f"--weights {args.weights}: a {spec.task} network with {spec.num_classes} outputs, "
            f"{args.data} is {dataset.task} with {dataset.outputs}; give the data the network was trained on"
        )


def _now(device) -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()
