"""Arguments that several subcommands share."""

import argparse
import os

from fgp.errors import FgpError
from fgp.files import SEAL


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device and --threads."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto (default): cuda where there is one")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.environ.get("FGP_THREADS"),
        help="CPU threads of torch (default: $FGP_THREADS, else torch's own choice)",
    )


def set_up_device(args: argparse.Namespace):
    """Apply --threads and return the torch.device that --device names.

    Raises:
        FgpError: the device does not exist.
    """
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    name = args.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise FgpError(f"--device {name}: not available here ({str(error).splitlines()[0]}); use --device cpu") from None


def add_input_size(parser: argparse.ArgumentParser) -> None:
    """Add --data and --input-size, of which one is required."""
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--data", metavar="FILE", help="prepared data, whose image size is used")
    size.add_argument("--input-size", nargs=3, type=int, metavar=("C", "H", "W"), help="image size")


def read_example_input(args: argparse.Namespace):
    """Return an image batch of the size that --data or --input-size names, shape (1, C, H, W), without contents.

    Raises:
        FgpError: the data file cannot be read, or a size is below 1.
    """
    import torch

    from fgp.data import read_header

    shape = args.input_size or read_header(args.data).shape
    if min(shape) < 1:
        raise FgpError(f"--input-size {' '.join(map(str, shape))}: give sizes of at least 1")
    return torch.empty(1, *shape, device="meta")


def add_tags(parser: argparse.ArgumentParser) -> None:
    """Add --tag KEY=VALUE, copied into the metrics as they are."""
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="an entry for the metrics file; repeatable"
    )


def tags(args: argparse.Namespace) -> dict[str, str]:
    """Return the --tag entries as a dictionary.

    Raises:
        FgpError: a tag is not KEY=VALUE, or has the name of the checksum.
    """
    pairs = [tag.partition("=") for tag in args.tag]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise FgpError(f"--tag {wrong[0]}: expected KEY=VALUE")
    if any(key == SEAL for key, *_ in pairs):
        raise FgpError(f"--tag {SEAL}: this entry holds the checksum of the metrics; choose another name")
    return {key: value for key, _, value in pairs}
