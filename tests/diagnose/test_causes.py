"""Each cause of a failed run: values that show it, values that do not, and too few to look."""

import inspect

import numpy as np
import pytest
import torch
import transformers

from hf_stability.diagnose import causes
from hf_stability.diagnose.causes import CHECKS, find, run_checks
from hf_stability.diagnose.finding import LIKELIHOODS, Finding
from hf_stability.diagnose.words import WORDS
from hf_stability.errors import InputError
from hf_stability.methods.adamw import effective_step_factor


EVEN = np.tile([0, 1], 50)


def labels(*counts):
    return np.repeat(np.arange(len(counts)), counts)


def schedule(peak=2e-5, total=468, warmup=47, bias_correction=True):
    """The Trainer's linear schedule, and the rates at which corrected steps would be as large."""
    steps = np.arange(1, total + 1)
    rates = [peak * min((t - 1) / max(1, warmup), (total - t + 1) / max(1, total - warmup)) for t in steps]
    corrected = rates if bias_correction else rates / effective_step_factor(steps)
    return {
        "rate_steps": steps,
        "rates": np.array(rates),
        "corrected_rates": corrected,
        "bias_correction": bias_correction,
    }


class OwnBertTokenizer(transformers.BertTokenizer):
    pass


VANISHED = {"lasting": True, "layers": ["layer_00", "layer_01"], "first_step": 40, "healed_step": None}
STUCK = {"optimisation": "stuck", "train_loss": 0.69, "constant_loss": 0.69}
LEARNED = {"optimisation": "learned", "train_loss": 0.1, "constant_loss": 0.69}
MEMORIZED = {"learned": True, "score": 1.0, "steps": 40, "rate": 5e-5, "examples": 32, "regression": False}
NORMS = np.ones((50, 4))
LAYERS = ["embeddings", "layer_00", "layer_01", "classifier"]
ALARM = {"step": 30, "total_steps": 100, "risk": 0.9}

ADAPTERS = {"trainable": {"layer_00": 1}, "frozen": {"layer_00": 9, "classifier": 1, "pooler": 1}, "adapters": "LORA"}

