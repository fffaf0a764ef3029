"""From what is asked for to jobs: seeds, fingerprints, settings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe
from hf_stability.recipe.arguments import argument_types
from hf_stability.recipe.resolve import resolve_model_config
from hf_stability.study import prepare
from hf_stability.study.run import make_trainer, training_arguments
from hf_stability.tasks.load import TokenizedData
from hf_stability.tasks.task import Task
from tests import toy


# --- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        ("3", [1, 2, 3]),
        ("3-3", [3]),
        ("3 7 9", [3, 7, 9]),
        ("9 3", [9, 3]),
        ("0 5", [0, 5]),
        ("1000-1003", [1000, 1001, 1002, 1003]),
        ("2-4 9 0-1", [2, 3, 4, 9, 0, 1]),
        ("007 8", [7, 8]),
        ("4294967295-4294967295", [2**32 - 1]),
    ],
)
def test_seeds_are_a_count_a_list_or_ranges(words, seeds):
    assert prepare.parse_seeds(words.split()) == seeds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("0", "--seeds 0: no run"),
        ("x", "--seeds x: give a count"),
        ("-3", "--seeds -3: give a count"),
        ("3-", "--seeds 3-: give a count"),
        ("1-2-3", "--seeds 1-2-3: give a count"),
        ("1.5", "--seeds 1.5: give a count"),
        ("²", "--seeds ²: give a count"),
        ("٣", "--seeds ٣: give a count"),
        ("5-2", "--seeds 5-2: the range is empty"),
        ("3 3", "--seeds 3 3: 3 is there twice"),
        ("9 1-3 2-4", "--seeds 9 1-3 2-4: 2 is there twice"),
        ("20260101", "--seeds 20260101: 20260101 runs"),
        ("0-99999999999", "100000000000 runs"),
        ("4294967296 1", "4294967296 is too large"),
    ],
)
def test_seeds_that_are_none_are_refused_at_once(words, message):
    with pytest.raises(InputError) as error:
        prepare.parse_seeds(words.split())
    assert message in str(error.value) and "\n" not in str(error.value)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30)), min_size=1, max_size=5))
def test_ranges_hold_what_they_say_or_are_refused(parts):
    words = [f"{first}-{first + more}" for first, more in parts]
    expected = [seed for first, more in parts for seed in range(first, first + more + 1)]
    if len(set(expected)) < len(expected):
        with pytest.raises(InputError, match="is there twice"):
            prepare.parse_seeds(words)
    else:
        assert prepare.parse_seeds(words) == expected


@given(st.integers(1, 3000))
def test_a_count_counts_from_one(count):
    seeds = prepare.parse_seeds([str(count)])
    assert len(seeds) == len(set(seeds)) == max(seeds) == count and min(seeds) == 1


# --- the model's fingerprint -----------------------------------------------------------------------------------------


def fingerprint(folder) -> str:
    return prepare.fingerprint_model(str(folder), prepare.load_config(str(folder)))


def test_a_model_is_known_by_its_weights_wherever_it_is(tiny_model, make_tiny_model, tmp_path):
    own = fingerprint(tiny_model())
    shutil.copytree(tiny_model(), tmp_path / "copy")
    assert fingerprint(tiny_model()) == fingerprint(tmp_path / "copy") == own
    assert fingerprint(make_tiny_model("bert", seed=0)) == own
    assert fingerprint(make_tiny_model("bert", seed=1)) != own
    assert len({fingerprint(tiny_model(architecture)) for architecture in ("bert", "roberta", "albert")}) == 3


def test_one_changed_weight_changes_it(tiny_model, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model())
    with torch.no_grad():
        weight = model.base_model.encoder.layer[1].output.dense.bias
        weight[3] = torch.nextafter(weight[3], weight[3] + 1)
    model.base_model.save_pretrained(tmp_path)
    assert fingerprint(tmp_path) != fingerprint(tiny_model())


def test_a_setting_of_the_config_changes_it_and_what_a_task_sets_does_not(tiny_model, tmp_path):
    def with_values(name, **values):
        folder = shutil.copytree(tiny_model(), tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))
        return fingerprint(folder)

    own = fingerprint(tiny_model())
    assert with_values("heads", num_attention_heads=4) != own  # the same weights, another model
    assert with_values("activation", hidden_act="relu") != own
    assert with_values("labels", id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}) == own
    assert with_values("version", transformers_version="4.0.0", architectures=None) == own


def test_the_head_that_is_drawn_anew_is_left_out(tiny_model):
    torch.manual_seed(1)
    first = fingerprint(tiny_model())
    torch.manual_seed(2)
    assert fingerprint(tiny_model()) == first


def test_a_trained_head_is_taken_where_it_fits_and_drawn_anew_where_not(tiny_model, tiny_jobs, tmp_path):
    """A model that was fine-tuned on three classes can be fine-tuned on two."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model(), num_labels=3)
    model.save_pretrained(tmp_path / "nli")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "nli")
    assert fingerprint(tmp_path / "nli") != fingerprint(tiny_model())  # with its own labels the head counts
    (job,) = tiny_jobs(tmp_path / "study", seeds=(1,), model=str(tmp_path / "nli"), max_steps=1)
    (plain,) = tiny_jobs(tmp_path / "study", seeds=(1,), max_steps=1)
    assert job.model_fingerprint == plain.model_fingerprint

    from hf_stability.study.run import run_job

    assert run_job(job, tmp_path / "run").steps == 1


