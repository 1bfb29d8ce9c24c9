"""Options of all methods: their defaults, their limits, and refusals that name the option."""

import math
import re
import subprocess
import sys

import pytest
from scoring_networks import classification, residual

import baselines
from fgp import FgpError, options

# (method, function, option): (default, least, most, whole numbers only)
OPTIONS = {
    ("aofp", "pruning", "iterations"): (None, 1, None, True),
    ("aofp", "pruning", "theta"): (0.01, 1e-9, None, False),
    ("aofp", "pruning", "warmup"): (None, 0, None, True),
    ("aofp-oneshot", "score", "images"): (64, 1, None, True),
    ("aofp-oneshot", "score", "iterations"): (1000, 1, None, True),
    ("cap", "training", "momentum"): (0.9, 0, 1, False),
    ("cap", "training", "strength"): (None, 0, None, False),
    ("dcfp", "training", "iterations"): (None, 1, None, True),
    ("dcp", "training", "adapt"): (None, 0, None, False),
    ("dcp", "training", "balance"): (1, 0, None, False),
    ("dcp", "training", "images"): (256, 1, None, True),
    ("dcp", "training", "iterations"): (1, 0, None, True),
    ("dcp", "training", "losses"): (None, 0, None, True),
    ("dcp", "training", "lr"): (0.01, 0, None, False),
    ("dcp", "training", "turns"): (None, 1, None, True),
    ("depgraph-sparse", "training", "alpha"): (4, 0, None, False),
    ("depgraph-sparse", "training", "strength"): (5e-4, 0, None, False),
    ("frs", "pruning", "images"): (None, 1, None, True),
    ("frs", "pruning", "interval"): (0.075, 0, 1, False),
    ("frs", "pruning", "until"): (0.75, 0, 1, False),
    ("frs-oneshot", "score", "images"): (None, 1, None, True),
    ("gfbs", "score", "beta_weight"): (0.05, 0, None, False),
    ("group-fisher", "pruning", "channels"): (1, 1, None, True),
    ("group-fisher", "pruning", "interval"): (10, 1, None, True),
    ("hrank", "score", "most_batches"): (5, 1, None, True),
    ("rfc", "score", "most_batches"): (50, 1, None, True),
    ("rfc", "score", "top_images"): (640, 1, None, True),
    ("slimming", "training", "strength"): (None, 0, None, False),
    ("thinet", "repair", "images"): (1000, 1, None, True),
    ("thinet", "repair", "positions"): (10, 1, None, True),
    ("thinet", "score", "images"): (1000, 1, None, True),
    ("thinet", "score", "positions"): (10, 1, None, True),
}
CHOICES = {
    ("fgp", "score", "classes"): ("true", ["true", "predicted", "correct", "all"]),
    ("fgp", "score", "evidence"): ("both", ["both", "feature", "gradient"]),
    ("fgp", "score", "feature"): ("conv", ["conv", "postrelu"]),
    ("fgp", "score", "form"): ("canonical", ["canonical", "gapfirst", "elementwise", "abs"]),
    ("fgp", "score", "normalise"): (None, ["minmax_u8", "jointmax"]),
    ("fgp", "score", "target"): ("logit", ["logit", "softmax"]),
    ("group-fisher", "pruning", "normalise"): ("memory", ["memory", "macs", "none"]),
    ("group-fisher-oneshot", "score", "normalise"): ("memory", ["memory", "macs", "none"]),
}
SWITCHES = {("dcp", "training", "residual"): (False,)}
ALL = OPTIONS | CHOICES | SWITCHES
FUNCTIONS = ("score", "training", "pruning", "repair")
FAST = {"aofp-oneshot": {"iterations": 1}}


def declared(method, function):
    return options.model(getattr(baselines.get(method), function))


def call(method, function, batches, **given):
    model = residual().float()
    arguments = {"pruning": (0.5,), "training": (), "score": (model, batches, 0), "repair": (model, {"conv1": [0]}, batches, 0)}
    return getattr(baselines.get(method), function)(*arguments[function], **given)


def test_every_option_is_declared_and_described():
    found = {
        (name, function, option): field.description
        for name, module in baselines.discover().items()
        for function in FUNCTIONS
        if hasattr(module, function)
        for option, field in declared(name, function).model_fields.items()
    }
    assert found.keys() >= ALL.keys()
    assert all(found.values())


@pytest.mark.parametrize(("method", "function"), sorted({key[:2] for key in ALL}), ids=str)
def test_defaults(method, function):
    expected = {option: default for (*where, option), (default, *_) in ALL.items() if where == [method, function]}
    assert declared(method, function)().model_dump() == expected