# check, values, how likely, what the sentence says
CASES = {
    # labels
    "in order": ("labels", {"train_labels": EVEN, "dev_labels": EVEN, "num_labels": 2}, "unlikely", "agree"),
    "id too large": (
        "labels",
        {"train_labels": labels(5, 5, 3), "dev_labels": EVEN, "num_labels": 2},
        "likely",
        "3 of 13 train labels are not one of the model's 2 classes (ids 2)",
    ),
    "negative id": ("labels", {"dev_labels": np.array([-5, 0, 1])}, "likely", "1 of 3 dev labels are not a class id"),
    "hidden labels": (
        "labels",
        {"train_labels": EVEN, "dev_labels": np.full(9, -1), "num_labels": 2},
        "likely",
        "All dev labels are -1: hidden",
    ),
    "ignored labels": ("labels", {"train_labels": np.full(9, -100)}, "likely", "All train labels are -100"),
    "some ignored": ("labels", {"train_labels": np.array([0, 1, -100]), "num_labels": 2}, "unlikely", "agree"),
    "one class": ("labels", {"train_labels": np.zeros(9, int)}, "likely", "All train labels are of one class"),
    "class of dev alone": (
        "labels",
        {"train_labels": EVEN, "dev_labels": labels(3, 3, 4), "num_labels": 3},
        "likely",
        "Some classes of dev do not occur in train (ids 2)",
    ),
    "names in another order": (
        "labels",
        {"train_labels": EVEN, "train_names": ["no", "yes"], "dev_names": ["yes", "no"]},
        "likely",
        "Train and dev list the classes in different orders: no, yes against yes, no",
    ),
    "other names": (
        "labels",
        {"train_labels": EVEN, "train_names": ["no", "yes"], "dev_names": ["0", "1"]},
        "likely",
        "Train and dev have different class names: no, yes against 0, 1",
    ),
    "a model of another task": (
        "labels",
        {"train_labels": EVEN, "num_labels": 2, "train_names": ("no", "yes"), "model_names": ["bad", "good"]},
        "possible",
        "id2label names other classes: bad, good. The data have: no, yes. Is its head from another task?",
    ),
    "a model of the same task": (
        "labels",
        {"train_labels": EVEN, "num_labels": 2, "train_names": ("no", "yes"), "model_names": ["Yes", "No"]},
        "possible",
        "id2label lists the classes in another order: Yes, No. The data have: no, yes",
    ),
    "another model's head of another size is new": (
        "labels",
        {"train_labels": EVEN, "num_labels": 2, "train_names": ("no", "yes"), "model_names": ["a", "b", "c"]},
        "unlikely",
        "agree",
    ),
    # class shares
    "even": ("class shares", {"train_labels": EVEN, "dev_labels": EVEN}, "unlikely", "The largest class has 50% of train and 50% of dev"),
    "one class dominates": (
        "class shares",
        {"train_labels": labels(190, 10), "dev_labels": labels(95, 5), "train_names": ("rare", "odd")},
        "possible",
        "One class dominates, so accuracy tells little. The largest class has 95% of train and 95% of dev. The majority-class baseline on dev, always "
        "'rare', has an accuracy of 0.950",
    ),
    "shares differ": (
        "class shares",
        {"train_labels": labels(400, 600), "dev_labels": labels(550, 450)},
        "possible",
        "differ by up to 15% between train and dev. The majority-class baseline on dev, always class 0, has an accuracy of 0.550",
    ),
    "shares differ much": (
        "class shares",
        {"train_labels": labels(200, 800), "dev_labels": labels(600, 400)},
        "likely",
        "differ by up to 40%",
    ),
    "shares differ by chance": (
        "class shares",
        {"train_labels": labels(400, 600), "dev_labels": labels(11, 9)},  # 15 points, of 20 examples
        "unlikely",
        "60% of train and 55% of dev",
    ),
    # truncation
    "long texts": ("truncation", {"truncated_share": 0.2, "max_seq_length": 64}, "possible", "20% of the training"),
    "very long texts": ("truncation", {"truncated_share": 0.7}, "likely", "70%"),
    "short texts": ("truncation", {"truncated_share": 0.01, "max_seq_length": 64}, "unlikely", "1% of the training"),
    # tokenizer
    "fits": (
        "tokenizer",
        {"tokenizer_size": 30522, "embedding_rows": 30522, "unknown_share": 0.001, "largest_id": 29999},
        "unlikely",
        "fits the model: 30522 tokens",
    ),
    "matrix with padding": ("tokenizer", {"tokenizer_size": 30522, "embedding_rows": 30592}, "unlikely", "fits"),
    "too many tokens": (
        "tokenizer",
        {"tokenizer_size": 50265, "embedding_rows": 30522},
        "likely",
        "The tokenizer has 50265 tokens, but the model embeds only 30522",
    ),
    "far fewer tokens": ("tokenizer", {"tokenizer_size": 28996, "embedding_rows": 30522}, "possible", "28996 tokens, but the model embeds 30522. Is it another model's"),
    "id beyond the matrix": (
        "tokenizer",
        {"largest_id": 30522, "embedding_rows": 30522, "tokenizer_size": 40000},
        "likely",
        "token id 30522, but the model has only ids 0 to 30521",
    ),
    "padding": (
        "tokenizer",
        {"tokenizer_size": 9, "tokenizer_ids": {"pad": 1, "cls": 0}, "config_ids": {"pad": 0, "cls": None}},
        "likely",
        "pad is token 1 in the tokenizer, but 0 in the model",
    ),
    "class of the tokenizer": (
        "tokenizer",
        {
            "tokenizer_size": 9,
            "tokenizer_class": transformers.RobertaTokenizer,
            "expected_class": transformers.BertTokenizer,
        },
        "possible",
        "a RobertaTokenizer, but this model goes with a BertTokenizer",
    ),
    "a special case of the class": (
        "tokenizer",
        {"tokenizer_size": 9, "tokenizer_class": OwnBertTokenizer, "expected_class": transformers.BertTokenizer},
        "unlikely",
        "fits",
    ),
    "the class it is a special case of": (
        "tokenizer",
        {"tokenizer_size": 9, "tokenizer_class": transformers.BertTokenizer, "expected_class": OwnBertTokenizer},
        "unlikely",
        "fits",
    ),
    "unknown tokens": ("tokenizer", {"unknown_share": 0.1}, "possible", "10% of the data's tokens are unknown"),
    "many unknown tokens": ("tokenizer", {"unknown_share": 0.5}, "likely", "50% of the data's tokens are unknown"),
    # weights
    "a new head": (
        "new weights",
        {"missing_weights": ["classifier.weight", "classifier.bias"], "base_prefix": "bert"},
        "unlikely",
        "Only the head is new (classifier.bias, classifier.weight)",
    ),
    "a new pooler": (
        "new weights",
        {"missing_weights": ["bert.pooler.dense.weight", "classifier.weight"], "base_prefix": "bert"},
        "unlikely",
        "The pooler is new too",
    ),
    "a new encoder": (
        "new weights",
        {"missing_weights": ["bert.encoder.layer.0.x", "bert.pooler.y", "classifier.weight"], "base_prefix": "bert"},
        "likely",
        "1 weights of the encoder are not in the pretrained files and were drawn at random (bert.encoder.layer.0.x ...)",
    ),
    "all trained": (
        "frozen weights",
        {"trainable": {"layer_00": 9, "classifier": 1}, "frozen": {}},
        "unlikely",
        "Every weight is trained",
    ),
    "all frozen": ("frozen weights", {"trainable": {}, "frozen": {"layer_00": 9}}, "likely", "Every weight is frozen"),
    "encoder frozen": (
        "frozen weights",
        {"trainable": {"classifier": 1}, "frozen": {"embeddings": 4, "layer_00": 5}},
        "likely",
        "90% of the weights are frozen (embeddings, layer_00)",
    ),
    "embeddings frozen": (
        "frozen weights",
        {"trainable": {"classifier": 1, "layer_00": 6}, "frozen": {"embeddings": 3}},
        "possible",
        "30% of the weights are frozen (embeddings)",
    ),
    "head frozen": (
        "frozen weights",
        {"trainable": {"layer_00": 9}, "frozen": {"classifier": 1}},
        "likely",
        "The head is frozen",
    ),
    "adapters": (
        "frozen weights",
        {"trainable": {"layer_00": 1}, "frozen": {"layer_00": 9}, "adapters": "LORA"},
        "unlikely",
        "adapters are trained, the rest is frozen",
    ),
    "adapters, and a new head that is frozen": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"classifier": "new", "bert.pooler.dense": "kept"}},
        "likely",
        "The head is frozen, and it was drawn at random (classifier)",
    ),
    "adapters, and a new pooler that is frozen": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"bert.pooler.dense": "new"}},
        "likely",
        "The pooler is frozen, and it was drawn at random (bert.pooler.dense)",
    ),
    "adapters on a new head": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"classifier": "adapted"}},
        "possible",
        "The head (classifier) is among the adapters' target modules, but its own weights were drawn at random. PEFT does not",
    ),
    "adapters, and a head of unknown values": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"score": "unknown"}},
        "possible",
        "The head is frozen (score). It is not known whether it was drawn at random",
    ),
    "the same head, by the pretrained files": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"score": "unknown"}, "missing_weights": ["score.weight"]},
        "likely",
        "The head is frozen, and it was drawn at random (score)",
    ),
    "adapters of a language model": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"lm_head": "loaded", "bert.pooler.dense": "kept"}},
        "unlikely",
        "adapters are trained, the rest is frozen",
    ),
    "adapters, by their files alone": ("frozen weights", {"adapters": "LORA", "frozen_parts": {}}, "unlikely", "adapters are trained"),
    "half a head frozen": (
        "frozen weights",
        {"trainable": {"layer_00": 9, "classifier": 1}, "frozen": {"classifier": 8}, "frozen_parts": {"classifier.dense": "new"}},
        "likely",
        "The head is frozen, and it was drawn at random (classifier.dense)",
    ),
    "a head as it was loaded": (
        "frozen weights",
        {"trainable": {"layer_00": 9}, "frozen": {"classifier": 1}, "frozen_parts": {"classifier": "loaded"}},
        "possible",
        "with its loaded values",
    ),
    "head and embeddings frozen": (
        "frozen weights",
        {"trainable": {"layer_00": 6}, "frozen": {"embeddings": 3, "classifier": 1}, "frozen_parts": {"classifier": "new"}},
        "likely",
        "drawn at random (classifier). 40% of the weights are frozen (embeddings)",
    ),
    "new tokens": (
        "frozen weights",
        {**ADAPTERS, "frozen_parts": {"bert.embeddings.word_embeddings": "new tokens"}},
        "possible",
        "tokens that were added to the tokenizer",
    ),
    "all layers": ("layers", {"layers": LAYERS, "layer_norms": NORMS}, "unlikely", "All 4 layers"),
    "a layer that is not there": (
        "layers",
        {"layers": ["embeddings", "layer_02", "classifier"], "layer_norms": NORMS[:, :3]},
        "likely",
        "layer_00, layer_01: missing from the record of gradients",
    ),
    "no encoder": ("layers", {"layers": ["classifier"], "layer_norms": NORMS[:, :1]}, "likely", "The encoder is missing from"),
    "a layer cut off": (
        "layers",
        {"layers": LAYERS, "layer_norms": NORMS * [0, 1, 1, 1]},
        "likely",
        "embeddings: the gradient was exactly 0 at every step",
    ),
    "a layer at 0 for a time": (
        "layers",
        {"layers": LAYERS, "layer_norms": np.vstack([NORMS * [0, 1, 1, 1], NORMS])},
        "unlikely",
        "All 4 layers",
    ),
    "float16 weights": ("weights' precision", {"weights_dtype": "torch.float16"}, "likely", "themselves are float16"),
    "float32 weights": ("weights' precision", {"weights_dtype": str(torch.float32)}, "unlikely", "are float32"),
    # the training
    "finite": ("NaN", {"losses": np.ones(9), "steps": np.arange(1, 10)}, "unlikely", "Every training loss is finite"),
    "a NaN": (
        "NaN",
        {"losses": np.array([0.7, np.nan, np.inf, 0.7]), "steps": np.array([1, 2, 3, 4])},
        "likely",
        "2 of 4 training losses are NaN or Inf, first at step 2",
    ),
    "NaN from the first step, by the verdict": (
        "NaN",
        {"evidence": {"nonfinite": ["train loss", "eval outputs"], "first_nonfinite_step": 1}},
        "likely",
        "NaN or Inf in train loss, eval outputs, first at step 1",
    ),
    "the verdict goes before the log": (
        "NaN",
        {"evidence": {"nonfinite": ["weights"], "first_nonfinite_step": None}, "logged_losses": [0.7]},
        "likely",
        "NaN or Inf in weights",
    ),
    "a NaN in the log": ("NaN", {"logged_losses": [0.7, float("nan")]}, "likely", "1 of 2 logged losses are NaN"),
    "the log's filter": ("NaN", {"logged_losses": [0.7]}, "unlikely", "logging_nan_inf_filter, on by default, hides"),
    "the log without the filter": ("NaN", {"logged_losses": [0.7], "nan_filter": False}, "unlikely", "No logged loss is"),
    "no skipped step": ("skipped steps", {"grad_norms": np.ones(99)}, "unlikely", "No step was skipped: 0 of 99"),
    "scale found at the start": (
        "skipped steps",
        {"grad_norms": np.r_[np.inf, np.inf, np.ones(98)], "losses": np.ones(100), "precision": "fp16"},
        "unlikely",
        "2 of 100 update steps are NaN or Inf, all of them at the start",
    ),
    "a few skipped": (
        "skipped steps",
        {"grad_norms": np.r_[np.ones(98), np.inf, 1.0], "precision": "fp16"},
        "possible",
        "and not only at the start",
    ),
    "many skipped": (
        "skipped steps",
        {"grad_norms": np.r_[np.full(20, np.nan), np.ones(80)], "precision": "fp16"},
        "likely",
        "20 of 100 update steps are NaN or Inf. With fp16 such steps are skipped",
    ),
    "no scaler": (
        "skipped steps",
        {"grad_norms": np.r_[np.ones(9), np.inf], "precision": "no"},
        "likely",
        "this precision has no loss scaler",
    ),
    "NaN loss is another matter": (
        "skipped steps",
        {"grad_norms": np.r_[1.0, np.nan], "losses": np.r_[1.0, np.nan], "precision": "no"},
        "unlikely",
        "No step was skipped: 0 of 2",
    ),
    "skipped in the log": ("skipped steps", {"logged_norms": [1.0, float("inf")]}, "likely", "1 of 2 logged gradient"),
    "whole": ("ended early", {"step": 100, "total_steps": 100}, "unlikely", "reach step 100 of 100"),
    "half": ("ended early", {"step": 50, "total_steps": 100}, "possible", "end at step 50 of 100"),
    "many steps": ("update steps", {"total_steps": 1000}, "unlikely", "1000 update steps"),
    "few steps": ("update steps", {"total_steps": 999}, "possible", "999 update steps, fewer than 1000"),
    "very few steps": ("update steps", {"total_steps": 60}, "likely", "60 update steps, fewer than 1000"),
    "warmup": ("warmup", {"warmup_steps": 10, "total_steps": 100}, "unlikely", "Warmup is 10 of 100 update steps (10%)"),
    "short warmup": ("warmup", {"warmup_steps": 2, "total_steps": 100}, "possible", "(2%)"),
    "There is no warmup": ("warmup", {"warmup_steps": 0, "total_steps": 100}, "possible", "There is no warmup"),
    "a loss at ln 3": (
        "stuck loss",
        {"evaluations": [(100, None, 1.0986, None), (200, 1.1, 1.0986, 0.34)]},
        "likely",
        "stays at 1.1 from step 100 to step 200. This is ln 3: the loss of a model",
    ),
    "a loss that fell": (
        "stuck loss",
        {"evaluations": [(100, None, 1.0986, None), (200, 0.6, 0.7, 0.8)]},
        "unlikely",
        "ends at 0.7 and does not stay",
    ),
    "a warmup without correction": (
        "warmup",
        {"warmup_steps": 47, "total_steps": 468, "uncorrected_beta2": 0.999},
        "possible",
        "Warmup is 47 of 468 update steps, and Adam's bias correction is off. Until about step 2000, early steps are larger",
    ),
    "a long warmup without correction": (
        "warmup",
        {"warmup_steps": 100, "total_steps": 468, "uncorrected_beta2": 0.98},
        "unlikely",
        "Warmup is 100 of 468",
    ),
    "the paper's rate": ("learning rate", schedule(), "unlikely", "The peak learning rate is 2e-5. This is the paper's 2e-5."),
    "the paper's rate without correction": (
        "learning rate",
        schedule(bias_correction=False),
        "likely",
        "Without bias correction, early steps are as large as at a rate of 9.2e-5 with it (step 48). This is 4.6 times the paper's",
    ),
    "a base model's usual rate": (
        "learning rate",
        {**schedule(5e-5), "hidden_size": 768},
        "possible",
        "1.9 times the paper's 2e-5, scaled from 1024 to 768 units (2.7e-5)",
    ),
    "a large rate": ("learning rate", schedule(1e-3), "likely", "50 times"),
    "a rate of LoRA": (
        "learning rate",
        {**schedule(1e-3), "hidden_size": 1024, "adapters": "LORA"},
        "unlikely",
        "for LORA adapters. Adapters take higher rates than a whole model, and the paper has no bound for them. LoRA's authors "
        "use 0.0002 to 0.0005",
    ),
    "a large rate of LoRA": ("learning rate", {**schedule(6e-3), "adapters": "LORA"}, "possible", "peak learning rate is 0.006"),
    "a small rate of LoRA": ("learning rate", {**schedule(1e-5), "adapters": "LORA"}, "possible", "peak learning rate is 1e-5"),
    "a rate of prompts": ("learning rate", {**schedule(0.3), "adapters": "PROMPT_TUNING"}, "unlikely", "for PROMPT_TUNING"),
    "a rate of one group": (
        "learning rate",
        {**schedule(), "rate_note": "This is the encoder's rate; the parameter groups have 2e-5 to 0.001."},
        "unlikely",
        "This is the paper's 2e-5. This is the encoder's rate; the parameter groups have 2e-5 to 0.001.",
    ),
    "a tiny rate": ("learning rate", schedule(1e-7), "likely", "0.005 times"),
    "a small rate": ("learning rate", schedule(1e-6), "possible", "0.05 times"),
    # verdict
    "vanished": ("vanished gradients", {"evidence": {"gradients": VANISHED}}, "likely", "2 layers, layer_00 to layer_01,"),
    "vanished for a time": (
        "vanished gradients",
        {"evidence": {"gradients": {**VANISHED, "lasting": False, "healed_step": 70}}},
        "possible",
        "and were back by step 70",
    ),
    "not vanished": ("vanished gradients", {"evidence": {"gradients": None}}, "unlikely", "No layer's gradient"),
    "learned, and yet failed": (
        "train and dev",
        {"status": "failed", "evidence": LEARNED},
        "likely",
        "The training set was learned (training loss 0.1, best constant prediction 0.69), but the development set was not",
    ),
    "not learned": ("train and dev", {"status": "failed", "evidence": STUCK}, "unlikely", "itself was not learned"),
    "learned": ("train and dev", {"status": "ok", "evidence": LEARNED}, "unlikely", "The run learned"),
    "alarm": ("early warning", {"alarm": ALARM, "status": "failed"}, "likely", "step 30 of 100, with an estimated risk of failure of 0.90"),
    "false alarm": ("early warning", {"alarm": ALARM, "status": "ok"}, "possible", "step 30 of 100"),
    "by heart": ("memorize", {"memorized": MEMORIZED}, "unlikely", "can memorize: 100% of 32 training examples are right"),
    "not by heart": (
        "memorize",
        {"memorized": {**MEMORIZED, "learned": False, "score": 0.5}},
        "likely",
        "cannot memorize: 50% of 32 training examples are right after 40 update steps at a constant rate of 5e-5",
    ),
    "not by heart, with adapters": (
        "memorize",
        {"memorized": {**MEMORIZED, "learned": False, "score": 0.5}, "adapters": "IA3"},
        "possible",
        "without dropout. IA3 adapters may have too few weights for it. A bug is likelier",
    ),
    "not by heart, from weights that failed": (
        "memorize",
        {"memorized": {**MEMORIZED, "learned": False, "trained_before": 188}},
        "possible",
        "It began with weights that had been trained for 188 steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_check_says_what_the_values_show(case):
    name, values, likelihood, text = CASES[case]
    finding = find(name, values)
    assert (finding.name, finding.likelihood) == (name, likelihood), finding
    assert text in finding.sentence, finding.sentence
    assert bool(finding.remedy) == (likelihood != "unlikely")  # without a fault there is no advice


def test_every_check_is_tried_both_ways():
    seen = {name: {case[2] == "unlikely" for case in CASES.values() if case[0] == name} for name in CHECKS}
    seen["early warning"].add(True)  # raised or not, it is never a reason to be at ease
    assert all(found == {True, False} for found in seen.values()), seen


def test_every_sentence_is_tried():
    assert list(WORDS) == list(CHECKS)
    told = {name: set() for name in CHECKS}
    for name, values, *_ in CASES.values():
        told[name] |= {fault.kind for fault in CHECKS[name](**values).faults}
    told["labels"].add("unreadable")  # tests/diagnose/test_inputs.py: found while the data are loaded
    assert told == {name: set(words.faults) for name, words in WORDS.items()}


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_that_knows_nothing_says_nothing(name):
    assert CHECKS[name]() is None


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning rate", {**schedule(), "optimizer": "adafactor"}),
        ("learning rate", schedule(0.0)),
        ("skipped steps", {"grad_norms": np.full(9, np.nan)}),  # they were never known
        ("layers", {"layers": LAYERS, "layer_norms": NORMS * np.nan}),
        ("vanished gradients", {"evidence": {}}),
        ("class shares", {"train_labels": EVEN}),
        ("class shares", {"train_labels": EVEN, "dev_labels": np.full(3, -1)}),
    ],
)
def test_a_check_does_not_look_where_there_is_nothing_to_see(name, values):
    assert find(name, values) is None


