"""The network spec."""

import math

import torch
from strategies import broken, check_message, fuzz

from fgp.errors import FgpError
from fgp.models import Spec, build

VALID = {"name": "vgg16", "num_classes": 3, "width": 0.0625, "task": "classification"}


@fuzz(200, broken(VALID))
def test_spec(fields):
    try:
        spec = Spec.from_dict(fields)
    except FgpError as error:
        check_message(str(error), "")
        return
    assert math.isfinite(spec.width)
    assert spec.to_dict() == fields
    with torch.device("meta"):
        assert build(spec.name, spec.num_classes, spec.width).fgp_spec == spec
