"""Every sequence classifier of transformers: its groups of layers, and a short training with both trainers.

The slow tests take all types of the installed transformers, new ones too. `tests/classifiers.py` makes their configs.
"""

from __future__ import annotations

import gc
import re
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.utils.layers import layers_of, parameters_with_layers
from tests import classifiers, toy
from tests.groups_before import groups_before


BUILT = [model_type for model_type in classifiers.TYPES if model_type not in classifiers.NOT_HERE]
A_FEW = ["albert", "deberta-v2", "flaubert", "funnel", "modernbert", "t5", "zamba"]

LAYER = r"(shared_|(text|vision)_model_|encoder_|decoder_)?layer_\d+"
FINAL_NORM = r"((text|vision)_model_|encoder_|decoder_)?(\w*norm\w*|ln_f|ln)"
VISION = r"visual|vision_tower|encoder_vision_tower|vision_model|vision_model_head|connector|(encoder_)?multi_modal_projector"
EXPECTED = re.compile(rf"embeddings|{LAYER}|pooler|{FINAL_NORM}|{VISION}|classifier", re.IGNORECASE)
"""Names of groups. The text models with a vision tower have it in groups of its own."""

ODD = {
    "canine": "encoders of characters before and after the layers; each has a group",
    "esm": "contact_head, which predicts contacts in proteins, is in the base model; a classifier does not use it",
    "layoutlmv2": classifiers.NOT_HERE["layoutlmv2"],
    "perceiver": "cross_attention reads the input before the layers; the head is in the base model, as its decoder",
}
"""Types with other groups, with the reason."""

SPREAD = "a layer was spread over several lists"
ENCODER = "what is beside the layers was in a group `encoder` or `decoder`"
MIXED = "layers of two classes were one group"
VISION_TOWER = "the groups of the vision tower were mixed with the text's"
MENDED = {
    "ctrl": "the embeddings were in a group `w`",
    "esm": ENCODER,
    "flaubert": SPREAD,
    "funnel": "a block of layers was one group",
    "gemma3": VISION_TOWER,
    "jamba": MIXED,
    "layoutlmv3": "embeddings of positions, and the norms of the embeddings, were in four groups",
    "mbart": ENCODER,
    "megatron-bert": ENCODER,
    "modernvbert": VISION_TOWER,
    "mpnet": ENCODER,
    "mt5": ENCODER,
    "opt": ENCODER,
    "perceiver": ENCODER,
    "qwen3_5": VISION_TOWER,
    "reformer": ENCODER,
    "t5": ENCODER,
    "t5gemma": ENCODER,
    "t5gemma2": VISION_TOWER,
    "ultravbert": VISION_TOWER,
    "umt5": ENCODER,
    "xlm": SPREAD,
    "xlm-roberta-xl": ENCODER,
    "xlnet": "the mask's embedding was in a group `transformer`",
    "zamba": MIXED,
    "zamba2": MIXED,
}
"""Types with other groups than in version 0.1.0, with the reason. All others must keep theirs: records have their names."""


def check_groups(model_type, model):
    """Every parameter is in one group; the groups are embeddings, layers, head; they are what they were, or were mended."""
    found = list(parameters_with_layers(model))
    assert Counter(name for _, name, _ in found) == Counter(name for name, _ in model.named_parameters())
    layers = layers_of(model)
    grouped = Counter(id(parameter) for group in layers.values() for parameter in group)
    assert grouped == Counter(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    if model_type not in ODD:
        assert [name for name in layers if not EXPECTED.fullmatch(name)] == []
        assert {"embeddings", "classifier"} < set(layers)
        numbers = [int(name[-2:]) for name in layers if re.fullmatch(r"(shared_)?layer_\d\d", name)]
        assert numbers == sorted(numbers)  # from input to output
        assert sum("layer_" in name for name in layers) >= 1
    if model_type not in MENDED:
        assert {name: layer for layer, name, _ in found} == groups_before(model)


@pytest.mark.parametrize("model_type", A_FEW)
def test_the_groups_of_a_few_small_classifiers(model_type):
    check_groups(model_type, classifiers.built(classifiers.tiny_config(model_type), "meta"))


def test_the_norm_of_deberta_v3s_relative_positions_has_its_own_name():
    """DeBERTa-v3 has it beside the layers; the default config of this type has none."""
    config = classifiers.tiny_config("deberta-v2")
    config.update({"relative_attention": True, "norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"]})
    model = classifiers.built(config, "meta")
    assert set(layers_of(model)) == {"embeddings", "layer_00", "layer_01", "LayerNorm", "pooler", "classifier"}
    names = {name: layer for layer, name, _ in parameters_with_layers(model)}
    assert names["deberta.encoder.LayerNorm.weight"] == "LayerNorm"
    assert names["deberta.encoder.rel_embeddings.weight"] == "embeddings"


def test_few_types_have_odd_groups():
    assert len(ODD) <= 5 and set(classifiers.NOT_HERE) <= set(ODD)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", BUILT)
def test_the_groups_of_every_classifier(model_type):
    """With the default config, which is of a full-size model: without weights."""
    model = classifiers.built(classifiers.whole_config(model_type), "meta")
    check_groups(model_type, model)
    if model_type in MENDED:
        assert {name: layer for layer, name, _ in parameters_with_layers(model)} != groups_before(model)


def token_data(rows=12, length=10):
    """Token ids with labels; each row ends with the token 1, the end of a sentence."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 60, (rows, length))
    ids[:, -1] = 1
    mask = np.ones_like(ids).tolist()
    return Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": mask, "label": (ids[:, 1] > 32).astype(int)}
    )


def total_norm(model):
    """L2 norm of all gradients, an independent sum in float64."""
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return float(sum(grad.double().square().sum() for grad in grads)) ** 0.5


class Totals(transformers.TrainerCallback):
    """The total norm before each update step. Nothing is clipped in these runs."""

    def __init__(self):
        self.totals = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.totals.append(total_norm(model))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", BUILT)
def test_every_classifier_trains_with_the_callback_and_with_the_stable_trainer(model_type, tmp_path):
    config = classifiers.tiny_config(model_type)
    for kind in ("stock", "stable"):
        torch.manual_seed(0)
        model = classifiers.built(config)
        given = {**toy.QUIET, "max_steps": 3, "per_device_train_batch_size": 4, "max_grad_norm": 1e6}
        if kind == "stock":
            args = transformers.TrainingArguments(str(tmp_path / kind), **given)
            callbacks = [StabilityCallback(tensorboard=False, heat_map=False)]
            trainer = transformers.Trainer(model, args, train_dataset=token_data(), callbacks=callbacks)
        else:
            args = StableTrainingArguments(str(tmp_path / kind), **given)
            trainer = StableTrainer(model, args, train_dataset=token_data())
        trainer.remove_callback(transformers.PrinterCallback)
        slow = Totals()
        trainer.add_callback(slow)
        trainer.train()
        record = read_steps(tmp_path / kind / "stability" / "steps.rec")
        assert record["step"].tolist() == [1, 2, 3] and record["layers"] == list(layers_of(model))
        squares = np.square(record["layer_norms"].astype(np.float64))
        np.testing.assert_allclose(squares.sum(1), np.square(slow.totals), rtol=1e-4)
        np.testing.assert_allclose(record["grad_norm"], slow.totals, rtol=1e-4)
        assert min(slow.totals) > 0 and np.isfinite(record["loss"]).all()
        assert {"classifier"} <= {
            name for name, square in zip(record["layers"], squares[0], strict=True) if square > 0
        } or (model_type in ODD)
        del trainer, model
    gc.collect()