def test_the_remedy_for_a_rate_is_a_lower_one():
    finding = find("learning rate", schedule(3e-4))
    assert finding.recipe == "--recipe mosbach2021 --learning_rate 2e-5"
    finding = find("learning rate", {**schedule(3e-4, bias_correction=False), "hidden_size": 64})
    assert finding.recipe == "--recipe mosbach2021 --learning_rate 0.0003"  # no run of it failed in demo_study
    assert finding.remedy == "Use bias correction and 10% warmup."  # the rate is below the paper's scaled 3.2e-4
    corrected = find("learning rate", {**schedule(2e-3), "hidden_size": 64})
    assert corrected.remedy == "Use a learning rate of at most 0.00032 and 10% warmup."
    assert find("learning rate", schedule(1e-7)).recipe == "--learning_rate 2e-5"


def test_the_remedy_for_a_frozen_head_is_to_train_it():
    parts = {
        "classifier.dense": "new",
        "classifier.out_proj": "new",
        "bert.pooler.dense": "new",
        "x.embeddings": "kept",
    }
    remedy = find("frozen weights", {**ADAPTERS, "frozen_parts": parts}).remedy
    assert "beside the adapters: set modules_to_save=['classifier', 'pooler'] in PEFT's config" in remedy
    remedy = find("frozen weights", {**ADAPTERS, "frozen_parts": {"no modules_to_save": "unknown"}}).remedy
    assert "beside the adapters: set modules_to_save in PEFT's config" in remedy
    without = {**ADAPTERS, "adapters": None}
    assert "requires_grad" in find("frozen weights", {**without, "frozen_parts": parts}).remedy


