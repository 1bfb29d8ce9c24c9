"""Measure the latency of several networks in one session

The networks take turns, so that the numbers compare. Run it with nothing else on the machine.
"""

import argparse
from pathlib import Path

from fgp.cli.common import add_device, set_up_device
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fgp measure`."""
    parser.add_argument(
        "--weights",
        nargs="+",
        action="extend",
        required=True,
        metavar="[NAME=]PATH",
        help="weights files; NAME (default: PATH) is the key in the output",
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--data", metavar="FILE", help="prepared data, whose image size is used")
    size.add_argument("--input-size", nargs=3, type=int, metavar=("C", "H", "W"), help="image size")
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[1, 128], metavar="N", help="images a forward (default: 1 128)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="time spent on each network and batch size, at least (default: 2)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and write `--out`."""
    paths = _named(args.weights)
    if min(args.batch_sizes) < 1:
        raise FgpError(f"--batch-sizes {min(args.batch_sizes)}: give whole numbers of at least 1")
    if args.input_size and min(args.input_size) < 1:
        raise FgpError(f"--input-size {' '.join(map(str, args.input_size))}: give whole numbers of at least 1")
    if args.seconds <= 0:
        raise FgpError(f"--seconds {args.seconds}: give a number above 0")
    device = set_up_device(args)
    import torch

    from fgp import checkpoint, data, files, latency, provenance, tensorfiles

    input_size = args.input_size or list(data.read_header(args.data).shape)
    models = {name: checkpoint.load(path) for name, path in paths.items()}
    result = latency.measure(models, input_size, args.batch_sizes, device, args.seconds)
    threads = torch.get_num_threads()
    networks = {name: tensorfiles.metadata(path)["digest"] for name, path in paths.items()}
    made_by = provenance.collect(str(device), networks=networks)
    record = {"latency": result, "input_size": input_size, "threads": threads, "provenance": made_by}
    files.write_sealed(args.out, record)


def _named(words: list[str]) -> dict[str, str]:
    named = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).is_file():
            name = path = word
        if name in named:
            raise FgpError(f"--weights {name}: named twice; give each file a NAME of its own")
        named[name] = path
    return named
