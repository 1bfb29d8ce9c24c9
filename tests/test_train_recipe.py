import argparse
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch.optim import lr_scheduler

from fgp.errors import FgpError
from fgp.train import Recipe

STEPS = 7


def rates_of(recipe):
    return [recipe.rate(step, STEPS) for step in range(recipe.epochs * STEPS)]


def torch_rates(scheduler_of, recipe, once_an_epoch=False):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    scheduler = scheduler_of(optimiser)
    rates = []
    for step in range(recipe.epochs * STEPS):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if not once_an_epoch or (step + 1) % STEPS == 0:
            scheduler.step()
    return rates


def test_multistep_is_torchs():
    recipe = Recipe(epochs=9, lr=0.1, schedule="multistep", milestones=[3, 7, 20], gamma=0.2)
    expected = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, [3, 7, 20], 0.2), recipe, once_an_epoch=True)
    assert rates_of(recipe) == pytest.approx(expected)


def test_poly_is_torchs():
    recipe = Recipe(epochs=5, lr=0.01, schedule="poly", power=0.9)
    expected = torch_rates(lambda o: lr_scheduler.PolynomialLR(o, total_iters=5 * STEPS, power=0.9), recipe)
    assert rates_of(recipe) == pytest.approx(expected)


def test_cosine_is_torchs():
    recipe = Recipe(epochs=5, lr=0.01, schedule="cosine")
    expected = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 5 * STEPS), recipe)
    assert rates_of(recipe) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["constant", "poly", "cosine"])
def test_warmup_rises_to_lr_and_the_schedule_starts_there(schedule):
    recipe = Recipe(epochs=6, lr=0.7, schedule=schedule, warmup_epochs=2)
    rates = rates_of(recipe)
    assert rates[:14] == pytest.approx([0.7 * (step + 1) / 14 for step in range(14)])
    assert rates[14:] == pytest.approx(rates_of(Recipe(epochs=4, lr=0.7, schedule=schedule)))


RECIPES = [
    Recipe(epochs=3, lr=0.1),
    Recipe(
        epochs=160,
        lr=0.1,
        nesterov=True,
        schedule="multistep",
        milestones=[80, 120],
        crop_padding=4,
        flip=True,
        weight_decay=5e-4,
    ),
    Recipe(epochs=30, lr=1e-5, schedule="poly", scale_range=[0.5, 2], crop_size=[320, 480], class_weights="median_frequency"),
    Recipe(epochs=0, lr=0.1 + 0.2, momentum=0.0),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_flags_and_configuration_give_the_recipe_back(recipe):
    parser = argparse.ArgumentParser()
    Recipe.add_arguments(parser)
    assert Recipe.from_args(parser.parse_args(recipe.flags())) == recipe
    assert Recipe(**recipe.model_dump(mode="json")) == recipe


def test_every_field_is_described_and_has_a_flag():
    parser = argparse.ArgumentParser()
    Recipe.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for name, field in Recipe.model_fields.items():
        assert field.description
        assert "--" + name.replace("_", "-") in flags


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"epochs": -1}, "epochs"),
        ({"lr": 0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"schedule": "step"}, "schedule"),
        ({"schedule": "multistep"}, "milestones"),
        ({"schedule": "multistep", "milestones": [5, 5]}, "milestones"),
        ({"milestones": [5]}, "milestones"),
        ({"nesterov": True, "momentum": 0}, "nesterov"),
        ({"warmup_epochs": 3}, "warmup_epochs"),
        ({"scale_range": [2.0, 0.5]}, "scale_range"),
        ({"scale_range": [0.5]}, "scale_range"),
        ({"crop_size": [0, 10]}, "crop_size"),
        ({"crop_pading": 4}, "crop_pading"),
    ],
)
def test_a_wrong_value_names_its_key(fields, key):
    with pytest.raises(ValidationError, match=rf"\b{key}\b"):
        Recipe(**{"epochs": 3, "lr": 0.1, **fields})


def test_a_wrong_flag_is_an_error_of_the_user():
    parser = argparse.ArgumentParser()
    Recipe.add_arguments(parser)
    with pytest.raises(FgpError, match="--lr"):
        Recipe.from_args(parser.parse_args(["--epochs", "3", "--lr", "-1"]))
    with pytest.raises(FgpError, match="milestones"):
        Recipe.from_args(parser.parse_args(["--epochs", "3", "--lr", "1", "--schedule", "multistep"]))


@pytest.mark.parametrize(
    ("fields", "task"),
    [
        ({"crop_padding": 4}, "segmentation"),
        ({"scale_range": (0.5, 2)}, "classification"),
        ({"crop_size": (8, 8)}, "classification"),
        ({"class_weights": "median_frequency"}, "classification"),
    ],
)
def test_a_setting_of_the_other_task_is_refused(fields, task):
    recipe = Recipe(epochs=3, lr=0.1, **fields)
    with pytest.raises(FgpError, match=next(iter(fields))):
        recipe.check_task(task)
    recipe.check_task({"classification": "segmentation", "segmentation": "classification"}[task])


def test_stretched():
    recipe = Recipe(epochs=15, lr=0.1, schedule="multistep", milestones=[8, 12]).stretched(1.6)
    assert (recipe.epochs, recipe.milestones) == (24, (13, 19))


def test_a_recipe_needs_no_torch():
    code = "import sys; from fgp.train import Recipe; Recipe(epochs=1, lr=.1); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