@pytest.mark.parametrize("part", ["pre_classifier", "pooler.dense", "bert.pooler.dense"])  # DistilBERT, DeBERTa, BERT
def test_a_frozen_part_is_told_once(part):
    weights = {"trainable": {"layer_00": 97, "classifier": 1}, "frozen": {"pooler": 2}}
    finding = find("frozen weights", {**weights, "frozen_parts": {part: "new"}})
    what = "head" if part == "pre_classifier" else "pooler"
    assert finding.sentence == f"The {what} is frozen, and it was drawn at random ({part})."
    kept = find("frozen weights", {**weights, "frozen_parts": {part: "kept"}})
    assert kept.sentence == "2% of the weights are frozen (pooler)."


def test_the_remedy_for_adapters_on_a_new_head_is_to_save_it():
    finding = find("frozen weights", {**ADAPTERS, "frozen_parts": {"classifier.dense": "adapted"}})
    assert finding.remedy == (
        "Set modules_to_save=['classifier'] in PEFT's config, and leave these modules out of target_modules."
    )


def test_the_remedy_for_a_warmup_without_correction_is_the_correction():
    values = {"warmup_steps": 47, "total_steps": 468, "uncorrected_beta2": 0.999}
    assert find("warmup", values).recipe == "--bias_correction true"
    finding = find("warmup", {**values, "warmup_steps": 0})  # two faults: the larger one first
    assert finding.faults == ("none", "uncorrected") and finding.recipe == "--warmup_steps 0.1"