@pytest.mark.parametrize("keep", [0, 4, 100, -1000], ids=["empty", "junk", "header cut", "tensors cut"])
def test_damaged_weights_are_refused_in_one_line(tiny_model, tmp_path, keep):
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match="--model_name_or_path .*the weights do not load: ") as error:
        fingerprint(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_size_than_the_config_says_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(InputError, match="bert.encoder.layer.0.intermediate.dense.* has not the size"):
        fingerprint(folder)


def test_weights_of_another_kind_of_model_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("albert"), tmp_path / "model")
    shutil.copy(Path(tiny_model("bert")) / "config.json", folder)
    with pytest.raises(InputError, match="--model_name_or_path "):
        fingerprint(folder)


def test_the_real_model_loads_and_is_known(minilm):
    assert fingerprint(minilm) == fingerprint(minilm)
    assert prepare.load_config(minilm).num_hidden_layers == 6


# --- weights saved in half precision ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def half_model(tiny_model, tmp_path_factory):
    """The tiny model, saved in float16 as microsoft/deberta-v3-base is."""
    folder = tmp_path_factory.mktemp("half")
    AutoModel.from_pretrained(tiny_model(), dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(folder)
    assert AutoModel.from_pretrained(folder).dtype == torch.float16  # what transformers makes of it
    return str(folder)


def trained_weights(job, folder) -> tuple[torch.Tensor, torch.Tensor]:
    """All weights of a job's model before and after its training."""
    trainer = make_trainer(job, training_arguments(job, folder))
    before = toy.weights(trainer.call_model_init())
    trainer.train()
    return before, toy.weights(trainer)


@pytest.mark.parametrize("dtype", prepare.DTYPES)
def test_a_study_trains_in_the_dtype_that_is_asked_for_float32_by_default(half_model, tiny_jobs, tmp_path, dtype):
    asked = {} if dtype == "float32" else {"dtype": dtype}
    (job,) = tiny_jobs(tmp_path, ["mosbach2021"], [1], half_model, max_steps=3, learning_rate=1e-6, **asked)
    before, after = trained_weights(job, tmp_path / "run")
    assert before.dtype == after.dtype == getattr(torch, dtype)
    moved = float((before != after).float().mean())
    assert moved > 0.9 if dtype == "float32" else moved < 0.6  # small updates are lost


def test_float32_is_no_part_of_a_jobs_identity_and_half_precision_is(half_model, tiny_jobs, tmp_path):
    ids = {dtype: tiny_jobs(tmp_path, seeds=(1,), model=half_model, dtype=dtype)[0].id for dtype in prepare.DTYPES}
    assert len(set(ids.values())) == 3
    assert ids["float32"] == tiny_jobs(tmp_path, seeds=(1,), model=half_model)[0].id


def test_weights_have_one_fingerprint_in_whatever_dtype_they_are_saved(half_model, tiny_model, tmp_path):
    AutoModel.from_pretrained(half_model, dtype=torch.float32).save_pretrained(tmp_path)
    assert fingerprint(tmp_path) == fingerprint(half_model) != fingerprint(tiny_model())


@pytest.mark.parametrize(
    ("asked", "saved", "found", "warned"),
    [
        ("float32", "half", "float32", False),
        ("auto", "half", "float16", True),
        ("auto", "whole", "float32", False),
        ("bfloat16", "whole", "bfloat16", True),
    ],
)
def test_half_precision_is_warned_of_before_the_runs(half_model, tiny_model, caplog, asked, saved, found, warned):
    model = half_model if saved == "half" else tiny_model()
    assert prepare.weights_dtype(asked, model, prepare.load_config(model)) == found
    assert caplog.text.count(f"--dtype {asked}: ") == warned
    assert ("trainable weights are" in caplog.text and "The default, --dtype float32" in caplog.text) == warned


def test_float16_weights_with_fp16_are_refused(tiny_model):
    config = prepare.load_config(tiny_model())
    with pytest.raises(InputError, match="--dtype float16 with --fp16: .* leave --dtype out"):
        prepare.weights_dtype("float16", tiny_model(), config, ["no", "fp16"])
    assert prepare.weights_dtype("float32", tiny_model(), config, ["fp16"]) == "float32"


# --- the data's fingerprint ------------------------------------------------------------------------------------------


SINGLE = Task("single", ("sentence",), ("no", "yes"), ("accuracy",))
REGRESSION = Task("score", ("sentence",), None, ("pearson",))


def tokenized(ids: list[list[int]], labels: list, dev: list[list[int]] | None = None, **columns) -> TokenizedData:
    train = Dataset.from_dict({"input_ids": ids, "label": labels, **columns})
    rows = dev if dev is not None else ids
    validation = Dataset.from_dict({"input_ids": rows, "label": [0] * len(rows)})
    return TokenizedData(SINGLE, train, {"validation": validation}, 0.0)


sequences = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4)


