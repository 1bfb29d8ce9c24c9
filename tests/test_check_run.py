"""What CI asks of a run's results."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

from fgp import data, tensorfiles

ROOT = Path(__file__).parents[1]
CHANCE = {"digits": 20.0, "scenes": 16.0}


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_run", ROOT / ".ci/check_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(*percents, dataset="digits", selection="macs-0.2655"):
    rows = [(f"{dataset}-task", dataset, f"m{number}", selection, percent) for number, percent in enumerate(percents)]
    return pd.DataFrame(rows, columns=["task", "dataset", "method", "selection", "after_percent"])


def with_labels(path, labels, source, **options):
    """Prepare a small data file and put `labels` in the place of its test labels."""
    data.prepare(source, path, test_limit=len(labels), train_limit=10, **options)
    tensors, metadata = tensorfiles.read(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    tensorfiles.write(path, {**tensors, "test.labels": labels.to(torch.uint8)}, metadata)
    return path


def test_chance_of_a_classification_is_the_share_of_the_most_frequent_class(check, tmp_path):
    labels = torch.tensor([3] * 5 + [0] * 4 + [1, 2, 4])
    assert check.chance(with_labels(tmp_path / "x", labels, "digits", size=8, classes=5)) == pytest.approx(100 * 5 / 12)


def test_chance_of_a_segmentation_is_the_miou_of_one_class_everywhere(check, tmp_path):
    labels = torch.full((2, 16, 16), 3)
    labels[0, :4] = 0
    labels[1, :2] = 1
    labels[:, 8:12] = 255
    file = with_labels(tmp_path / "x", labels, "scenes", size=16, classes=3)
    shown, background = 2 * 16 * 12, 2 * 16 * 12 - 4 * 16 - 2 * 16
    assert check.chance(file) == pytest.approx(100 * background / shown / 3)  # three classes are found, digit 2 nowhere


def test_one_row_in_ten_may_be_at_chance(check):
    fine = cells(*[30.0] * 5, *[99.0] * 4)
    assert check.chance_problems(fine, CHANCE) == []
    assert check.chance_problems(pd.concat([fine, cells(29.9)]), CHANCE) == []
    (problem,) = check.chance_problems(pd.concat([fine, cells(29.9, 20.0)]), CHANCE)
    assert problem == "2 of 11 networks at equal MACs are at chance: digits-task m0 29.90 %, digits-task m1 20.00 %"
    (problem,) = check.chance_problems(cells(20.0), CHANCE)
    assert problem.startswith("1 of 1 ")


def test_rows_are_compared_with_the_chance_of_their_own_data(check):
    assert check.chance_problems(cells(24.1, 24.1, dataset="scenes"), CHANCE) == []
    mixed = pd.concat([cells(24.1, 23.9, dataset="scenes"), cells(24.1)])
    assert check.chance_problems(mixed, CHANCE)[0].startswith("2 of 3 networks")


def test_only_rows_at_equal_macs_count(check):
    other = pd.concat([cells(5.0, 5.0, selection=name) for name in ("cumulative-0.40", "count-0.40", "unpruned")])
    assert check.chance_problems(pd.concat([other, cells(90.0)]), CHANCE) == []
    rounded = cells(5.0, selection="macs-0.2655-x8")
    assert len(check.chance_problems(pd.concat([rounded, *[cells(90.0)] * 8]), CHANCE)) == 1