def test_no_recipe_is_for_the_rate_of_adapters():
    finding = find("learning rate", {**schedule(6e-3), "adapters": "LORA"})
    assert finding.recipe == "" and finding.figures["reference"] == [2e-4, 5e-4] and "third" in finding.remedy
    assert "Raise" in find("learning rate", {**schedule(1e-5), "adapters": "LORA"}).remedy


def test_the_bounds_of_the_rate_are_where_the_demo_put_them():
    """By the demo's grid (benchmarks/demo_study): 0 of 10 runs failed at 2e-4, 4 at 2.5e-4, 9 at 3e-4, none at 1e-4."""
    ratios = {}
    for rate in (1e-4, 2e-4, 2.5e-4, 3e-4):
        found = find("learning rate", {**schedule(rate, 189, 19, bias_correction=False), "hidden_size": 64})
        ratios[rate] = (round(found.figures["ratio"], 1), found.likelihood)
    assert ratios == {1e-4: (2.0, "possible"), 2e-4: (3.9, "possible"), 2.5e-4: (4.9, "likely"), 3e-4: (5.9, "likely")}


def test_the_bound_for_a_large_model_is_where_bert_large_failed():
    """Du & Nguyen 2023: bert-large-uncased at 5e-5 with bias correction failed on 34 of 60 runs."""
    for rate, likelihood in ((2e-5, "unlikely"), (4.9e-5, "possible"), (5e-5, "likely")):
        assert find("learning rate", {**schedule(rate), "hidden_size": 1024}).likelihood == likelihood
    assert find("learning rate", {**schedule(5e-5), "hidden_size": 768}).likelihood == "possible"  # bert-base


