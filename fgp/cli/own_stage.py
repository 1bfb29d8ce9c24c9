"""The part of a training that belongs to a method: its hook, and what that leaves behind."""

import argparse
from types import ModuleType

from fgp import options, selections
from fgp.errors import FgpError

_KINDS = ("sparse-training", "gradual")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --method, --option and the outputs of a method's own stage."""
    group = parser.add_argument_group("a method's own training")
    group.add_argument("--method", metavar="NAME", help="method of kind sparse-training or gradual that takes part")
    group.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the method; repeatable")
    group.add_argument("--selection", metavar="macs-BUDGET", help="gradual: the MACs to reach")
    group.add_argument("--tied", action="store_true", help="gradual: prune layers that reach a residual sum too, together")
    group.add_argument("--plan", metavar="FILE", help="gradual: plan to write (JSON)")
    group.add_argument("--scores", metavar="FILE", help="scores to write, of a method that scores while it trains (safetensors)")


def read_method(args: argparse.Namespace) -> ModuleType | None:
    """Return the module of --method, after a check that the flags fit its kind; None without --method.

    Raises:
        FgpError: no such method, one without own training, or a flag that it needs or does not take.
    """
    given = [flag for flag in ("option", "selection", "plan", "scores", "tied") if getattr(args, flag)]
    if not args.method:
        if given:
            raise FgpError(f"--{given[0]}: give --method too")
        return None
    import baselines

    method = baselines.get(args.method)
    facts = method.METHOD
    if facts.kind not in _KINDS:
        raise FgpError(f"--method {args.method}: kind {facts.kind} has no training of its own; use one of {', '.join(_KINDS)}")
    if (facts.start == "dense") != bool(args.weights):
        flag = (
            "--weights, the dense network that it goes on from" if facts.start == "dense" else "--network, it trains from scratch"
        )
        raise FgpError(f"--method {args.method}: give {flag}")
    gradual = facts.kind == "gradual"
    for flag, needed, taken in (
        ("selection", gradual, gradual),
        ("plan", gradual, gradual),
        ("tied", False, gradual),
        ("scores", not gradual and not hasattr(method, "score"), not gradual and not hasattr(method, "score")),
    ):
        if getattr(args, flag) and not taken:
            raise FgpError(f"--{flag}: {args.method} (kind {facts.kind}) takes none; leave it out")
        if needed and not getattr(args, flag):
            raise FgpError(f"--method {args.method}: give --{flag}")
    return method


def make_hook(args: argparse.Namespace, method: ModuleType, task: str):
    """Return the hook of `method` for data of `task`.

    Raises:
        FgpError: the method is not meant for the task, or an option or the selection is illegal.
    """
    if task not in method.METHOD.tasks:
        raise FgpError(f"--method {args.method}: meant for {', '.join(sorted(method.METHOD.tasks))}, the data are for {task}")
    given = options.parse(args.option, "--option")
    if method.METHOD.kind == "gradual":
        selection = selections.parse(args.selection)
        if selection.kind != "macs":
            raise FgpError(f"--selection {args.selection}: a gradual method stops at a number of MACs; give macs-BUDGET")
        return call(args.method, method.pruning, given, selection.value, args.tied)
    return call(args.method, method.training, given)


def call(name: str, function, given: dict[str, str], *arguments: object):
    """Call a method's function with options from the command line; one that it does not know becomes a FgpError."""
    try:
        return function(*arguments, **given)
    except TypeError as error:
        raise FgpError(f"--option: {name}: {error}") from None


def write(args: argparse.Namespace, hook, model, seconds: float) -> None:
    """Write what the method's stage found: its plan or its scores.

    Args:
        args: the parsed command line.
        hook: the method's, after the training.
        model: the network that it trained.
        seconds: how long.
    """
    from fgp import provenance
    from fgp.plans import save_plan
    from fgp.scoring.files import save_scores

    spec = model.fgp_spec.to_dict()
    origin = provenance.collect(seed=args.seed, seconds=seconds)
    if args.plan:
        structure, plan = hook.structure, hook.structure.applied(hook.plan)
        save_plan(
            args.plan,
            plan=plan,
            selection=args.selection,
            spec=spec,
            macs=structure.macs(plan),
            dense_macs=structure.macs(),
            params=structure.params(plan),
            dense_params=structure.params(),
            kept=structure.kept(plan),
            channels=structure.kept(),
            tied=args.tied,
            provenance=origin,
        )
    elif args.scores:
        save_scores(
            args.scores,
            hook.scores(),
            method=args.method,
            options=options.parse(args.option, "--option"),
            seconds=seconds,
            seed=args.seed,
            spec=spec,
            provenance=origin,
        )
