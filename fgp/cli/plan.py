"""Choose the channels that stay, from scores

Selections:
cumulative-K, count-K, global-K, macs-BUDGET, peak-K, bottom-K, rand-K, peak-rand-K-of-P and bottom-rand-K-of-P (K of
all channels, out of the best or worst P; with -pool appended, K of the pool). BUDGET is a fraction of the dense MACs if it is
at most 1, else MACs. -x8 behind any of these: every layer keeps a multiple of 8 channels, rounded up, or all of them; macs-*
takes the multiples that come nearest to the budget. Layers that reach a residual sum stay whole unless --tied is given.
"""

import argparse

from fgp import selections
from fgp.cli import common
from fgp.errors import FgpError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--scores", required=True, metavar="FILE", help="scores (`fgp score`)")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the dense network (`fgp train`)")
    common.add_input_size(parser)
    parser.add_argument("--selection", required=True, metavar="NAME", help="e.g. cumulative-0.40 or macs-0.2368-x8")
    add_choice(parser)
    parser.add_argument("--tied", action="store_true", help="prune layers that reach a residual sum too, together")
    parser.add_argument("--out", required=True, metavar="FILE", help="plan to write (JSON)")


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add --rule and --seed, which further say how channels are chosen."""
    parser.add_argument("--rule", choices=selections.RULES, default="cumulative", help="how macs-* chooses (default: cumulative)")
    parser.add_argument("--seed", type=int, default=0, help="of the random selections (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Select channels and write `--out`."""
    selections.parse(args.selection)
    from fgp.checkpoint import load
    from fgp.cli.structure import structure_of

    model = load(args.weights)
    write(args, model, structure_of(model, common.read_example_input(args), args.tied), args.out)


def write(args: argparse.Namespace, model, structure, out: str) -> tuple[dict[str, list[int]], float | None]:
    """Choose the channels that --scores, --selection, --rule and --seed say and write the plan to `out`.

    Returns:
        The plan, and the seconds that scoring took.

    Raises:
        FgpError: the scores are of another network, or the selection is out of reach.
    """
    from fgp import provenance
    from fgp.plans import facts, save_plan
    from fgp.scoring.files import load_scores
    from fgp.select import choose

    selection = selections.parse(args.selection)
    scores, about = load_scores(args.scores)
    spec = model.fgp_spec and model.fgp_spec.to_dict()
    if about.get("spec") != spec:
        raise FgpError(
            f"{args.scores}: scores of the network {about.get('spec')}, but {args.weights} holds {spec}; score that network"
        )
    plan = choose(selection, scores, structure, seed=args.seed, rule=args.rule)
    save_plan(
        out,
        **facts(structure, plan, structure.tied),
        selection=selection.name,
        spec=spec,
        provenance=provenance.collect(inputs=[args.data, args.weights, args.scores], rule=args.rule, seed=args.seed),
    )
    return plan, about.get("seconds")