@settings(deadline=None)
@given(sequences, sequences, st.randoms())
def test_tokens_are_told_apart_exactly_where_they_differ(first, second, random):
    first_labels, second_labels = ([random.randint(0, 1) for _ in part] for part in (first, second))
    same = (first, first_labels) == (second, second_labels)
    data = tokenized(first, first_labels, []), tokenized(second, second_labels, [])
    assert (prepare.fingerprint_tokens(data[0]) == prepare.fingerprint_tokens(data[1])) == same


def test_every_split_and_column_counts():
    plain = prepare.fingerprint_tokens(tokenized([[1, 2], [3]], [0, 1]))
    assert plain == prepare.fingerprint_tokens(tokenized([[1, 2], [3]], [0, 1]))
    assert plain != prepare.fingerprint_tokens(tokenized([[1, 2], [3]], [0, 1], dev=[[1, 2]]))
    assert plain != prepare.fingerprint_tokens(tokenized([[1, 2], [3]], [0, 1], token_type_ids=[[0, 0], [0]]))
    assert plain != prepare.fingerprint_tokens(tokenized([[1], [2, 3]], [0, 1]))


def test_saved_data_have_the_same_fingerprint(tmp_path):
    data = tokenized([[1, 2], [3]], [0, 1])
    data.save(tmp_path / "data")
    assert prepare.fingerprint_tokens(TokenizedData.load(tmp_path / "data")) == prepare.fingerprint_tokens(data)


# --- settings --------------------------------------------------------------------------------------------------------


def test_values_given_as_the_recipe_has_them_are_the_same_jobs(tiny_jobs, tmp_path):
    recipe = load_recipe("devlin2019")
    plain = tiny_jobs(tmp_path, seeds=(1,))[0]
    given = tiny_jobs(tmp_path, seeds=(1,), **recipe.args)[0]
    assert given.id == plain.id and given.sources != plain.sources


def test_every_name_a_study_keeps_to_itself_is_one_of_the_trainers():
    assert set(prepare.OWN_ARGS) - set(argument_types()) <= {"push_to_hub"}
    for name in prepare.OWN_ARGS:
        with pytest.raises(InputError, match=f"--{name}.*not in a study"):
            prepare.check_given({name: "secret"})


def test_a_token_is_not_repeated():
    with pytest.raises(InputError) as error:
        prepare.check_given({"hub_token": "secret"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_strategy": "steps"}, "--eval_strategy steps: give --eval_steps"),
        ({"per_device_eval_batch_size": 0}, "--per_device_eval_batch_size 0: give 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0: give 1 or more"),
        ({"learning_rate": -1e-5}, "--learning_rate -1e-05"),
        ({"learning_rate": float("nan")}, "--learning_rate nan"),
        ({"num_train_epochs": 0.0}, "--num_train_epochs 0.0: no training"),
    ],
)
def test_what_no_run_could_start_with_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        prepare.resolved_settings(load_recipe("mosbach2021"), "bert", {}, given)


def test_more_layers_to_draw_anew_than_the_model_has_are_refused_before_any_run(tiny_jobs, tmp_path):
    with pytest.raises(InputError, match="--reinit_layers 9: this bert has"):
        tiny_jobs(tmp_path, reinit_layers=9)
    assert tiny_jobs(tmp_path, reinit_layers=1)[0].args["reinit_layers"] == 1


