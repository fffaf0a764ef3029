"""From what is asked for to jobs: seeds, fingerprints, settings."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, GPT2Config

from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe
from hf_stability.recipe.arguments import argument_types
from hf_stability.recipe.resolve import resolve_model_config
from hf_stability.study import prepare, pretrained
from hf_stability.tasks.load import TokenizedData
from hf_stability.tasks.task import Task
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


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
        ("0", "--seeds 0: means no run"),
        ("x", "--seeds x: give a count"),
        ("-3", "--seeds -3: give a count"),
        ("3-", "--seeds 3-: give a count"),
        ("1-2-3", "--seeds 1-2-3: give a count"),
        ("1.5", "--seeds 1.5: give a count"),
        ("²", "--seeds ²: give a count"),
        ("٣", "--seeds ٣: give a count"),
        ("5-2", "--seeds 5-2: the range is empty"),
        ("3 3", "--seeds 3 3: 3 is given twice"),
        ("9 1-3 2-4", "--seeds 9 1-3 2-4: 2 is given twice"),
        ("20260101", "--seeds 20260101: means 20260101 runs"),
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
        with pytest.raises(InputError, match="is given twice"):
            prepare.parse_seeds(words)
    else:
        assert prepare.parse_seeds(words) == expected


@given(st.integers(1, 3000))
def test_a_count_counts_from_one(count):
    seeds = prepare.parse_seeds([str(count)])
    assert len(seeds) == len(set(seeds)) == max(seeds) == count and min(seeds) == 1


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
        with pytest.raises(InputError, match=f"--{name}.*not allowed in a study"):
            prepare.check_given({name: "secret"})


def test_a_token_is_not_repeated():
    with pytest.raises(InputError) as error:
        prepare.check_given({"hub_token": "secret"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eval_strategy": "steps"}, "--eval_strategy steps: also give --eval_steps"),
        ({"per_device_eval_batch_size": 0}, "--per_device_eval_batch_size 0: give 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps 0: give 1 or more"),
        ({"learning_rate": -1e-5}, "--learning_rate -1e-05"),
        ({"learning_rate": float("nan")}, "--learning_rate nan"),
        ({"num_train_epochs": 0.0}, "--num_train_epochs 0.0: trains nothing"),
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
        prepare.job_values(recipe, model, pretrained.load_config(model), task, settings.args)
    settings = prepare.resolved_settings(load_recipe("devlin2019"), architecture, {}, {})
    prepare.job_values(load_recipe("devlin2019"), model, pretrained.load_config(model), task, settings.args)


def test_the_packed_step_is_part_of_the_id_and_refused_before_any_run(tiny_jobs, tmp_path):
    packed, other = (tiny_jobs(tmp_path, **values)[0] for values in ({"step": "packed"}, {}))
    assert packed.args["step"] == "packed" and packed.id != other.id
    recipe, model = load_recipe("devlin2019"), str(tmp_path / "distilbert")
    config = toy.config("distilbert")
    config.save_pretrained(model)
    settings = prepare.resolved_settings(recipe, "distilbert", {}, {"step": "packed"})
    with pytest.raises(InputError, match="--step packed: a distilbert model has no packed step; bert, roberta"):
        prepare.job_values(recipe, model, config, SINGLE, settings.args)


@pytest.mark.parametrize("name", ["devlin2019", "devlin2019+mixout"])
def test_mixout_on_top_of_dropout_is_said(name, tiny_model, caplog):
    recipe, model = load_recipe(name), tiny_model()
    settings = prepare.resolved_settings(recipe, "bert", {}, {"mixout": 0.7})
    prepare.job_values(recipe, model, pretrained.load_config(model), SINGLE, settings.args)
    said = "--mixout 0.7: Mixout replaces hidden dropout, but this model has hidden_dropout_prob 0.1" in caplog.text
    assert said == (name == "devlin2019")


def test_a_model_type_without_a_part_keeps_its_own_values_and_says_so(caplog):
    recipe = load_recipe("devlin2019")
    values = prepare._known_to(GPT2Config(), recipe, resolve_model_config(recipe, "gpt2"))
    assert not values and "gpt2" in caplog.text and "hidden_dropout_prob" in caplog.text
    values = prepare._known_to(toy.CONFIGS["electra"], recipe, resolve_model_config(recipe, "electra"))
    assert set(values) == {"hidden_dropout_prob", "attention_probs_dropout_prob"}


@pytest.mark.parametrize(
    ("model_type", "fields"), [("distilbert", {"dropout": 0.1, "attention_dropout": 0.1}), ("modernbert", {})]
)
def test_a_model_type_with_a_part_gets_the_fields_that_it_has(model_type, fields, caplog):
    recipe = load_recipe("mosbach2021")
    config = AutoConfig.for_model(model_type)
    values = prepare._known_to(config, recipe, resolve_model_config(recipe, model_type))
    assert {name: r.value for name, r in values.items()} == fields and not caplog.text
    assert {r.source for r in values.values()} <= {f"recipe devlin2019, {model_type}"}


def test_a_recipe_without_values_for_a_model_type_says_that_its_common_ones_count(tmp_path):
    (tmp_path / "own.yaml").write_text("args: {weight_decay: 0.5}")
    recipes = [load_recipe(name) for name in ("mosbach2021", str(tmp_path / "own.yaml"), "transformers_default")]
    said = "mosbach2021 has no values for xlm-roberta models: its common ones count"
    assert prepare.common_values_notes(recipes, "xlm-roberta") == [said]
    for model_type in ("bert", "roberta", "albert", "electra", "deberta-v2", "distilbert", "modernbert"):
        assert prepare.common_values_notes(recipes, model_type) == []


@pytest.mark.parametrize(
    "text", ["model_config: {classifier_dropout: 0.2}", "grid: {model_config.classifier_dropout: [0.2]}"]
)
def test_what_a_part_for_all_model_types_sets_is_not_left_out(tmp_path, text, caplog):
    """It would change nothing: the config has no such field, which is an error later."""
    (tmp_path / "more.yaml").write_text(text)
    recipe = load_recipe(f"devlin2019+{tmp_path / 'more.yaml'}")
    values = prepare._known_to(GPT2Config(), recipe, resolve_model_config(recipe, "gpt2"))
    assert set(values) == {"classifier_dropout"} and "hidden_dropout_prob" in caplog.text
