"""Evaluate a network on the test images

Prints and writes top-1 or mean IoU in percent, MACs and parameters.
"""

import argparse
import json

from fgp import files, provenance
from fgp.cli import common


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--data", required=True, metavar="FILE", help="prepared data (`fgp data`)")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the network, dense or pruned")
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default: 64)")
    parser.add_argument("--out", metavar="FILE", help="file to write what is printed (JSON)")
    common.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Print, and write with --out, metric, value, macs, params and provenance."""
    device = common.set_up_device(args)
    import fgp
    from fgp import data
    from fgp.evaluate import METRICS, evaluate
    from fgp.train import result

    dataset = data.load(args.data)
    model = fgp.load(args.weights)
    result.check_fits(model, dataset, args.weights)
    cost = result.cost_on(model, dataset)
    values = {
        "metric": METRICS[dataset.task],
        "value": evaluate(model, dataset.test, dataset, device, args.batch_size),
        "macs": cost.macs,
        "params": cost.params,
        "provenance": provenance.collect(str(device)),
    }
    print(json.dumps(values, indent=1))
    if args.out:
        files.write_sealed(args.out, values)
