"""The training loop."""

import csv
import os
import sys
import time
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from fgp.data import batches
from fgp.errors import FgpError
from fgp.files import atomic
from fgp.train import distributed
from fgp.train import loss as losses
from fgp.train.augment import Augmentation
from fgp.train.engine import Engine
from fgp.train.feed import Feed
from fgp.train.hooks import Hook, Run
from fgp.train.optimiser import SGD
from fgp.train.recipe import Recipe
from fgp.train.resume import Checkpoint
from fgp.train.step import Replayed, Step, Tally

_TRAIN_METRIC = {"classification": "top-1", "segmentation": "pixel accuracy"}


@dataclass
class History:
    """What happened in training; one entry an epoch in every list.

    Attributes:
        metric: name of the running metric, "top-1" or "pixel accuracy".
        rates: learning rate at the first step.
        losses: mean over the images of what is minimised, regulariser included.
        scores: running metric on the augmented training images, in percent.
        durations: seconds.
        engine: fields of the `Engine` that was used.
    """

    metric: str
    engine: dict[str, object]
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Duration of the whole training."""
        return sum(self.durations)

    def write(self, path: str | os.PathLike) -> None:
        """Write the training curve as CSV, one row an epoch, epochs counted from 1."""
        rows = zip(self.rates, self.losses, self.scores, self.durations, strict=True)
        with atomic(path) as aside, open(aside, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("epoch", "lr", "train_loss", "train_percent", "seconds"))
            for epoch, (rate, loss, score, seconds) in enumerate(rows, start=1):
                writer.writerow((epoch, rate, f"{loss:.6g}", f"{score:.4f}", f"{seconds:.3f}"))


def fit(
    model: nn.Module,
    split,
    dataset,
    recipe: Recipe,
    seed: int,
    device: torch.device | str,
    *,
    hook: Hook | None = None,
    engine: Engine | None = None,
    checkpoint: Checkpoint | None = None,
    curve: str | os.PathLike | None = None,
    label: str = "",
) -> History:
    """Train `model` in place with SGD and leave it in eval mode, with the weights of the last epoch.

    The order of the images and their augmentation depend on the seed, the number of images and the recipe, not on the network.
    All images of an epoch are used; a last batch of a single image joins the batch before it (batch normalisation needs two).
    On the CPU two runs with the same seed and threads give the same weights, bit for bit.
    Memory order is channels_last, which is faster on the CPU and with bf16 on GPUs (benchmarks/README.md).

    Several processes that have met by `fgp.train.distributed.join` share the batches; all of them call this with the same
    arguments and get the same weights. The first one writes and reports.

    Args:
        model: in training mode it returns logits or (logits, auxiliary logits).
        split: `fgp.data.Split`, the training images.
        dataset: `fgp.data.Dataset` the split belongs to.
        recipe: how to train.
        seed: of the order, the augmentation and the network's own randomness (dropout).
        device: where to train.
        hook: what a method adds to the loop.
        engine: how the arithmetic is done; default: `Engine()`.
        checkpoint: where the state is saved after an epoch, and taken up if a run with the same key was interrupted. The result
            is that of a run without interruption.
        curve: CSV file for the training curve, written at the end.
        label: put before every line of progress on stderr.

    Raises:
        FgpError: the recipe does not fit the task, the engine not the device, or the loss of an epoch or a weight at the end is
            not finite; the training cannot be shared by several processes, or one of them failed.
    """
    recipe.check_task(dataset.task)
    group = distributed.group()
    device = torch.device(device)
    engine = (engine or Engine()).resolved(device, plain=group.size == 1 and (hook is None or hook.replayable))
    augmentation = Augmentation(
        recipe,
        tuple(split.images.shape[-2:]),
        dataset.void,
        torch.as_tensor(dataset.mean, dtype=torch.float32, device=device),
        torch.as_tensor(dataset.std, dtype=torch.float32, device=device),
    )
    feed, parts = Feed(split, device), batches_of(len(split), recipe.batch_size)
    group.check(parts, hook, engine)
    hook, checkpoint = hook or Hook(), checkpoint if group.leader else None
    model.to(device, memory_format=torch.channels_last).train()
    plain = batches(split, dataset, recipe.batch_size, device)
    steps = len(parts) * recipe.epochs
    hook.begin(Run(model, plain, steps, len(parts), dataset.outputs, dataset.task, seed, device))
    criterion = hook.criterion(losses.build(recipe, split.labels, dataset.outputs, dataset.task, dataset.void, device))
    rate = torch.tensor(recipe.lr, device=device) if engine.launch == "graph" else recipe.lr
    optimiser = SGD([*model.parameters(), *hook.parameters()], recipe, rate)
    tally = Tally(device, dataset.void, group)
    order, choices = torch.Generator().manual_seed(2 * seed), torch.Generator().manual_seed(2 * seed + 1)
    history = History(_TRAIN_METRIC[dataset.task], engine.model_dump() | ({"processes": group.size} if group.size > 1 else {}))
    shares = [group.share(part) for part in parts]
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32),
        tqdm(total=steps, desc=label, disable=not (group.leader and sys.stderr.isatty()), unit="step") as bar,
        group.parallel(model, device) as network,
    ):
        forward = torch.compile(network) if engine.compile else network
        step = Step(model, forward, augmentation, criterion, hook, optimiser, tally, engine.precision == "bf16")
        take = Replayed(step, device) if engine.launch == "graph" else step
        torch.manual_seed(seed)
        state = _State(model, optimiser, hook, {"order": order, "choices": choices}, history)
        if saved := group.from_leader(checkpoint.load() if checkpoint else None):
            state.restore(saved)
            if group.leader:
                print(f"{label} goes on after epoch {len(history.losses)}".lstrip(), file=sys.stderr)
        for epoch in range(len(history.losses), recipe.epochs):
            if hook.finished:
                break
            started = time.perf_counter()
            tally.clear()
            seen = 0
            permutation = torch.randperm(len(split), generator=order)
            draws = augmentation.draw(len(split), choices, device)
            history.rates.append(recipe.rate(epoch * len(parts), len(parts)))
            fed = zip(parts, shares, feed.batches(permutation, shares), strict=True)
            for number, (part, share, (images, labels)) in enumerate(fed, start=epoch * len(parts)):
                group.part = part
                take(images, labels, draws[share], recipe.rate(number, len(parts)))
                seen += part.stop - part.start
                bar.update()
                if hook.finished:
                    break
            loss, score = tally.read(seen)
            history.losses.append(loss)
            history.scores.append(score)
            history.durations.append(time.perf_counter() - started)
            _check_finite(torch.tensor(loss), "loss", history, recipe, label)
            if group.leader:
                _report(history, recipe, label, bar)
            hook.after_epoch(epoch + 1)
            if checkpoint and checkpoint.due():
                checkpoint.save(state.capture())
        hook.end()
    for name, values in model.state_dict().items():
        _check_finite(values, name, history, recipe, label)
    model.to(memory_format=torch.contiguous_format).eval()
    if curve is not None:
        history.write(curve)
    return history


class _State:
    """Everything that changes while training."""

    def __init__(
        self,
        model: nn.Module,
        optimiser: SGD,
        hook: Hook,
        generators: dict[str, torch.Generator],
        history: History,
    ) -> None:
        self._model, self._optimiser, self._hook = model, optimiser, hook
        self._generators, self._history = generators, history

    def capture(self) -> dict:
        state = {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "hook": self._hook.state_dict(),
            "history": asdict(self._history),
            "random": torch.get_rng_state(),
            "generators": {name: generator.get_state() for name, generator in self._generators.items()},
        }
        if torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def restore(self, state: dict) -> None:
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._hook.load_state_dict(state["hook"])
        vars(self._history).update(state["history"])
        torch.set_rng_state(state["random"])
        for name, generator in self._generators.items():
            generator.set_state(state["generators"][name])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])


def batches_of(images: int, batch_size: int) -> list[slice]:
    """Cut 0 .. images into consecutive batches; a single image left over joins the batch before it."""
    starts = list(range(0, images, batch_size))
    if images % batch_size == 1 and len(starts) > 1 and batch_size > 1:
        starts.pop()
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], images], strict=True)]


def _check_finite(values: Tensor, name: str, history: History, recipe: Recipe, label: str) -> None:
    if not values.isfinite().all():
        raise FgpError(
            f"{label + ': ' if label else ''}training diverged: {name} is not finite in epoch {len(history.losses)} "
            f"at learning rate {history.rates[-1]:g}; lower lr ({recipe.lr:g}) or set warmup_epochs"
        )


def _report(history: History, recipe: Recipe, label: str, bar: tqdm) -> None:
    """Show the epoch just finished."""
    epoch, loss, rate = len(history.losses), history.losses[-1], history.rates[-1]
    text = f"epoch {epoch}/{recipe.epochs} loss {loss:.3f} train {history.metric} {history.scores[-1]:.1f} % lr {rate:g}"
    if bar.disable:
        print(f"{label} {text} {history.durations[-1]:.1f} s".lstrip(), file=sys.stderr, flush=True)
    else:
        bar.set_postfix_str(text)
