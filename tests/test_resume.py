"""Interrupted training: the claim on an output, the checkpoint files, and what a checkpoint is valid for."""

import errno
import fcntl
import multiprocessing
import os
import resource
import sys
import threading
from pathlib import Path

import pytest
import torch
from test_train_loop import classification, small_cnn, weights_equal

from fgp.errors import FgpError
from fgp.train import Recipe, fit
from fgp.train.hooks import Hook
from fgp.train.resume import Checkpoint, Claim

FORK = multiprocessing.get_context("fork")


def test_the_last_process_that_claims_an_output_has_it(tmp_path):
    with Claim(tmp_path / "deep" / "m") as first:
        with first.held():
            pass
        with Claim(tmp_path / "deep" / "m") as second:
            with pytest.raises(FgpError, match=r"m: another process has taken over this training"), first.held():
                raise AssertionError
            first.__exit__()
            with second.held():
                pass
        assert not list((tmp_path / "deep").iterdir())
        with pytest.raises(FgpError, match="taken over"), first.held():
            raise AssertionError


def test_a_trainer_that_was_overtaken_writes_nothing(tmp_path):
    with Claim(tmp_path / "m") as claim:
        old = Checkpoint(tmp_path / "m", "k", 0, claim)
        old.save({"epoch": 1})
        with Claim(tmp_path / "m") as later:
            new = Checkpoint(tmp_path / "m", "k", 0, later)
            assert new.load()["epoch"] == 1
            with pytest.raises(FgpError, match="taken over"):
                old.save({"epoch": 2})
            with pytest.raises(FgpError, match="taken over"), old.results():
                (tmp_path / "m").write_text("old")
            assert new.load()["epoch"] == 1
            with new.results():
                (tmp_path / "m").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_text() == "new"


def test_a_training_is_overtaken_and_ends_the_same(tmp_path):
    """The first of two trainings on one output is stopped at its next checkpoint; the second goes on from its last one."""

    class Overtaken(Hook):
        def after_epoch(self, epoch):
            if epoch == 3:
                claims.append(Claim(tmp_path / "m").__enter__())

    def train(hook=None, **options):
        model = small_cnn()
        fit(model, dataset.train, dataset, recipe, 0, "cpu", hook=hook, **options)
        return model

    dataset, recipe, claims = classification(), Recipe(epochs=5, batch_size=16, lr=0.05, crop_padding=1), []
    straight = train()
    with Claim(tmp_path / "m") as claim, pytest.raises(FgpError, match="taken over"):
        train(Overtaken(), checkpoint=Checkpoint(tmp_path / "m", "k", 0, claim))
    checkpoint = Checkpoint(tmp_path / "m", "k", 0, claims[0])
    assert len(checkpoint.load()["history"]["losses"]) == 2
    assert weights_equal(train(checkpoint=checkpoint), straight)


def write_often(out, content, results):
    """Write whole contents to a file, slowly, as long as the claim lasts."""
    with Claim(out) as claim:
        for _ in range(200):
            with claim.held():
                for letter in range(8):
                    with open(out, "r+") as file:
                        file.seek(letter)
                        file.write(content)
                found = Path(out).read_text()
            if found != 8 * content:
                results.put(f"{found} instead of {8 * content}")
                return
        results.put("finished")


def test_many_processes_never_write_at_the_same_time(tmp_path):
    out, results = tmp_path / "m", FORK.SimpleQueue()
    out.write_text("x" * 8)
    processes = [FORK.Process(target=write_often, args=(out, letter, results)) for letter in "abcdefgh"]
    sys.stderr.flush()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    said = []
    while not results.empty():
        said.append(results.get())
    assert set(said) == {"finished"}
    assert len(set(out.read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_claim_waits_for_the_file_that_is_being_written_and_outlives_the_end_of_the_other(tmp_path):
    entered, claims = threading.Event(), []

    def claim():
        entered.set()
        claims.append(Claim(tmp_path / "m").__enter__())

    thread = threading.Thread(target=claim)
    with Claim(tmp_path / "m") as first:
        with first.held():
            thread.start()
            entered.wait()
            thread.join(0.05)
            assert not claims
            (tmp_path / "m.claim").unlink()
        thread.join()
    with claims[0].held():
        assert (tmp_path / "m.claim").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_is_no_flock_the_token_alone_tells(tmp_path, monkeypatch, number):
    def flock(descriptor, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Claim(tmp_path / "m") as first, Claim(tmp_path / "m") as second:
        with second.held():
            pass
        with pytest.raises(FgpError, match="taken over"), first.held():
            raise AssertionError
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), Claim(tmp_path / "file" / "m"):
        raise AssertionError


def saved(folder, *epochs):
    for epoch in epochs:
        Checkpoint(folder / "m", "k", 0).save({"epoch": epoch, "weights": torch.full((1000,), float(epoch))})


def epoch_in(folder, key="k"):
    state = Checkpoint(folder / "m", key).load()
    return state and state["epoch"]


@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_leaves_the_one_before(tmp_path, part):
    saved(tmp_path, 1, 2)
    for name, then in (("m.checkpoint", 1), ("m.checkpoint.previous", None)):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(part * len(content))])
        assert epoch_in(tmp_path) == then


def test_a_wrong_number_in_a_checkpoint_is_noticed(tmp_path):
    saved(tmp_path, 1, 2)
    content = bytearray((tmp_path / "m.checkpoint").read_bytes())
    content[content.index(torch.full((4,), 2.0).numpy().tobytes()) + 2] ^= 1
    (tmp_path / "m.checkpoint").write_bytes(content)
    assert torch.load(tmp_path / "m.checkpoint", weights_only=True)["epoch"] == 2
    assert epoch_in(tmp_path) == 1


def test_a_checkpoint_serves_its_own_run_only(tmp_path):
    saved(tmp_path, 1)
    assert epoch_in(tmp_path, "another key") is None
    assert epoch_in(tmp_path) == 1


def die_at(folder, function, call):
    """Save a checkpoint in a process that ends at a call of a function of `os`, before or after it."""
    real, count = getattr(os, function), 0

    def dying(*args):
        nonlocal count
        count += 1
        if count == abs(call):
            if call < 0:
                real(*args)
            os._exit(9)
        return real(*args)

    setattr(os, function, dying)
    saved(folder, 3)


@pytest.mark.parametrize(
    ("function", "call", "epoch", "left"),
    [
        ("replace", 1, 2, 1),
        ("replace", -1, 2, 1),
        ("fsync", 1, 2, 1),
        ("fsync", -1, 2, 1),
        ("replace", 2, 2, 1),
        ("replace", -2, 3, 0),
    ],
)
def test_a_process_that_dies_while_it_saves_leaves_a_checkpoint(tmp_path, function, call, epoch, left):
    saved(tmp_path, 1, 2)
    process = FORK.Process(target=die_at, args=(tmp_path, function, call))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(list(tmp_path.glob(".*.part"))) == left
    assert epoch_in(tmp_path) == epoch
    saved(tmp_path, 4)
    assert epoch_in(tmp_path) == 4
    with Checkpoint(tmp_path / "m", "k").results():
        pass
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    saved(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(FgpError, match=r"m\.checkpoint: cannot be written \(File too large\)"):
            saved(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert epoch_in(tmp_path) == 1
    assert not list(tmp_path.glob(".*"))
