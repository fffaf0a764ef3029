"""The changes at a restart: seeds and arguments."""

import numpy as np
import pytest
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_stability import StableTrainingArguments
from hf_stability.errors import InputError
from hf_stability.restarting.settings import changed_arguments, restart_seed, restart_settings, seeds_of
from hf_stability.training_args import seed_streams
from tests import toy


def arguments(cls=StableTrainingArguments, **values):
    return cls("unused", **{**toy.QUIET, **values})


def test_the_seeds_are_children_of_the_first_attempts_seeds():
    args = arguments(seed=3, seed_streams=True)
    streams = seed_streams(3)  # the oracle: numpy's own SeedSequence
    source = (streams["init_seed"], streams["data_seed"], streams["dropout_seed"])
    expected = [int(np.random.SeedSequence(source, spawn_key=(101, n)).generate_state(1)[0]) for n in (1, 2)]
    assert [restart_seed(args, n) for n in (0, 1, 2)] == [3, *expected]
    second = changed_arguments(args, 2, {})
    assert second.seed == expected[1] and seeds_of(second) == seeds_of(arguments(seed=expected[1], seed_streams=True))
    assert args.seed == 3 and seeds_of(args) == dict(zip(("init", "data", "dropout"), source, strict=True))
    assert restart_seed(arguments(seed=3, seed_streams=True, init_seed=7), 1) != expected[0]  # a cell of two-way seeds


def test_without_streams_the_trainers_seed_changes_and_a_data_seed_too():
    plain, given = (changed_arguments(arguments(seed=3, **more), 1, {}) for more in ({}, {"data_seed": 5}))
    assert plain.data_seed is None and seeds_of(plain) == {
        "init": plain.seed,
        "data": plain.seed,
        "dropout": plain.seed,
    }
    assert given.data_seed == seed_streams(given.seed)["data_seed"]


def test_gentle_is_a_third_of_the_rate_each_time():
    args = arguments(learning_rate=9e-5, bias_correction=False, warmup_steps=0.06, lr_scheduler_type="constant")
    first, second = (restart_settings(args, n, "gentle", 200) for n in (1, 2))
    expected = {"bias_correction": True, "warmup_steps": 0.1, "lr_scheduler_type": "constant_with_warmup"}
    assert first == {"learning_rate": pytest.approx(3e-5), **expected}
    assert second == {"learning_rate": pytest.approx(1e-5), **expected}
    changed = changed_arguments(args, 1, first)
    assert changed.lr_scheduler_type is SchedulerType.CONSTANT_WITH_WARMUP and changed.get_warmup_steps(200) == 20
    assert args.learning_rate == 9e-5 and not args.bias_correction  # the user's arguments stay


@pytest.mark.parametrize(("warmup", "changes"), [(0, True), (19, True), (20, False), (0.2, False), (0.1, False)])
def test_gentle_keeps_a_long_warmup(warmup, changes):
    assert ("warmup_steps" in restart_settings(arguments(warmup_steps=warmup), 1, "gentle", 200)) is changes


def test_gentle_with_the_correction_in_the_learning_rate():
    args = arguments(bias_correction=False, lr_bias_correction=True)
    assert "bias_correction" not in restart_settings(args, 1, "gentle", 200)


def test_seed_and_the_first_attempt_change_no_argument():
    args = arguments()
    assert restart_settings(args, 2, "seed", 200) == restart_settings(args, 0, "gentle", 200) == {}


def test_a_recipe_has_its_values_for_the_model_type():
    args = arguments(max_steps=50, per_device_train_batch_size=8)
    settings = restart_settings(args, 1, "mosbach2021", 200, "roberta")
    assert (settings["learning_rate"], settings["num_train_epochs"], settings["max_steps"]) == (2e-5, 20, -1)
    assert (settings["weight_decay"], settings["adam_beta2"], settings["max_grad_norm"]) == (0.1, 0.98, 0)
    changed = changed_arguments(args, 1, settings)
    assert changed.per_device_train_batch_size == 16 and changed.seed_streams
    assert seeds_of(changed)["init"] == seed_streams(changed.seed)["init_seed"]


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"--restart_with mosbach2021: TrainingArguments has no .*use StableTrainer"):
        restart_settings(arguments(TrainingArguments), 1, "mosbach2021", 200)
    with pytest.raises(InputError, match=r"--restart_with mosbach: give seed, gentle or a recipe"):
        arguments(restart_with="mosbach")
    for wrong in (-1, 1.5, True, "2"):
        with pytest.raises(InputError, match=rf"--max_restarts {wrong}: give a whole number, 0 or more"):
            arguments(max_restarts=wrong)
    for wrong in (None, 3, ["seed"]):
        with pytest.raises(InputError, match=r"--restart_with .*: give seed, gentle or a recipe"):
            arguments(restart_with=wrong)
