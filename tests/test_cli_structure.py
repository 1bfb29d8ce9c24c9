import pytest
import torch

from fgp import coupling, prune
from fgp.cli.structure import structure_of
from fgp.models import build
from fgp.surgery import Structure


def described(structure):
    groups = [
        (group.leader, group.members, group.channels, group.unit, group.residual, group.whole) for group in structure.groups
    ]
    plan = {group.leader: list(range(0, group.channels, group.unit)) for group in structure.prunable if group.channels > 1}
    return groups, structure.positions, structure.macs(plan), structure.params(plan)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["vgg16", "resnet50", "segnet", "deeplabv3"])
def test_a_shared_trace_is_the_networks_own(name, tied, monkeypatch):
    traces, trace = [], coupling.trace
    monkeypatch.setattr(coupling, "trace", lambda *arguments: traces.append(arguments) or trace(*arguments))
    example = torch.empty(1, 3, 32, 48, device="meta")
    structures = [structure_of(build(name, 5, 1 / 16), example, tied) for _ in range(3)]
    assert len(traces) <= 1
    own = Structure(build(name, 5, 1 / 16), example, tied)
    assert all(described(structure) == described(own) for structure in structures)


def test_a_network_of_other_shapes_is_traced_itself():
    example = torch.randn(1, 3, 32, 32)
    dense = build("vgg16", 5, 1 / 8)
    pruned = prune(dense, {Structure(dense, example).prunable[0].leader: [0, 1, 2]}, example)
    pruned.fgp_spec, pruned.fgp_plan = dense.fgp_spec, None
    assert described(structure_of(pruned, example, False)) == described(Structure(pruned, example))
    assert structure_of(pruned, example, False).macs() < structure_of(dense, example, False).macs()
