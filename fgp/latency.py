"""Latency of networks, measured side by side."""

import copy
from collections.abc import Mapping, Sequence

import numpy
import torch
from torch import nn
from torch.utils.benchmark import Timer

from fgp.errors import FgpError

MOST_ROUNDS, LEAST_ROUNDS = 5, 2
ROUND_SECONDS = 0.05


def measure(
    models: Mapping[str, nn.Module],
    input_size: Sequence[int],
    batch_sizes: Sequence[int] = (1, 128),
    device: torch.device | str = "cpu",
    min_run_time: float = 2.0,
) -> dict[str, dict[str, dict[str, float]]]:
    """Time forward passes in eval mode, float32, on random images.

    The networks take turns, in 2 to 5 rounds of at least 50 ms each where there is time, so that a machine that gets slower or
    faster hits all of them alike. Each network runs twice before the first round; torch.utils.benchmark synchronises the device,
    warms up every turn and repeats short forwards within one timing. The process's current number of threads is used.

    Args:
        models: networks by name; left as they are (copies are timed).
        input_size: `(3, H, W)`.
        batch_sizes: images a forward.
        device: where to measure.
        min_run_time: seconds to time each network at each batch size, at least; all rounds together.

    Raises:
        FgpError: a network cannot run on such a batch (wrong size, not enough memory).

    Returns:
        `{name: {str(batch size): {"median_ms", "q1_ms", "q3_ms", "images_per_second"}}}`, milliseconds for the whole batch.
    """
    networks = {name: copy.deepcopy(model).to(device).eval() for name, model in models.items()}
    generator = torch.Generator().manual_seed(0)
    result = {name: {} for name in models}
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, *input_size, generator=generator).to(device)
        for name, seconds in _interleaved(networks, images, min_run_time).items():
            q1, median, q3 = (float(value) for value in numpy.percentile(seconds, (25, 50, 75)))
            result[name][str(batch_size)] = {
                "median_ms": 1e3 * median,
                "q1_ms": 1e3 * q1,
                "q3_ms": 1e3 * q3,
                "images_per_second": batch_size / median,
            }
    return result


@torch.inference_mode()
def _interleaved(networks: Mapping[str, nn.Module], images: torch.Tensor, min_run_time: float) -> dict[str, list[float]]:
    """Return the seconds a forward of every timing, by network."""
    timers = {}
    for name, network in networks.items():
        _warm_up(name, network, images)
        variables = {"network": network, "images": images}
        timers[name] = Timer("network(images)", globals=variables, num_threads=torch.get_num_threads())
    seconds = {name: [] for name in networks}
    rounds = rounds_in(min_run_time)
    for _ in range(rounds):
        for name, timer in timers.items():
            seconds[name] += timer.blocked_autorange(min_run_time=min_run_time / rounds).times
    return seconds


def rounds_in(min_run_time: float) -> int:
    """Return how many turns a network takes to be timed for so many seconds."""
    return min(MOST_ROUNDS, max(LEAST_ROUNDS, round(min_run_time / ROUND_SECONDS)))


def _warm_up(name: str, network: nn.Module, images: torch.Tensor) -> None:
    try:
        for _ in range(2):
            network(images)
    except (RuntimeError, ValueError) as error:
        shape = "x".join(str(size) for size in images.shape)
        reason = str(error).splitlines()[0]
        raise FgpError(f"{name} fails on a batch of {shape} ({reason}); choose another image size or a smaller batch") from error
