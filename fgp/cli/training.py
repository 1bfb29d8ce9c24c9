"""Arguments and outputs that the subcommands train and finetune share."""

import argparse
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fgp import codehash
from fgp.cli import common
from fgp.errors import FgpError
from fgp.metrics import Metrics, write_metrics
from fgp.models.names import NETWORKS
from fgp.train.engine import Engine
from fgp.train.recipe import Recipe

_OWN_TAGS = ("task", "dataset", "method", "selection")
_FILES = ("data", "weights", "architecture", "out", "curve", "metrics", "plan")
_NO_PART = {"run", "tag", "checkpoint_seconds", "device", "threads", *_FILES, *Engine.model_fields}
"""Arguments without a part in the training, and those that stand for something else: the content of a file, a device."""


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


@contextlib.contextmanager
def checkpoint(args: argparse.Namespace, device, model, *weights: str | None) -> Iterator:
    """Claim --out in this context and yield the `fgp.train.resume.Checkpoint` of this training; of several processes the leader.

    What a checkpoint is valid for: the arguments that have a part in the training, the tensors of its input files and how images
    are normalised, the code that it runs, the versions of the packages and the engine; on the CPU, where a resumed training is
    bit-identical, the model of the processor and the threads too. Not paths, tags and times: an input that was made again the
    same is the same.

    Args:
        args: the parsed command line.
        device: torch.device of the training.
        model: the network that is trained.
        weights: the weights files that the training starts from, None for none.

    Raises:
        FgpError: the engine does not fit the device.
    """
    import torch

    from fgp import data, provenance, tensorfiles
    from fgp.train import distributed
    from fgp.train.resume import Checkpoint, Claim

    group, about, header = distributed.group(), provenance.collect(), data.read_header(args.data)
    method = getattr(args, "method", None)
    modules = [f"fgp.cli.{args.subcommand}", f"fgp.models.{NETWORKS[model.fgp_spec.name].module}"]
    modules += [f"baselines.{method.replace('-', '_')}"] if method else []
    facts = {
        "arguments": {name: value for name, value in vars(args).items() if name not in _NO_PART},
        "engine": [device.type, group.size, Engine.from_args(args).resolved(device, plain=True).model_dump()],
        "inputs": [tensorfiles.metadata(path)["digest"] for path in (args.data, *weights) if path],
        "normalisation": [header.mean, header.std],
        "versions": about["versions"],
        "cpu": [about["hardware"]["cpu"], torch.get_num_threads()] if device.type == "cpu" else None,
        "code": codehash.of(*modules),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    with Claim(args.out) if group.leader else contextlib.nullcontext() as claim:
        yield Checkpoint(args.out, key, args.checkpoint_seconds, claim)


def train(
    args: argparse.Namespace,
    model,
    dataset,
    recipe: Recipe,
    device,
    tags: dict[str, str],
    inputs: Sequence[str | None],
    *,
    hook=None,
    before: float | None = None,
    score_seconds: float | None = None,
) -> None:
    """Train, look at the test images once, write weights, curve and metrics; of several processes the leader writes.

    Args:
        args: the parsed command line.
        model: the network at the start.
        dataset: what it is trained and evaluated on.
        recipe: how.
        device: where, a torch.device.
        tags: what `tags` returned.
        inputs: the files that the network was made from, its weights file (None: random weights) first.
        hook: what a method adds to the training.
        before, score_seconds: entries of the metrics.
    """
    from fgp.evaluate import evaluate
    from fgp.train import distributed
    from fgp.train.loop import fit

    group, run = distributed.group(), {"engine": Engine.from_args(args), "label": label(tags, args.seed)}
    with checkpoint(args, device, model, inputs[0]) as saved:
        history = fit(model, dataset.train, dataset, recipe, args.seed, device, hook=hook, checkpoint=saved, **run)
        after = evaluate(model, dataset.test, dataset, device, recipe.batch_size)
        if group.leader:
            entries = {"before": before, "after": after, "score_seconds": score_seconds}
            with saved.results():
                write(args, model, recipe, dataset, history, device, tags, inputs, **entries)
    group.leave()


def write(
    args: argparse.Namespace,
    model,
    recipe: Recipe,
    dataset,
    history,
    device,
    tags: dict[str, str],
    inputs: Sequence[str | None],
    extra: Mapping[str, object] | None = None,
    **entries: object,
) -> None:
    """Write the weights, the training curve and the metrics, the last last.

    Args:
        args: the parsed command line.
        model: the trained network.
        recipe: what it was trained with.
        dataset: what it was trained on.
        history: what `fgp.train.fit` returned.
        device: where it was trained.
        tags: what `tags` returned.
        inputs: the files besides the data that the training started from, None for none.
        extra: further entries for the metadata of the weights.
        entries: before, after (percent) and score_seconds of the metrics.
    """
    import fgp
    from fgp import tensorfiles
    from fgp.train import result

    provenance = result.origin(recipe, history, device, [args.data, *inputs])
    values = {**tags, **result.entries(model, dataset, recipe, history), "seed": args.seed, **entries}
    fgp.save(model, args.out, provenance=provenance, **(extra or {}))
    if args.curve:
        history.write(args.curve)
    if args.metrics:
        digest = tensorfiles.metadata(args.out)["digest"]
        write_metrics(args.metrics, **values, provenance=provenance | {"digest": digest})


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{seed} is below 0")
    return seed
