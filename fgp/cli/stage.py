"""Train a network as a method of kind sparse-training or gradual does

A method that starts from random weights takes --network, one that goes on from the dense network --weights. The weights written
are those of the last epoch. A sparse-training method leaves a network to be scored; one that scores while it trains leaves its
scores in the same file, where `fgp score` finds them. A gradual one leaves the pruned network, and the plan that says what stayed
(--plan) beside it.
"""

import argparse
from types import ModuleType

from fgp import options, selections
from fgp.cli import common, training
from fgp.errors import FgpError
from fgp.methods import OWN_TRAINING
from fgp.models.names import NAMES
from fgp.train.engine import Engine
from fgp.train.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this subcommand."""
    parser.add_argument("--method", required=True, metavar="NAME", help="a file of baselines/, written with hyphens")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the method; repeatable")
    start = parser.add_mutually_exclusive_group(required=True)
    start.add_argument("--network", choices=NAMES, help="a dense network, from random weights")
    start.add_argument("--weights", metavar="FILE", help="the dense network (`fgp train`)")
    parser.add_argument("--width", type=float, help="with --network: factor on every channel count (default: 1)")
    parser.add_argument("--selection", metavar="macs-BUDGET", help="gradual: the MACs to reach")
    parser.add_argument("--tied", action="store_true", help="gradual: prune layers that reach a residual sum too, together")
    parser.add_argument("--plan", metavar="FILE", help="gradual: plan to write (JSON)")
    training.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train, write weights, curve, and the plan or the metrics."""
    recipe = Recipe.from_args(args)
    method = _method(args)
    given = options.check(args.method, method, options.parse(args.option, "--option"), "--option ")
    device = common.set_up_device(args)
    import fgp
    from fgp import data
    from fgp.evaluate import evaluate
    from fgp.train import result
    from fgp.train.loop import fit

    dataset = data.load(args.data)
    recipe.check_task(dataset.task)
    hook = _hook(args, method, given, dataset.task)
    if args.network:
        model = training.new_network(args, dataset)
    else:
        model = fgp.load(args.weights)
        result.check_fits(model, dataset, args.weights)
    tags = training.tags(args, args.method, args.selection or "sparse")
    run = {"hook": hook, "engine": Engine.from_args(args), "label": training.label(tags, args.seed)}
    entries, inputs = {"before": None, "score_seconds": None}, [args.weights]
    with training.checkpoint(args, device, model, args.weights) as checkpoint:
        history = fit(model, dataset.train, dataset, recipe, args.seed, device, checkpoint=checkpoint, **run)
        after = evaluate(model, dataset.test, dataset, device, recipe.batch_size) if args.metrics else None
        with checkpoint.results():
            written, extra = model, {}
            if args.plan:
                written = _pruned(args, hook, model, history.seconds)
            elif hasattr(hook, "scores"):
                extra = {"scores": _scores(args.method, hook), "scored_by": args.method, "score_seconds": history.seconds}
            training.write(args, written, recipe, dataset, history, device, tags, inputs, extra, after=after, **entries)


def _method(args: argparse.Namespace) -> ModuleType:
    """Return the module of --method, after a check that the flags fit its kind."""
    import baselines

    method = baselines.get(args.method)
    facts = method.METHOD
    if facts.kind not in OWN_TRAINING:
        raise FgpError(
            f"--method {args.method}: kind {facts.kind} has no training of its own; use one of {', '.join(OWN_TRAINING)}"
        )
    if (facts.start == "dense") != bool(args.weights):
        needed = "--weights, it goes on from the dense network" if facts.start == "dense" else "--network, it trains from scratch"
        raise FgpError(f"--method {args.method}: give {needed}")
    gradual = facts.kind == "gradual"
    for flag, needed, taken in (
        ("selection", gradual, gradual),
        ("plan", gradual, gradual),
        ("tied", False, gradual),
        ("metrics", False, not gradual),
        ("width", False, bool(args.network)),
    ):
        value = getattr(args, flag)
        if value and not taken:
            raise FgpError(f"--{flag}: takes no part in this training ({args.method}, kind {facts.kind}); leave it out")
        if needed and not value:
            raise FgpError(f"--method {args.method}: give --{flag}")
    return method


def _hook(args: argparse.Namespace, method: ModuleType, given: dict[str, object], task: str):
    if task not in method.METHOD.tasks:
        raise FgpError(f"--method {args.method}: meant for {', '.join(sorted(method.METHOD.tasks))}, the data are for {task}")
    if method.METHOD.kind == "sparse-training":
        return method.training(**given)
    selection = selections.parse(args.selection)
    if selection.kind != "macs" or selection.multiple > 1:
        raise FgpError(f"--selection {args.selection}: a gradual method stops at a number of MACs; give macs-BUDGET")
    return method.pruning(selection.value, args.tied, **given)


def _pruned(args: argparse.Namespace, hook, model, seconds: float):
    """Write the plan and return the network without the channels that were masked, on the CPU."""
    from fgp import provenance
    from fgp.plans import facts, save_plan

    structure, plan = hook.structure, hook.structure.applied(hook.plan)
    save_plan(
        args.plan,
        **facts(structure, plan, args.tied),
        selection=args.selection,
        spec=model.fgp_spec.to_dict(),
        provenance=provenance.collect(inputs=[args.data, args.weights], seed=args.seed, seconds=seconds),
    )
    return structure.prune(plan).cpu()


def _scores(method: str, hook) -> dict[str, list[float]]:
    scores = {name: values.float() for name, values in hook.scores().items()}
    for name, values in scores.items():
        if not values.isfinite().all():
            raise FgpError(f"--method {method}: scores of {name} hold NaN or infinity; lower the learning rate of the recipe")
    return {name: values.tolist() for name, values in scores.items()}