@pytest.mark.parametrize(("method", "function", "option"), OPTIONS, ids=str)
def test_limits(method, function, option):
    default, least, most, whole = OPTIONS[method, function, option]
    images, labels = classification()
    for limit in (least,) if most is None else (least, most):
        for value in (limit, str(limit)):
            call(method, function, [(images.float(), labels)], **{**FAST.get(method, {}), option: value})
    beyond = [math.nextafter(least, -math.inf), least - 1, "much", "", math.nan, math.inf, "1e999"]
    beyond += [] if most is None else [math.nextafter(most, math.inf), most + 1]
    beyond += [least + 0.5, True] if whole else []
    beyond += [] if default is None else [None]
    for value in beyond:
        with pytest.raises(FgpError, match=f"^option {option}: "):
            call(method, function, [], **{option: value})
    bounds = f" of at least {least:g}" + ("" if most is None else f" and at most {most:g}")
    wanted = ("a whole number" if whole else "a number") + bounds
    assert options.legal_values(declared(method, function).model_json_schema()["properties"][option]) == wanted


@pytest.mark.parametrize(("method", "function", "option"), CHOICES, ids=str)
def test_choices(method, function, option):
    _, legal = CHOICES[method, function, option]
    for value in legal:
        assert options.check(method, baselines.get(method), {option: value}) == {option: value}
    message = f"^option {option}: 'other'; .*{' or '.join(legal)}$"
    with pytest.raises(FgpError, match=message):
        options.check(method, baselines.get(method), {option: "other"})
    with pytest.raises(FgpError, match=message):
        call(method, function, [classification()], **{option: "other"})


def test_a_switch_is_on_or_off():
    for value, read in ((1, True), ("0", False), ("true", True), (False, False)):
        assert options.check("dcp", baselines.get("dcp"), {"residual": value}) == {"residual": read}
        assert baselines.get("dcp").training(residual=value).settings.residual is read
    with pytest.raises(FgpError, match=r"^option residual: 2; give true or false$"):
        options.check("dcp", baselines.get("dcp"), {"residual": 2})


@pytest.mark.parametrize(
    ("method", "given", "read"),
    [
        ("slimming", {"strength": "1e-3"}, {"strength": 1e-3}),
        ("frs", {"images": "400", "interval": 1}, {"images": 400, "interval": 1.0}),
        ("thinet", {"positions": 3, "images": "7"}, {"positions": 3, "images": 7}),
        ("fgp", {"form": "abs"}, {"form": "abs"}),
        ("l1", {}, {}),
        ("scratch-e", {}, {}),
    ],
)
def test_what_is_given_is_read_as_its_type(method, given, read):
    found = options.check(method, baselines.get(method), given)
    assert found == read
    assert list(map(type, found.values())) == list(map(type, read.values()))


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("hrank", {"batches": 1}, "here.batches: hrank has no such option; did you mean most_batches? legal: most_batches"),
        ("l1", {"images": 1}, "here.images: l1 has no such option; legal: none"),
        ("slimconv", {"k": 1}, "here.k: slimconv has no such option; legal: none"),
        ("slimming", {"strength": "-1"}, "here.strength: '-1'; give a number of at least 0"),
        ("fgp", {"normalise": "minmax"}, "here.normalise: 'minmax'; did you mean minmax_u8 or jointmax? give minmax_u8"),
        (
            "fgp",
            {"evidence": "feature", "target": "softmax"},
            "here.target='softmax': evidence='feature' uses no gradient of any",
        ),
    ],
)
def test_refusals_say_where_and_what_is_legal(method, given, message):
    with pytest.raises(FgpError, match=f"^{re.escape(message)}"):
        options.check(method, baselines.get(method), given, "here.")


def test_an_option_without_type_or_default_is_refused_by_name():
    def untyped(*, size=1):
        pass

    def required(*, size: int):
        pass

    def whole(**sizes):
        pass

    for function in (untyped, required, whole):
        with pytest.raises(FgpError, match=f"option sizes? of {function.__name__} lacks a type or a default"):
            options.model(function)


def test_a_typing_error_in_a_direct_call_is_an_error_of_python():
    with pytest.raises(TypeError, match="strenght"):
        baselines.get("slimming").training(strenght=1)


def test_options_are_known_without_torch():
    code = (
        "import sys, baselines; from fgp import options; "
        "[options.check(name, module, {}) for name, module in baselines.discover().items()]; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("method", [name for name, module in baselines.discover().items() if module.METHOD.kind == "gradual"])
def test_gradual_methods_hand_on_the_budget_and_tied(method):
    pruning = baselines.get(method).pruning
    assert [(hook.budget, hook.tied) for hook in (pruning(0.5), pruning(0.25, True))] == [(0.5, False), (0.25, True)]
