import pytest
import torch

from fgp.train import Recipe
from fgp.train.optimiser import SGD


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (7,), (5, 7)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def gradients(steps):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(values.shape, generator=generator) for values in parameters()] for _ in range(steps)]


def recipe(**settings):
    return Recipe(epochs=1, batch_size=1, lr=0.1, **settings)


@pytest.mark.parametrize("without", [(), (1,)])
@pytest.mark.parametrize(
    "settings",
    [{"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.7, "weight_decay": 0.1, "nesterov": True}, {"momentum": 0}],
)
def test_the_steps_of_torch(settings, without):
    """A parameter without a gradient stays as it is."""
    ours, theirs = parameters(), parameters()
    optimiser = SGD(ours, recipe(**settings), 0.1)
    literal = torch.optim.SGD(theirs, lr=0.1, fused=True, **{"weight_decay": recipe().weight_decay} | settings)
    for number, step in enumerate(gradients(4)):
        optimiser.rate = literal.param_groups[0]["lr"] = 0.1 / (number + 1)
        optimiser.zero_grad()
        literal.zero_grad()
        assert all(values.grad is None for values in ours)
        for place, gradient in enumerate(step):
            if place not in without:
                ours[place].grad, theirs[place].grad = gradient.clone(), gradient.clone()
        optimiser.step()
        literal.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for place in without:
        assert torch.equal(ours[place], parameters()[place])


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_the_state_is_taken_up(momentum):
    steps = gradients(4)
    whole, first = parameters(), parameters()
    optimisers = [SGD(whole, recipe(momentum=momentum), 0.1), SGD(first, recipe(momentum=momentum), 0.1)]
    for number, step in enumerate(steps):
        if number == 2:
            state = optimisers[1].state_dict()
            second = [torch.nn.Parameter(values.detach().clone()) for values in first]
            optimisers[1] = SGD(second, recipe(momentum=momentum), 0.1)
            optimisers[1].load_state_dict(state)
        for optimiser, changed in zip(optimisers, (whole, first if number < 2 else second), strict=True):
            for values, gradient in zip(changed, step, strict=True):
                values.grad = gradient.clone()
            optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def test_a_rate_on_the_device():
    """As in a CUDA graph, where the rate is written into a tensor."""
    ours, theirs = parameters(), parameters()
    rate = torch.tensor(0.1)
    optimisers = SGD(ours, recipe(), rate), SGD(theirs, recipe(), 0.05)
    rate.fill_(0.05)
    for optimiser, changed in zip(optimisers, (ours, theirs), strict=True):
        for values, gradient in zip(changed, *gradients(1), strict=True):
            values.grad = gradient.clone()
        optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
