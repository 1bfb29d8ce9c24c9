"""Prepared data files."""

import math

import pytest
import torch
from hypothesis import strategies as st
from strategies import fuzz, outcome, safetensors_file

from fgp.data import batches, load, prepare, read_header


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare("digits", folder / "digits", size=4, train_limit=10, test_limit=10)
    prepare("scenes", folder / "scenes", size=16, train_limit=2, test_limit=1)
    return [(folder / name).read_bytes() for name in ("digits", "scenes")]


@fuzz(300, st.data())
def test_header(tmp_path, files, data):
    path = tmp_path / "data.safetensors"
    path.write_bytes(data.draw(safetensors_file(data.draw(st.sampled_from(files)))))
    header = outcome(read_header, path)
    if header:
        check(header)
        assert header.shape[0] == 3
        assert all(count > 0 for count in header.counts.values())
        assert path.stat().st_size > math.prod(header.shape) * sum(header.counts.values())


@fuzz(200, st.data())
def test_data(tmp_path, files, data):
    path = tmp_path / "data.safetensors"
    path.write_bytes(data.draw(safetensors_file(data.draw(st.sampled_from(files)))))
    dataset = outcome(load, path)
    if dataset:
        check(dataset)
        images, labels = next(iter(batches(dataset.train, dataset, 4)))
        assert images.isfinite().all()
        wrong = (labels < 0) | (labels >= len(dataset.classes))
        assert not torch.any(wrong & (labels != dataset.void) if dataset.task == "segmentation" else wrong)


def check(about):
    assert all(isinstance(name, str) for name in (about.source, *about.classes))
    assert type(about.outputs) is int
    assert 1 <= len(about.classes) <= about.outputs
    assert all(math.isfinite(value) for value in (*about.mean, *about.std))
    assert min(about.std) > 0
