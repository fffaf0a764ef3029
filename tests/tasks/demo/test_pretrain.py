from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from hf_stability.errors import InputError
from hf_stability.tasks.demo import grammar, pretrain
from hf_stability.tasks.demo.data import DEMO_TASKS, demo_model_path, pretraining_pairs
from hf_stability.tasks.demo.model import ARCHITECTURES, build_tokenizer
from hf_stability.tasks.demo.pretrain import IGNORED


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SMALL_RUN = {"steps": 4, "batch_size": 4, "checkpoint_every": 2}


@pytest.fixture(autouse=True)
def few_heldout_pairs(monkeypatch):
    monkeypatch.setattr(pretrain, "HELDOUT_PAIRS", 16)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def trained(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    pretrain.pretrain(request.param, folder, **SMALL_RUN, **TINY)
    return request.param, folder


def test_a_pretrained_folder_loads_for_both_uses_without_missing_weights(trained, splits):
    _, folder = trained
    _, loading = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["mismatched_keys"]
    model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert all(key.startswith("classifier.") for key in loading["missing_keys"])
    assert not loading["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = splits["demo_pair"]["validation"][:8]
    inputs = tokenizer(
        [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], padding=True, return_tensors="pt"
    )
    assert model.eval()(**inputs).logits.shape == (8, 2)


def test_the_saved_config_is_the_one_for_fine_tuning(trained):
    architecture, folder = trained
    config = AutoConfig.from_pretrained(folder)
    assert config.initializer_range == 0.02
    assert config.hidden_dropout_prob == (0.0 if architecture == "albert" else 0.1)
    assert config.model_type == architecture


def test_the_report_says_what_was_run(trained):
    architecture, folder = trained
    report = json.loads((folder / "pretraining.json").read_text())
    assert report["steps"] == 4 and report["seed"] == 0 and report["architecture"] == architecture
    assert {"masked_lm_loss", "masked_lm_accuracy", "masked_lm_baseline", "minutes", "versions"} <= set(report)
    assert ("pair_accuracy" in report) == (architecture != "roberta")
    assert not (folder / "checkpoint.pt").exists()


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("stop_in_step", [2, 3])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, monkeypatch, architecture, stop_in_step):
    pretrain.pretrain(architecture, tmp_path / "whole", **SMALL_RUN, **TINY)

    real_batch = pretrain.text_batch

    def interrupting_batch(seed: int, step: int, *more):
        if step == stop_in_step:
            raise KeyboardInterrupt
        return real_batch(seed, step, *more)

    monkeypatch.setattr(pretrain, "text_batch", interrupting_batch)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(architecture, tmp_path / "parts", **SMALL_RUN, **TINY)
    assert not (tmp_path / "parts" / "model.safetensors").exists()

    resumed_at = []
    monkeypatch.setattr(
        pretrain, "text_batch", lambda seed, step, *more: resumed_at.append(step) or real_batch(seed, step, *more)
    )
    pretrain.pretrain(architecture, tmp_path / "parts", **SMALL_RUN, **TINY)
    assert resumed_at == [2, 3]
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_process_resumes_bitwise(tmp_path):
    """SIGKILL in mid-training, then the same call again; beside it one that was never killed."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "from hf_stability.tasks.demo import pretrain\n"
        "torch.set_num_threads(1)\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"pretrain.pretrain('bert', sys.argv[1], steps=300, batch_size=4, checkpoint_every=20, **{TINY})\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "checkpoint.pt").exists() and process.poll() is None:
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists(), "the process was done before it was killed"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("killed", "whole"):
            pretrain.pretrain("bert", tmp_path / name, steps=300, batch_size=4, checkpoint_every=1000, **TINY)
    finally:
        torch.set_num_threads(threads)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "write_atomically", lambda state, path: (torch.save(state, path), stop()))
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain("bert", tmp_path, **SMALL_RUN, **TINY)
    with pytest.raises(InputError, match=r"checkpoint\.pt belongs to a run with other settings"):
        pretrain.pretrain("bert", tmp_path, seed=1, **SMALL_RUN, **TINY)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    pretrain.write_atomically({"step": 1}, path)

    def half_a_write(state, file):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_a_write)
    with pytest.raises(OSError, match="disk full"):
        pretrain.write_atomically({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_unknown_architecture_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="give one of bert, roberta, albert"):
        pretrain.pretrain("gpt", tmp_path)


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        pretrain.main(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("about 20 minutes", "give it again", "(default: 9000)", "sentence pairs per update step"):
        assert words in shown


@given(st.integers(1, 5000), st.data())
def test_learning_rate_rises_to_the_peak_and_falls_to_nothing(steps, drawn):
    step = drawn.draw(st.integers(0, steps - 1))
    rate = pretrain.learning_rate_at(step, steps, 1e-3)
    assert 0 < rate <= 1e-3
    warmup = max(1, int(0.1 * steps))
    assert pretrain.learning_rate_at(warmup - 1, steps, 1e-3) == pytest.approx(1e-3)
    if step + 1 < steps:
        after = pretrain.learning_rate_at(step + 1, steps, 1e-3)
        assert after > rate if step + 1 < warmup else after <= rate


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_masking(architecture):
    tokenizer = build_tokenizer(architecture)
    family = ARCHITECTURES[architecture]
    pairs = pretraining_pairs(0, 400)
    inputs = pretrain.model_inputs(pairs, tokenizer, architecture, torch.Generator().manual_seed(0))
    masked = inputs["labels"] != IGNORED
    is_word = inputs["attention_mask"].bool() & (inputs["input_ids"] >= len(family.special_tokens))
    shown = inputs["input_ids"][masked]
    shares = {
        "of words": masked.sum() / (is_word | masked).sum(),
        "mask": (shown == tokenizer.mask_token_id).float().mean(),
        "kept": (shown == inputs["labels"][masked]).float().mean(),
    }
    assert shares["of words"] == pytest.approx(0.15, abs=0.02)
    assert shares["mask"] == pytest.approx(0.8, abs=0.05)
    assert shares["kept"] == pytest.approx(0.1, abs=0.04)
    assert inputs["labels"][masked].min() >= len(family.special_tokens)
    if family.pair_label:
        assert inputs[family.pair_label].float().mean() == pytest.approx(0.5, abs=0.1)


def test_sentence_order_is_what_albert_learns():
    tokenizer = build_tokenizer("albert")
    pair = {"text_a": "the dog sleeps.", "text_b": "a cat is red.", "label": 0}
    orders = set()
    for seed in range(20):
        inputs = pretrain.model_inputs([pair], tokenizer, "albert", torch.Generator().manual_seed(seed))
        original = torch.where(inputs["labels"] == IGNORED, inputs["input_ids"], inputs["labels"])
        words = tokenizer.decode(original[0], skip_special_tokens=True)
        orders.add((words, inputs["sentence_order_label"].item()))
    assert orders == {("the dog sleeps . a cat is red .", 0), ("a cat is red . the dog sleeps .", 1)}


def test_a_step_of_text_depends_on_seed_and_step_alone():
    batch = pretrain.text_batch(3, 17, 4)
    pretrain._chunk.cache_clear()
    assert pretrain.text_batch(3, 17, 4) == batch
    assert pretrain.text_batch(3, 18, 4) != batch
    assert pretrain.text_batch(4, 17, 4) != batch
    assert {pair["label"] for step in range(16) for pair in pretrain.text_batch(3, step, 4)} == {0, 1}


@pytest.mark.parametrize("architecture", ["roberta", "albert"])
def test_models_that_are_not_asked_whether_sentences_belong_together_see_those_that_do(architecture):
    assert {pair["label"] for step in range(16) for pair in pretrain.text_batch(3, step, 4, architecture)} == {0}


def test_bert_tokenizer_marks_the_second_sentence(trained):
    architecture, folder = trained
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("the dog sleeps.", "a cat is red.")
    tokens = " ".join(tokenizer.convert_ids_to_tokens(encoded["input_ids"]))
    if architecture == "roberta":
        assert tokens == "<s> the dog sleeps . </s> </s> a cat is red . </s>"
        assert "token_type_ids" not in encoded
    else:
        assert tokens == "[CLS] the dog sleeps . [SEP] a cat is red . [SEP]"
        assert encoded["token_type_ids"] == [0] * 6 + [1] * 6
    assert tokenizer.model_max_length == 64


@given(seed=st.integers(0, 2**32))
def test_tokenizer_round_trip(seed):
    line = grammar.text(grammar.draw_sentence(random.Random(seed)))
    tokenizer = build_tokenizer("bert")
    ids = tokenizer(line)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == line.replace(".", " .")
    assert tokenizer(tokenizer.decode(ids, skip_special_tokens=True))["input_ids"] == ids


@pytest.mark.parametrize("name", list(DEMO_TASKS))
def test_no_split_has_an_unknown_word_or_a_text_too_long(splits, name):
    tokenizer = build_tokenizer("bert")
    columns = DEMO_TASKS[name].text_columns
    for rows in splits[name].values():
        encoded = tokenizer(*[[row[column] for row in rows] for column in columns])["input_ids"]
        assert all(tokenizer.unk_token_id not in ids for ids in encoded)
        assert max(map(len, encoded)) <= 64


# The bundled model


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_a_bundled_model_is_what_its_report_says(architecture, monkeypatch):
    folder = Path(demo_model_path(architecture))
    said = json.loads((folder / "pretraining.json").read_text())
    monkeypatch.setattr(pretrain, "HELDOUT_PAIRS", said["heldout_pairs"])
    model = getattr(transformers, ARCHITECTURES[architecture].model_class).from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == build_tokenizer(architecture).get_vocab()
    assert model.config.model_type == architecture == said["architecture"]
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (12, 64)
    assert sum(value.numel() for value in model.parameters()) == said["parameters"]
    for name, figure in pretrain.evaluate(model, tokenizer, architecture).items():
        assert figure == pytest.approx(said[name], abs=2e-3), name  # another machine rounds otherwise
    assert said["masked_lm_accuracy"] > 2 * said["masked_lm_baseline"]


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_the_bundled_files_are_small(architecture):
    assert sum(path.stat().st_size for path in Path(demo_model_path(architecture)).iterdir()) < 4_000_000
