"""Latency of pruned networks against the dense one, next to the share of MACs that is left, for rounded channel counts too.

See benchmarks/README.md for what is compared and how to read the result.
"""

import argparse
import contextlib
import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.harness import SEED
from fgp import cost, latency
from fgp.cli import common
from fgp.models import build
from fgp.select import choose, parse
from fgp.selections import check_share
from fgp.surgery import Plan, Structure

BUDGETS = {"vgg16": 0.2655, "resnet50": 0.5793}
"""{network: share of the dense MACs of FGP+ in the paper's Table 1}."""
MULTIPLES = (1, 4, 8, 16)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
INPUT = (3, 32, 32)
CLASSES = 10
PRINTED = (
    *("network", "selection", "memory_format", "batch_size", "latency_ms"),
    *("latency_ratio", "macs_ratio", "params_ratio", "multiples_of_8"),
)


class Served(nn.Module):
    """A copy of a network that computes in one memory format and, under autocast, in one precision (None: as it is)."""

    def __init__(self, network: nn.Module, memory_format: torch.memory_format, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=memory_format)
        self.memory_format, self.dtype = memory_format, dtype

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) of images (N, C, H, W)."""
        autocast = torch.autocast(images.device.type, self.dtype) if self.dtype else contextlib.nullcontext()
        with autocast:
            return self.network(images.to(memory_format=self.memory_format))


def plans(structure: Structure, budgets: list[float]) -> dict[str, Plan]:
    """Return the plans to compare by the name of their selection, the dense network's (empty) first.

    Which channels stay does not change the speed, so that the scores are random. How many stay in a layer follows from FGP's rule
    on such scores: about the same share in every layer.

    Raises:
        FgpError: a budget is out of reach.
    """
    generator = torch.Generator().manual_seed(SEED)
    scores = {member: torch.rand(group.channels, generator=generator) for group in structure.prunable for member in group.members}
    names = [f"macs-{budget:.4f}" + (f"-x{multiple}" if multiple > 1 else "") for budget in budgets for multiple in MULTIPLES]
    return {"dense": {}} | {name: choose(parse(name), scores, structure) for name in names}


def facts(structure: Structure, plan: Plan) -> dict[str, object]:
    """Return the columns that are counted, not timed; `multiples_of_8` is the share of convolutions with such an output."""
    macs, params, kept = structure.macs(plan), structure.params(plan), structure.kept(plan).values()
    return {
        "macs": macs,
        "macs_ratio": f"{macs / structure.macs():.4f}",
        "params": params,
        "params_ratio": f"{params / structure.params():.4f}",
        "multiples_of_8": f"{sum(channels % 8 == 0 for channels in kept) / len(kept):.2f}",
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    flag = parser.add_argument
    flag("--networks", nargs="+", choices=BUDGETS, default=[*BUDGETS], metavar="NAME", help=f"of {', '.join(BUDGETS)}")
    flag("--width", type=float, default=1.0, help="factor on every channel count (default: 1)")
    flag("--batch-sizes", nargs="+", type=harness.count, metavar="N", help="default: 1 128, on the CPU 1 32")
    flag("--budgets", nargs="+", type=float, metavar="SHARE", help="of the dense MACs (default: the paper's of each network)")
    flag("--precision", choices=PRECISIONS, default="fp32", help="bf16: under torch.autocast (default: fp32)")
    flag("--seconds", type=float, default=2.0, help="to time each network at each batch size, at least (default: 2)")
    flag("--out", metavar="FILE", help="CSV to write (default: below benchmarks/results/, named after the hardware)")
    common.add_device(parser)
    parser.set_defaults(threads=2)


def run(args: argparse.Namespace) -> None:
    """Measure, write the CSV after every network, and print it as a Markdown table.

    Raises:
        FgpError: an argument is wrong, a budget is out of reach, or a network fails on a batch.
    """
    for budget in args.budgets or ():
        check_share(budget, "--budgets")
    device = common.set_up_device(args)
    out = Path(args.out) if args.out else harness.results_file(f"pruned-{args.precision}", device)
    batch_sizes = args.batch_sizes or (1, 128 if device.type == "cuda" else 32)
    rows = []
    for network in args.networks:
        budgets = args.budgets or [BUDGETS[network]]
        rows += measure(network, args.width, budgets, batch_sizes, args.precision, args.seconds, device)
        harness.write(out, rows)
    print(harness.table(rows, PRINTED))
    harness.report(f"-> {out}")


def measure(
    network: str,
    width: float,
    budgets: list[float],
    batch_sizes: list[int],
    precision: str,
    seconds: float,
    device: torch.device,
) -> list[dict[str, object]]:
    """Return the CSV rows of one network; all its alternatives take turns."""
    torch.manual_seed(SEED)
    dense = build(network, CLASSES, width)
    structure = Structure(dense, cost.example(INPUT))
    found = plans(structure, budgets)
    served = {}
    for selection, plan in found.items():
        pruned = structure.prune(plan)
        for name, memory_format in FORMATS.items():
            served[f"{selection} {name}"] = Served(pruned, memory_format, PRECISIONS[precision])
    harness.report(f"{network}: {len(served)} networks at batch sizes {', '.join(map(str, batch_sizes))}")
    timed = latency.measure(served, INPUT, batch_sizes, device, seconds)
    origin = harness.origin(device)
    rows = []
    for batch_size in map(str, batch_sizes):
        for name in FORMATS:
            against = timed[f"dense {name}"][batch_size]["median_ms"]
            for selection, plan in found.items():
                times = timed[f"{selection} {name}"][batch_size]
                rows.append(
                    {"network": network, "width": width, "selection": selection, "memory_format": name}
                    | {"precision": precision, "batch_size": batch_size, "seconds": seconds}
                    | {"latency_ms": f"{times['median_ms']:.4g}", "q1_ms": f"{times['q1_ms']:.4g}"}
                    | {"q3_ms": f"{times['q3_ms']:.4g}", "latency_ratio": f"{times['median_ms'] / against:.4f}"}
                    | facts(structure, plan)
                    | origin
                )
    return rows