def test_what_a_run_can_start_with_is_not_refused():
    for values in ({"eval_strategy": "steps", "eval_steps": 5}, {"num_train_epochs": 0.0, "max_steps": 1}):
        resolved = prepare.resolved_settings(load_recipe("mosbach2021"), "bert", {}, values)
        assert {name: resolved.args[name].value for name in values} == values


@pytest.mark.parametrize(
    ("name", "architecture", "task", "message"),
    [
        ("devlin2019+reinit", "albert", SINGLE, "--reinit_layers: albert uses one layer many times over"),
        ("devlin2019+r_drop", "albert", SINGLE, "--r_drop 1.0: this AlbertForSequenceClassification has no dropout"),
        ("devlin2019+r_drop", "bert", REGRESSION, "--r_drop 1.0: score is a regression"),
        ("devlin2019+r3f", "bert", REGRESSION, "--r3f 1.0: score is a regression"),
    ],
)
def test_what_a_method_would_refuse_in_every_run_is_refused_before(name, architecture, task, message, tiny_model):
    recipe, model = load_recipe(name), tiny_model(architecture)
    settings = prepare.resolved_settings(recipe, architecture, {}, {})
    with pytest.raises(InputError, match=message):
        prepare.job_values(recipe, model, prepare.load_config(model), task, settings.args)
    settings = prepare.resolved_settings(load_recipe("devlin2019"), architecture, {}, {})
    prepare.job_values(load_recipe("devlin2019"), model, prepare.load_config(model), task, settings.args)


@pytest.mark.parametrize("name", ["devlin2019", "devlin2019+mixout"])
def test_mixout_on_top_of_dropout_is_said(name, tiny_model, caplog):
    recipe, model = load_recipe(name), tiny_model()
    settings = prepare.resolved_settings(recipe, "bert", {}, {"mixout": 0.7})
    prepare.job_values(recipe, model, prepare.load_config(model), SINGLE, settings.args)
    said = (
        "--mixout 0.7: it is to take hidden dropout's place, and the model has hidden_dropout_prob 0.1" in caplog.text
    )
    assert said == (name == "devlin2019")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_a_folder_without_its_tokenizer_is_refused(tiny_model, tmp_path, architecture):
    """transformers 5 makes a tokenizer of five special tokens of it, and every text is unknown words."""
    folder = shutil.copytree(tiny_model(architecture), tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="--tokenizer_name .*no tokenizer there"):
        prepare.load_tokenizer(str(folder))


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    """As if the network was wanted; nothing of it is left afterwards."""
    monkeypatch.setattr(prepare.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def test_without_network_the_libraries_are_told_to_use_the_cache(online, monkeypatch):
    def fails(*args, timeout, **kwargs):
        assert timeout == prepare.HUB_TIMEOUT_S
        raise OSError("no route to host")

    monkeypatch.setattr(prepare.HfApi, "model_info", fails)
    with pytest.raises(InputError, match="--model_name_or_path no-such-model: not to be had from the hub"):
        prepare.load_config("no-such-model")
    assert prepare.constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_folder_asks_nobody(online, monkeypatch, tiny_model):
    def fails(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(prepare.HfApi, "model_info", fails)
    prepare.load_config(tiny_model())
    prepare.load_tokenizer(tiny_model())
    assert not prepare.constants.HF_HUB_OFFLINE


def test_a_model_type_without_a_part_keeps_its_own_values_and_says_so(caplog):
    recipe = load_recipe("devlin2019")
    values = prepare._known_to(toy.CONFIGS["distilbert"], recipe, resolve_model_config(recipe, "distilbert"))
    assert not values and "distilbert" in caplog.text and "hidden_dropout_prob" in caplog.text
    values = prepare._known_to(toy.CONFIGS["electra"], recipe, resolve_model_config(recipe, "electra"))
    assert set(values) == {"hidden_dropout_prob", "attention_probs_dropout_prob"}


@pytest.mark.parametrize(
    "text", ["model_config: {classifier_dropout: 0.2}", "grid: {model_config.classifier_dropout: [0.2]}"]
)
def test_what_a_part_for_all_model_types_sets_is_not_left_out(tmp_path, text, caplog):
    """It would change nothing: the config has no such field, which is an error later."""
    from tests import toy

    (tmp_path / "more.yaml").write_text(text)
    recipe = load_recipe(f"devlin2019+{tmp_path / 'more.yaml'}")
    values = prepare._known_to(toy.CONFIGS["distilbert"], recipe, resolve_model_config(recipe, "distilbert"))
    assert set(values) == {"classifier_dropout"} and "hidden_dropout_prob" in caplog.text