def test_wider_models_are_compared_with_the_papers_rate_itself():
    wide, large = (find("learning rate", {**schedule(2e-5), "hidden_size": width}) for width in (4096, 1024))
    assert wide.likelihood == "unlikely" and wide.figures["ratio"] == large.figures["ratio"] == 1
    assert "scaled" not in wide.sentence and "scaled" not in large.sentence


# ---- all of them ----------------------------------------------------------------------------------------------------


def test_findings_come_in_order_of_likelihood_and_what_is_missing_is_said():
    values = {
        "total_steps": 500,
        "warmup_steps": 50,
        "train_labels": EVEN,
        "dev_labels": labels(1, 1, 1),
        "losses": None,
    }
    findings, missing = run_checks(values)
    order = [LIKELIHOODS.index(finding.likelihood) for finding in findings]
    assert order == sorted(order) and len(set(order)) > 1
    assert findings[0].name == "labels" and "update steps" not in missing
    assert "--model_name_or_path" in missing["new weights"] and "steps.rec" in missing["NaN"]
    assert not {finding.name for finding in findings} & set(missing)


def test_every_value_stands_in_the_table():
    for check in CHECKS.values():
        for name in inspect.signature(check).parameters:
            assert f"`{name}`" in causes.__doc__, name


def test_a_likelihood_is_one_of_three():
    with pytest.raises(InputError, match="'certain' is not one of likely, possible, unlikely"):
        Finding("labels", "certain", "x")
