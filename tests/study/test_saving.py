"""When a run is saved by default, and how a torn checkpoint is told from a complete one. Nothing is trained here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from hf_stability.study import saving
from hf_stability.study.checkpoints import newest_whole_checkpoint
from hf_stability.study.saving import (
    MANIFEST,
    SavingCallback,
    checkpoints_in,
    delete_older,
    is_complete,
    is_worth,
    save_limit,
    save_strategy,
    saving_sentence,
    tenths,
    write_manifest,
)


@pytest.fixture(autouse=True)
def synced(monkeypatch) -> list[str]:
    """Names of the files and folders that were written to the disk for good, in order. Here they are not: that takes long."""
    names: list[str] = []
    monkeypatch.setattr(saving, "BLOCK", 256)
    monkeypatch.setattr(saving, "_fsync", lambda path, flags: names.append(path.name))
    return names


# ---- which checkpoints are complete ------------------------------------------------------------------------------------------


FILES = (
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "part/of_a_folder.bin",
)


def checkpoint(folder: Path, step: int, complete: bool = True) -> Path:
    """Files with the names of the Trainer's; the first has several blocks."""
    made = folder / f"checkpoint-{step}"
    (made / "part").mkdir(parents=True)
    for number, name in enumerate(FILES):
        (made / name).write_bytes(os.urandom(521 if number == 0 else 300))
    assert not complete or write_manifest(made)
    return made


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def a_byte_changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # the manifest's last bytes are "}\n"
    path.write_bytes(content)


def zeros_at_the_end(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-128] + bytes(128))


def a_folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "truncated": truncated,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "a byte changed": a_byte_changed,
    "zeros at the end": zeros_at_the_end,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a folder instead": a_folder_instead,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, name, damage):
    older, newer = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert newest_whole_checkpoint(tmp_path) == str(newer)
    damage(newer / name)
    assert newest_whole_checkpoint(tmp_path) == str(older)
    shutil.rmtree(older)
    assert newest_whole_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"null",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"{}",
        b'{"files": 3}',
        b'{"schema": "hf_stability.checkpoint/1", "files": {}}',
    ]
    + [
        b'{"schema": "hf_stability.checkpoint/1", "files": {"optimizer.pt": %s}}' % x
        for x in (b"null", b"[1]", b'"ab"')
    ]
    + [b"[" * 100_000, b'{"schema": "hf_stability.checkpoint/2", "files": {"trainer_state.json": [300, 0]}}'],
)
def test_garbage_in_a_manifest_is_passed_over(tmp_path, content):
    (checkpoint(tmp_path, 2) / MANIFEST).write_bytes(content)
    assert newest_whole_checkpoint(tmp_path) is None


def test_checkpoints_of_earlier_versions_and_other_things_are_passed_over(tmp_path):
    kept = checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 100, complete=False)
    (tmp_path / "checkpoint-200").write_text("a file")
    (tmp_path / "checkpoint-x").mkdir()
    os.symlink(tmp_path / "gone", tmp_path / "checkpoint-300")
    assert newest_whole_checkpoint(tmp_path) == str(kept) == str(checkpoints_in(tmp_path)[0])
    assert newest_whole_checkpoint(tmp_path / "no folder") is None


def test_everything_is_on_the_disk_before_the_manifest(tmp_path, synced):
    made = checkpoint(tmp_path, 2)
    assert set(synced[:-3]) == {path.name for path in made.rglob("*") if path.is_file()} - {MANIFEST}
    assert synced[-3:] == [MANIFEST, made.name, tmp_path.name]


def test_more_files_are_no_damage(tmp_path):
    made = checkpoint(tmp_path, 2)
    (made / "notes.txt").write_text("the user's")
    assert is_complete(made)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_no_run_could_continue_from_gets_no_manifest(tmp_path, name):
    made = checkpoint(tmp_path, 2, complete=False)
    (made / name).unlink()
    assert not write_manifest(made) and not (made / MANIFEST).exists()


def test_each_process_needs_its_random_state(tmp_path):
    made = checkpoint(tmp_path, 2, complete=False)
    (made / "rng_state.pth").rename(made / "rng_state_0.pth")
    assert not write_manifest(made, processes=2)
    (made / "rng_state_1.pth").write_bytes(b"x")
    assert write_manifest(made, processes=2)


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, [9]), (2, [8, 9]), (5, [7, 8, 9]), (0, [2, 7, 8, 9, 10]), (-1, [2, 7, 8, 9, 10])]
)
def test_the_newest_complete_checkpoints_are_kept(tmp_path, limit, kept):
    for step in (2, 7, 8, 9, 10):
        checkpoint(tmp_path, step, complete=step not in (2, 10))
    delete_older(tmp_path, limit)
    assert [int(path.name.partition("-")[2]) for path in checkpoints_in(tmp_path)] == kept


def test_without_a_complete_one_the_newest_are_kept(tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path, step, complete=False)
    delete_older(tmp_path, 1)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-10"]


# ---- when one is saved -------------------------------------------------------------------------------------------------------


