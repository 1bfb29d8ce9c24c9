"""Arguments and outputs that the subcommands train and finetune share."""

import argparse
import hashlib
import json
import os
from pathlib import Path

from fgp.cli import common
from fgp.errors import FgpError
from fgp.metrics import Metrics, write_metrics
from fgp.train.engine import Engine
from fgp.train.recipe import Recipe

_OWN_TAGS = ("task", "dataset", "method", "selection")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --data, --seed, the outputs, --tag, --device, --threads, the engine and the recipe."""
    parser.add_argument("--data", required=True, metavar="FILE", help="prepared data (`fgp data`)")
    parser.add_argument("--seed", type=_seed, required=True, help="seed of weights, order of the images and augmentation")
    parser.add_argument("--out", required=True, metavar="FILE", help="weights file to write")
    parser.add_argument("--curve", metavar="FILE", help="training curve to write (CSV)")
    parser.add_argument("--metrics", metavar="FILE", help="metrics file to write (JSON)")
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=20.0,
        metavar="S",
        help="least time between two checkpoints, beside --out, from which an interrupted training goes on (default: 20)",
    )
    common.add_tags(parser)
    common.add_device(parser)
    Engine.add_arguments(parser)
    Recipe.add_arguments(parser)


def tags(args: argparse.Namespace, method: str, selection: str) -> dict[str, str]:
    """Return the entries that name a cell, with `method`, `selection` and the data file's name where no --tag gives them.

    Raises:
        FgpError: a tag has the name of an entry that is computed.
    """
    given = common.tags(args)
    for key in given:
        if key in Metrics.model_fields and key not in _OWN_TAGS:
            raise FgpError(f"--tag {key}: this entry of the metrics is computed; choose another name")
    name = Path(args.data).stem
    return {"task": name, "dataset": name, "method": method, "selection": selection, **given}


def label(tags: dict[str, str], seed: int) -> str:
    """Return the words put before every line of progress."""
    return f"{tags['task']} seed {seed} {tags['method']}/{tags['selection']}"


def new_network(args: argparse.Namespace, dataset):
    """Build --network at --width, its weights drawn by --seed.

    Raises:
        FgpError: it is no network for the data set.
    """
    import torch

    from fgp import models
    from fgp.train import result

    torch.manual_seed(args.seed)
    model = models.build(args.network, dataset.outputs, 1.0 if args.width is None else args.width)
    result.check_fits(model, dataset, f"--network {args.network}")
    return model


def checkpoint(args: argparse.Namespace, *weights: str | None):
    """Return the checkpoint of this training, valid for this command line, code, torch and content of the input files.

    Args:
        args: the parsed command line.
        weights: the weights files that the training starts from, None for none.
    """
    import torch

    from fgp import provenance
    from fgp.train.resume import Checkpoint

    inputs = [os.stat(path) for path in (args.data, *weights) if path]
    facts = [provenance.COMMAND.get(), torch.__version__, [(file.st_size, file.st_mtime_ns) for file in inputs]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    project = Path(__file__).parents[2]
    for source in sorted(path for package in ("fgp", "baselines") for path in (project / package).rglob("*.py")):
        digest.update(source.read_bytes())
    return Checkpoint(args.out, digest.hexdigest(), args.checkpoint_seconds)


def write(
    args: argparse.Namespace, model, recipe: Recipe, dataset, history, device, tags: dict[str, str], **entries: object
) -> None:
    """Write the weights, the training curve and the metrics, the last last.

    Args:
        args: the parsed command line.
        model: the trained network.
        recipe: what it was trained with.
        dataset: what it was trained on.
        history: what `fgp.train.fit` returned.
        device: where it was trained.
        tags: what `tags` returned; `code`, a hash of the code, goes into the provenance.
        entries: before, after (percent) and score_seconds of the metrics.
    """
    import fgp
    from fgp.train import result

    named = dict(tags)
    provenance = result.origin(recipe, history, device, named.pop("code", None))
    values = {**named, **result.entries(model, dataset, recipe, history), "seed": args.seed, **entries, "provenance": provenance}
    fgp.save(model, args.out, provenance=provenance)
    if args.curve:
        history.write(args.curve)
    if args.metrics:
        write_metrics(args.metrics, **values)


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{seed} is below 0")
    return seed
