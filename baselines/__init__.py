"""Comparison methods, one file each, found by lying here.

A file `<name>.py` (hyphens of the method's name as underscores) has a docstring header, `METHOD` (`fgp.methods.Method`) and the
functions of its kind, see docs/design.md. Importing one must not load torch: the workflow lists the methods without it.
"""

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from fgp.errors import FgpError
from fgp.methods import Method
from fgp.models.names import NETWORKS

_FUNCTIONS = {
    "criterion": ("score", "score"),
    "sparse-training": ("training", "sparse_training"),
    "gradual": ("pruning", "gradual"),
}
"""By kind: the function that a file needs, and the rule that calls it."""
_EQUAL = ("epochs", "flops")


def discover() -> dict[str, ModuleType]:
    """Return every method of this folder by name, sorted.

    Raises:
        FgpError: a file breaks the contract of its kind; the message names the file.
    """
    return {name: get(name) for name in _names()}


def get(name: str) -> ModuleType:
    """Return the module of the method `name`.

    Raises:
        FgpError: there is no such method (the closest names are listed), or its file breaks the contract of its kind.
    """
    names = _names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3) or names
        raise FgpError(f"method {name!r}: no such file in baselines/; use {' or '.join(close)}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    _check(module, names)
    return module


def _names() -> list[str]:
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def _check(module: ModuleType, names: list[str]) -> None:
    file = f"baselines/{Path(module.__file__).name}"
    facts = getattr(module, "METHOD", None)
    if not isinstance(facts, Method):
        raise FgpError(f"{file}: METHOD is missing; set METHOD = fgp.methods.Method(...)")
    if not module.__doc__:
        raise FgpError(f"{file}: the docstring header is missing; name paper, equation, official repository and deviations")
    function, rule = _FUNCTIONS.get(facts.kind, (None, None))
    if function and facts.own_rule != rule and not callable(getattr(module, function, None)):
        raise FgpError(f"{file}: function `{function}` is missing; a method of kind {facts.kind} needs it")
    if facts.kind == "gradual" and hasattr(module, "repair"):
        raise FgpError(f"{file}: function `repair`: a gradual method removes its channels itself; adjust the weights there")
    if facts.kind == "architecture" and (not facts.networks or {*facts.networks, *facts.networks.values()} - set(NETWORKS)):
        raise FgpError(f"{file}: networks is {facts.networks!r}; name, for dense networks of fgp.models, the one trained instead")
    if facts.kind == "scratch":
        if facts.plan_of not in names:
            raise FgpError(f"{file}: plan_of is {facts.plan_of!r}; name the method whose pruned architecture is trained")
        if facts.equal not in _EQUAL:
            raise FgpError(f"{file}: equal is {facts.equal!r}; use {' or '.join(_EQUAL)}")