def test_tenths_of_the_training_and_never_its_end():
    assert tenths(100) == {10, 20, 30, 40, 50, 60, 70, 80, 90}
    assert tenths(25) == {3, 5, 8, 10, 13, 15, 18, 20, 23}
    assert (tenths(1), tenths(2), tenths(3)) == (set(), {1}, {1, 2})
    for steps in range(1, 300):
        places = sorted({0, *tenths(steps), steps})
        assert max(b - a for a, b in zip(places, places[1:], strict=False)) <= -(-steps // 10)


def test_a_save_is_worth_a_hundred_times_its_cost():
    assert is_worth(200.0, 2.0) and not is_worth(199.9, 2.0)


class Training:
    """A training with a clock of its own: the events of the Trainer, as the callback gets them.

    Args:
        folder: the run's.
        steps: update steps.
        step, save: seconds of an update step and of a save.
        epoch: update steps per epoch.
        evaluation: seconds of an evaluation, at each epoch's end.
        saves: as the Trainer's `save_steps`.
    """

    def __init__(self, folder, steps, step=1.0, save=1.0, epoch=10**6, evaluation=0.0, saves=0, size=10**8, **kwargs):
        self.now, self.saving_took, self.saved, self.kinds = 1000.0, 0.0, [], []
        model = torch.nn.Linear(1, 1, device="meta")
        model.parameters = lambda: [SimpleNamespace(nbytes=size)]
        optimizer = SimpleNamespace(state={})
        args = SimpleNamespace(output_dir=str(folder), should_save=True, world_size=1)
        args.distributed_state = SimpleNamespace(wait_for_everyone=lambda: None)
        control = TrainerControl()
        kwargs = {"at_tenths": True, **kwargs}
        self.callback = callback = SavingCallback(clock=lambda: self.now, **kwargs)
        state = SimpleNamespace(global_step=0, epoch=0.0, max_steps=steps, compute_steps=lambda *_: None)

        def tell(event):
            getattr(callback, event)(args, state, control, model=model, optimizer=optimizer)

        def evaluate_and_save():
            if control.should_evaluate:
                self.now += evaluation
                tell("on_evaluate")
            if control.should_save:
                checkpoint_of(folder, state.global_step)
                self.now += save
                self.saving_took += save
                self.saved.append(state.global_step)
                tell("on_save")

        tell("on_train_begin")
        for done in range(1, steps + 1):
            control._new_step()
            tell("on_step_begin")
            self.now += step
            state.global_step, state.epoch = done, done / epoch
            control.should_save = saves > 0 and done % saves == 0
            control.should_training_stop = done == steps
            tell("on_step_end")
            evaluate_and_save()
            if done % epoch == 0 or done == steps:
                control._new_step()
                control.should_evaluate = True
                tell("on_epoch_end")
                self.kinds += ["after an evaluation"] * control.should_save
                evaluate_and_save()
        self.seconds = self.now - 1000.0


def checkpoint_of(folder, step):
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"):
        (made / name).write_text(name)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("save", [0.01, 0.5, 1.0])
def test_saving_takes_less_than_a_hundredth_of_the_time(tmp_path, step, save):
    training = Training(tmp_path, steps=1000, step=step, save=save)  # 1 s is what the first save is taken to cost
    assert training.saving_took < 0.01 * training.seconds
    if step >= 1:  # 1000 times the cost
        assert training.saved == sorted(tenths(1000))
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"checkpoint-{training.saved[-1]}"]


def test_a_short_run_is_never_saved(tmp_path):
    assert Training(tmp_path, steps=100, step=1.0).saved == []


def test_a_save_that_took_longer_than_assumed_is_followed_by_fewer(tmp_path):
    assert Training(tmp_path, steps=1000, save=3.0).saved == [100, 400, 700]


def test_the_seconds_of_an_evaluation_are_not_those_of_the_save(tmp_path):
    training = Training(tmp_path, steps=1000, step=1.0, save=0.5, epoch=100, evaluation=50.0)
    assert training.callback.cost == 0.5 and training.saved == sorted(tenths(1000))


def test_at_the_end_of_an_epoch_a_run_is_saved_after_its_evaluation(tmp_path):
    training = Training(tmp_path, steps=1000, epoch=50)
    assert training.kinds == ["after an evaluation"] * 9
    (tmp_path / "other").mkdir()
    other = Training(tmp_path / "other", steps=10, epoch=4, saves=2, at_tenths=False, limit=0)
    assert other.saved == [2, 4, 6, 8] and other.kinds == ["after an evaluation"] * 2  # and none at the end


def test_nothing_is_saved_by_default_where_the_disk_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 10**8))
    assert Training(tmp_path, steps=1000).saved == []


def test_checkpoints_that_no_run_could_continue_from_are_saved_once(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "write_manifest", lambda *_: False)
    assert Training(tmp_path, steps=1000).saved == [100]


def test_a_manifest_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, caplog):
    def full(path):
        raise OSError(28, "No space left on device")

    older = checkpoint(tmp_path, 50)
    monkeypatch.setattr(saving, "size_and_checksum", full)
    Training(tmp_path, steps=1001)
    monkeypatch.undo()
    assert "checkpoint-901 is not complete ([Errno 28] No space left on device)" in caplog.text
    assert newest_whole_checkpoint(tmp_path) == str(older)


# ---- what users give and read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "strategy", "sentence"),
    [
        (
            {},
            None,
            "after each tenth of a long training, if saving takes less than 1% of the time; the newest is kept",
        ),
        ({"save_steps": 500}, "steps", "every 500 update steps; the newest is kept"),
        ({"save_strategy": "steps", "save_total_limit": 3}, "steps", "every 500 update steps; the newest 3 are kept"),
        ({"save_strategy": "epoch", "save_total_limit": 0}, "epoch", "after each epoch; all are kept"),
    ],
)
def test_the_strategy_and_its_sentence(args, strategy, sentence):
    assert save_strategy(args) == strategy
    assert saving_sentence(args) == f"checkpoints: {sentence} until the run ends"


def test_no_checkpoints_on_request():
    args = {"save_strategy": "no", "save_total_limit": None}
    assert save_strategy(args) == "no" and save_limit(args) == 1
    assert saving_sentence(args) == "checkpoints: none; an interrupted run starts again from its beginning"
