"""What is written about a trained network: cost, channels, provenance."""

from collections.abc import Iterable
from functools import cache

import torch
from torch import nn

from fgp import cost, models, provenance
from fgp.errors import FgpError
from fgp.evaluate import METRICS
from fgp.models.names import NETWORKS
from fgp.train.loop import History
from fgp.train.recipe import Recipe


def channels(model: nn.Module) -> dict[str, int]:
    """Return the output channels of every convolution by name."""
    return {name: module.out_channels for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}


def dense_twin(model: nn.Module) -> nn.Module:
    """Return the unpruned network of the model's spec, on the meta device."""
    return _unpruned(model.fgp_spec.name, model.fgp_spec)


def _unpruned(name: str, like: models.Spec) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, like.num_classes, like.width)


@cache
def _dense_cost(name: str, like: models.Spec, size: tuple[int, int, int]) -> cost.Cost:
    return cost.count(_unpruned(name, like), cost.example(size))


def cost_on(model: nn.Module, dataset) -> cost.Cost:
    """Count the cost of one image of the data set."""
    return cost.count(model, cost.example(tuple(dataset.train.images.shape[1:])))


def check_fits(model: nn.Module, dataset, file: str) -> None:
    """Check that the network of the weights file `file` is one for this data set.

    Raises:
        FgpError: the network has no spec, another task or another number of outputs.
    """
    spec = model.fgp_spec
    if spec is None:
        raise FgpError(f"{file}: holds a network that fgp.models.build does not know; use fgp.train.fit from Python")
    if spec.task != dataset.task:
        raise FgpError(f"{file}: {spec.name} is a network for {spec.task}, the data set is one for {dataset.task}")
    if spec.num_classes != dataset.outputs:
        raise FgpError(f"{file}: {spec.num_classes} outputs, the data set needs {dataset.outputs}; train a network on these data")


def origin(recipe: Recipe, history: History, device: torch.device, inputs: Iterable[str | None]) -> dict:
    """Return the provenance of a trained network, made from the files `inputs`."""
    facts = {"recipe": recipe.model_dump(mode="json"), "engine": history.engine}
    return provenance.collect(str(device), inputs, **facts, threads=torch.get_num_threads())


def entries(model: nn.Module, dataset, recipe: Recipe, history: History) -> dict:
    """Return the entries of metrics.json that follow from a trained network: what it is, costs and took.

    The dense cost of an architecture that replaces a network is that network's.
    """
    spec, dense = model.fgp_spec, dense_twin(model)
    replaced = NETWORKS[spec.name].replaces
    own, whole = cost_on(model, dataset), _dense_cost(replaced or spec.name, spec, tuple(dataset.train.images.shape[1:]))
    return {
        "network": spec.name,
        "width": float(spec.width),
        "metric": METRICS[dataset.task],
        "macs": own.macs,
        "params": own.params,
        "dense_macs": whole.macs,
        "dense_params": whole.params,
        "kept": channels(model),
        "channels": channels(dense),
        "train_seconds": history.seconds,
        "epochs": recipe.epochs,
    }
