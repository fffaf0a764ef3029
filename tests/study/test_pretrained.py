"""The pretrained model: its fingerprint, half precision, the hub."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hf_stability.errors import InputError
from hf_stability.study import pretrained
from hf_stability.study.run import make_trainer, training_arguments
from tests import toy


# --- the model's fingerprint -----------------------------------------------------------------------------------------


def fingerprint(folder) -> str:
    return pretrained.fingerprint_model(str(folder), pretrained.load_config(str(folder)))


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
    with pytest.raises(InputError, match="--model_name_or_path .*the weights cannot be loaded: ") as error:
        fingerprint(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_size_than_the_config_says_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(
        InputError, match="the size of bert.encoder.layer.0.intermediate.dense.* does not match config.json"
    ):
        fingerprint(folder)


def test_weights_of_another_kind_of_model_are_refused(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model("albert"), tmp_path / "model")
    shutil.copy(Path(tiny_model("bert")) / "config.json", folder)
    with pytest.raises(InputError, match="--model_name_or_path "):
        fingerprint(folder)


def test_the_real_model_loads_and_is_known(minilm):
    assert fingerprint(minilm) == fingerprint(minilm)
    assert pretrained.load_config(minilm).num_hidden_layers == 6


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


@pytest.mark.parametrize("dtype", pretrained.DTYPES)
def test_a_study_trains_in_the_dtype_that_is_asked_for_float32_by_default(half_model, tiny_jobs, tmp_path, dtype):
    asked = {} if dtype == "float32" else {"dtype": dtype}
    (job,) = tiny_jobs(tmp_path, ["mosbach2021"], [1], half_model, max_steps=3, learning_rate=1e-6, **asked)
    before, after = trained_weights(job, tmp_path / "run")
    assert before.dtype == after.dtype == getattr(torch, dtype)
    moved = float((before != after).float().mean())
    assert moved > 0.9 if dtype == "float32" else moved < 0.6  # small updates are lost


def test_float32_is_no_part_of_a_jobs_identity_and_half_precision_is(half_model, tiny_jobs, tmp_path):
    ids = {dtype: tiny_jobs(tmp_path, seeds=(1,), model=half_model, dtype=dtype)[0].id for dtype in pretrained.DTYPES}
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
    assert pretrained.weights_dtype(asked, model, pretrained.load_config(model)) == found
    assert caplog.text.count(f"--dtype {asked}: ") == warned
    assert ("trainable weights are" in caplog.text and "The default, --dtype float32" in caplog.text) == warned


def test_float16_weights_with_fp16_are_refused(tiny_model):
    config = pretrained.load_config(tiny_model())
    with pytest.raises(InputError, match="--dtype float16 with --fp16: .* leave out --dtype"):
        pretrained.weights_dtype("float16", tiny_model(), config, ["no", "fp16"])
    assert pretrained.weights_dtype("float32", tiny_model(), config, ["fp16"]) == "float32"


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_a_folder_without_its_tokenizer_is_refused(tiny_model, tmp_path, architecture):
    """transformers 5 makes a tokenizer of five special tokens of it, and every text is unknown words."""
    folder = shutil.copytree(tiny_model(architecture), tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer in .*; give --tokenizer_name"):
        pretrained.load_tokenizer(str(folder))


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch):
    """As if the network was wanted; nothing of it is left afterwards."""
    monkeypatch.setattr(pretrained.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")


def test_without_network_the_libraries_are_told_to_use_the_cache(online, monkeypatch):
    def fails(*args, timeout, **kwargs):
        assert timeout == pretrained.HUB_TIMEOUT_S
        raise OSError("no route to host")

    monkeypatch.setattr(pretrained.HfApi, "model_info", fails)
    with pytest.raises(
        InputError, match="--model_name_or_path no-such-model: no such folder, and not available from the hub"
    ):
        pretrained.load_config("no-such-model")
    assert pretrained.constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_folder_asks_nobody(online, monkeypatch, tiny_model):
    def fails(*args, **kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(pretrained.HfApi, "model_info", fails)
    pretrained.load_config(tiny_model())
    pretrained.load_tokenizer(tiny_model())
    assert not pretrained.constants.HF_HUB_OFFLINE
