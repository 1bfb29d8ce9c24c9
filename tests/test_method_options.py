"""Options of all methods: their defaults, their limits, and refusals that name the option."""

import math

import pytest
from scoring_networks import classification, residual

import baselines
from fgp import FgpError
from fgp.options import number

# (method, function, option): (default, least, most, whole numbers only), of the methods' documentation; None: not read
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
    ("dcp", "training", "residual"): (0, 0, 1, True),
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
FAST = {"aofp-oneshot": {"iterations": 1}}


def call(method, function, batches, **options):
    model = residual().float()
    arguments = {"pruning": (0.5,), "training": (), "score": (model, batches, 0), "repair": (model, {"conv1": [0]}, batches, 0)}
    return getattr(baselines.get(method), function)(*arguments[function], **options)


@pytest.mark.parametrize(("method", "function", "option"), OPTIONS, ids=str)
def test_limits(method, function, option):
    _, least, most, whole = OPTIONS[method, function, option]
    images, labels = classification()
    for limit in (least,) if most is None else (least, most):
        for value in (limit, str(limit)):
            call(method, function, [(images.float(), labels)], **{**FAST.get(method, {}), option: value})
    beyond = [math.nextafter(least, -math.inf), least - 1, "much", math.nan]
    beyond += [] if most is None else [math.nextafter(most, math.inf), most + 1]
    beyond += [least + 0.5] if whole else []
    for value in beyond:
        with pytest.raises(FgpError, match=f"^option {option}: "):
            call(method, function, [], **{option: value})


@pytest.mark.parametrize(("method", "function"), sorted({key[:2] for key in OPTIONS}), ids=str)
def test_defaults(method, function, monkeypatch):
    read = {}

    def watched(name, value, *limits, **more):
        read[name] = value
        return number(name, value, *limits, **more)

    monkeypatch.setattr("fgp.options.number", watched)
    monkeypatch.setattr(baselines.get(method), "number", watched, raising=False)
    if function in ("score", "repair"):
        with pytest.raises(FgpError, match="no image"):
            call(method, function, [])
    else:
        call(method, function, [])
    expected = {option: default for (*where, option), (default, *_) in OPTIONS.items() if where == [method, function]}
    assert read == {option: default for option, default in expected.items() if default is not None}


@pytest.mark.parametrize("method", [name for name, module in baselines.discover().items() if module.METHOD.kind == "gradual"])
def test_gradual_methods_hand_on_the_budget_and_tied(method):
    pruning = baselines.get(method).pruning
    assert [(hook.budget, hook.tied) for hook in (pruning(0.5), pruning(0.25, True))] == [(0.5, False), (0.25, True)]
