"""Batches and update steps: against a slow count of real batches, and against the Trainer."""

from __future__ import annotations

import math

import pytest
from accelerate.data_loader import prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_stability import StableTrainer, StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.utils.batches import derived_batch_size, planned_steps, steps_per_epoch, total_batch_size
from tests import toy


def counted(examples: int, per_device: int, devices: int, accumulation: int, drop_last: bool) -> tuple[int, int]:
    """Update steps per epoch, and examples in the largest of them, by walking through the batches of every device."""
    loaders = [
        prepare_data_loader(
            DataLoader(range(examples), batch_size=per_device, drop_last=drop_last),
            num_processes=devices, process_index=index, put_on_device=False, even_batches=False,
        )
        for index in range(devices)
    ]  # fmt: skip
    batches = [[len(batch) for batch in loader] for loader in loaders]
    longest = max(map(len, batches), default=0)
    sizes = [sum(own[i] for own in batches if i < len(own)) for i in range(longest)]
    steps = [sum(sizes[at : at + accumulation]) for at in range(0, longest, accumulation)]
    return len(steps), max(steps, default=0)


@settings(max_examples=60, deadline=None)
@given(
    examples=st.integers(1, 60),
    per_device=st.integers(1, 7),
    devices=st.integers(1, 3),
    accumulation=st.integers(1, 4),
    drop_last=st.booleans(),
    by_total=st.booleans(),
)
def test_steps_and_sizes_are_those_of_real_batches(examples, per_device, devices, accumulation, drop_last, by_total):
    steps, largest = counted(examples, per_device, devices, accumulation, drop_last)
    total = per_device * devices * accumulation
    args = {"gradient_accumulation_steps": accumulation, "dataloader_drop_last": drop_last}
    args |= {"total_train_batch_size": total} if by_total else {"per_device_train_batch_size": per_device}
    assert total_batch_size(args, devices) == total >= largest
    assert largest == total or examples < total or drop_last
    assert steps_per_epoch(args, examples, devices) == max(1, steps)  # the Trainer takes at least one
    assert planned_steps({**args, "num_train_epochs": 2.5}, examples, devices) == math.ceil(2.5 * max(1, steps))
    assert derived_batch_size(total, devices, accumulation) == per_device


@pytest.mark.parametrize(
    "args",
    [
        {"num_train_epochs": 2.0},
        {"num_train_epochs": 1.5, "per_device_train_batch_size": 4},
        {"num_train_epochs": 2.0, "gradient_accumulation_steps": 3},
        {"num_train_epochs": 1.0, "gradient_accumulation_steps": 16},
        {"num_train_epochs": 2.0, "total_train_batch_size": 12, "gradient_accumulation_steps": 2},
        {"num_train_epochs": 2.0, "dataloader_drop_last": True},
        {"num_train_epochs": 2.0, "max_steps": 3},
    ],
)
def test_update_steps_are_counted_as_the_trainer_counts_them(tmp_path, args):
    trainer = toy.train(
        StableTrainer, StableTrainingArguments(str(tmp_path), **toy.QUIET, **args), train_dataset=toy.data(50)
    )
    assert planned_steps(args, 50) == trainer.state.max_steps


def test_what_is_not_set_has_the_trainers_defaults():
    defaults = StableTrainingArguments.__dataclass_fields__
    assert total_batch_size({}) == defaults["per_device_train_batch_size"].default
    assert planned_steps({}, 8) == defaults["num_train_epochs"].default
    assert total_batch_size({"gradient_accumulation_steps": None, "total_train_batch_size": None}, 2) == 16
    assert planned_steps({"max_steps": None}, 8) == planned_steps({"max_steps": -1}, 8) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((32, 2, 0), "--gradient_accumulation_steps 0: must be 1 or more"),
        ((32, 3, 1), "--total_train_batch_size 32 cannot be divided by 3 device"),
        ((0, 1, 1), "--total_train_batch_size 0 cannot be divided by 1 device"),
        ((32, 2, 2, 16), "--per_device_train_batch_size 16 contradicts --total_train_batch_size 32"),
    ],
)
def test_a_batch_that_cannot_be_divided_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        derived_batch_size(*values)
    assert derived_batch_size(32, 2, 2, 8) == 8
