"""Prepare a data set: read a source, write one safetensors file

Sources: digits and scenes (nothing to download), cifar10, cifar100, camvid, cityscapes, and folder:NAME for an image folder
or zip of your own under the data root. docs/data.md tells where each one's files belong.
"""

import argparse
import os


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `fgp data`."""
    parser.add_argument("--source", required=True, help="digits, scenes, cifar10, cifar100, camvid, cityscapes or folder:NAME")
    parser.add_argument("--root", default=os.environ.get("FGP_DATA"), help="folder with the source's files (default: $FGP_DATA)")
    parser.add_argument("--out", required=True, help="file to write (.safetensors)")
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="resize to H W, or to a square of N")
    parser.add_argument("--classes", type=int, help="keep the first N classes (classification, and the digits of scenes)")
    parser.add_argument("--train-limit", type=int, help="keep at most N training images")
    parser.add_argument("--test-limit", type=int, help="keep at most N test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the limits and of generated images (default: 0)")
    parser.add_argument("--download", action="store_true", help="fetch missing files into the root (cifar10, cifar100, camvid)")


def run(args: argparse.Namespace) -> None:
    """Run `fgp data`."""
    from fgp.data import prepare, read_header

    prepare(
        args.source,
        args.out,
        args.root,
        size=args.size,
        classes=args.classes,
        train_limit=args.train_limit,
        test_limit=args.test_limit,
        seed=args.seed,
        download=args.download,
    )
    header = read_header(args.out)
    counts = ", ".join(f"{count} {split}" for split, count in header.counts.items())
    print(f"{args.out}: {header.source}, {counts}, {'x'.join(map(str, header.shape))}, {len(header.classes)} classes")
