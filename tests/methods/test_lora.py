"""LoRA: the equation against a loop in float64, where the head is, the draw of A, what is saved, and refusals."""

import importlib.util
import math

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.diagnose import diagnose
from hf_stability.errors import InputError
from hf_stability.methods.lora import LoRA, add_lora, lora_targets
from hf_stability.study.model import save_encoder, save_model, set_padding
from hf_stability.utils.adapters import new_modules, trained_parts
from hf_stability.utils.layers import base_model, layers_of
from tests import toy


pytest.importorskip("peft")
DECODER = {**toy.SIZE, "num_hidden_layers": 2, "num_key_value_heads": 1, "pad_token_id": 0}
CONFIGS = {
    **toy.CONFIGS,
    "llama": transformers.LlamaConfig(**DECODER),
    "qwen2": transformers.Qwen2Config(**DECODER),
    "qwen3": transformers.Qwen3Config(**DECODER, head_dim=8),
    "modernbert": transformers.ModernBertConfig(**{**DECODER, **dict.fromkeys(("cls_token_id", "sep_token_id"), 1)}),
}
HEADS = {"distilbert": ["pre_classifier", "classifier"], "deberta": ["pooler", "classifier"]}
HEADS |= {"modernbert": ["head", "classifier"], **dict.fromkeys(("llama", "qwen2", "qwen3"), ["score"])}
FAST = {**toy.QUIET, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "eval_strategy": "no"}


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(toy, "CONFIGS", CONFIGS)
    return toy.model


def rows(number=4):
    return torch.tensor(toy.data(number)["input_ids"])


def train(folder, trainer_class=StableTrainer, args_class=StableTrainingArguments, **given):
    values = {name: given.pop(name) for name in list(given) if name in StableTrainingArguments.__dataclass_fields__}
    quick = StabilityCallback(heat_map=False, tensorboard=False)
    trainer = toy.train(trainer_class, args_class(str(folder), **{**FAST, **values}), callbacks=[quick], **given)
    trainer.stability = quick
    return trainer


def test_the_equation(make):
    """h = W x + b + (alpha / r) B A x, in float64, and at the start the pretrained model, bit for bit."""
    plain, model = make("bert").eval(), add_lora(make("bert"), r=3, alpha=6.0).eval()
    assert torch.equal(model(rows()).logits, plain(rows()).logits)
    layer = model.get_submodule("base_model.model.bert.encoder.layer.1.attention.self.query").double()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((3, 16), (16, 3)) and not b.any()
    torch.nn.init.normal_(b)
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    for x in torch.randn(5, 16, dtype=torch.float64):
        low = [sum(a[k, j] * x[j] for j in range(16)) for k in range(3)]
        expected = [
            bias[i] + sum(weight[i, j] * x[j] for j in range(16)) + 6 / 3 * sum(b[i, k] * low[k] for k in range(3))
            for i in range(16)
        ]
        torch.testing.assert_close(layer(x), torch.stack(expected))


def test_a_is_drawn_as_torch_draws_a_linear_layer(make):
    def drawn(seed):
        model = add_lora(make("bert"), 4, 8.0, generator=torch.Generator().manual_seed(seed))
        return torch.cat([p.flatten() for name, p in model.named_parameters() if ".lora_A." in name])

    first = drawn(0)
    assert torch.equal(first, drawn(0)) and not torch.equal(first, drawn(1))
    bound = 1 / math.sqrt(16)
    assert first.abs().max() <= bound and abs(first.std().item() - bound / math.sqrt(3)) < 0.02


@pytest.mark.parametrize("targets", ["query_value", "all-linear"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_head_is_trained_as_it_is_and_the_encoder_has_adapters(kind, targets, make):
    plain = make(kind)
    heads, names = HEADS.get(kind, ["classifier"]), lora_targets(plain, targets)
    prefix, encoder = base_model(plain)
    assert new_modules(plain) == heads and all(name.startswith(prefix) for name in names)
    linears = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Linear)]
    per_layer = {"modernbert": 1}.get(kind, 2)
    depth = 1 if kind == "albert" else len([name for name in layers_of(plain) if "layer_" in name])
    assert len(names) == (len(linears) if targets == "all-linear" else per_layer * depth)
    model = add_lora(plain, 2, 4.0, targets=targets)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    adapted = {f"{name}.lora_{side}.default.weight" for name in names for side in "AB"}
    own = {f"base_model.model.{name}" for name in adapted}
    assert own <= trained and all(any(f".{head}.modules_to_save." in name for head in heads) for name in trained - own)
    fresh = make(kind)
    sizes = {name: sum(p.numel() for p in fresh.get_submodule(name).parameters()) for name in heads}
    saved = sum(p.numel() for name, p in model.named_parameters() if "modules_to_save" in name)
    assert saved == sum(sizes.values())
    layers = layers_of(model)
    assert set(layers) <= set(layers_of(fresh)) and list(layers)[-1] == "classifier"


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("bert", "roberta", "qwen2", "qwen3")]


@pytest.mark.parametrize("kind", ["llama", *SLOW])
def test_the_stock_trainer_and_ours_record_the_adapters(kind, make, tmp_path):
    """Norms by layer, as for the full model, sum to the total; step 1, with A's gradients at 0, has no vanished layer."""
    values = {"architecture": kind, "init": False, "max_steps": 6, "eval_strategy": "steps", "eval_steps": 6}
    ours = train(tmp_path / "ours", lora_r=2, **values)
    model = add_lora(make(kind), 2, 16.0)
    stock = train(tmp_path / "stock", Trainer, TrainingArguments, model=model, label_names=["labels"], **values)
    layers = [name for name in layers_of(toy.model(kind)) if "layer_" in name]
    for trainer in (ours, stock):
        record, verdict = trainer.stability.record, trainer.stability.verdict
        assert record["layers"] == [*layers, "classifier"]
        np.testing.assert_allclose(np.sqrt((record["layer_norms"] ** 2).sum(1)), record["grad_norm"], rtol=1e-5)
        assert (record["layer_norms"] > 0).all() and "gradients" not in verdict.evidence
        parts = f"trained parts: LORA adapters of layers 00-{len(layers) - 1:02d} and classifier ("
        assert parts in verdict.sentence and "% of the weights)" in verdict.sentence
        assert record["info"]["trained"] == trained_parts(trainer.model)
    assert type(ours.model) is type(model)


def test_seeds_differ_in_a_and_the_head_and_not_in_the_encoder(tmp_path):
    def begun(**values):
        args = StableTrainingArguments(str(tmp_path), **FAST, lora_r=2, seed_streams=True, **values)
        trainer = StableTrainer(
            model_init=lambda: AutoModelForSequenceClassification.from_config(toy.config()), args=args
        )
        found = dict(trainer.model.named_parameters())
        return [torch.cat([p.flatten() for n, p in found.items() if part in n]) for part in ("lora_A", "to_save")]

    one, again, data_only, two = begun(seed=1), begun(seed=1), begun(seed=2, init_seed=7), begun(seed=3, init_seed=7)
    assert all(map(torch.equal, one, again)) and all(map(torch.equal, data_only, two))
    assert not any(map(torch.equal, one, two))


def pretrained(folder, kind="bert"):
    """A folder with an encoder; its classifier has a new head."""
    toy.model(kind).base_model.save_pretrained(folder)
    return lambda: AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.slow
def test_what_is_saved(tmp_path):
    """A Trainer saves adapters and head; a study saves the merged model, too; a stage its merged encoder."""
    init = pretrained(tmp_path / "base")
    trainer = train(tmp_path / "run", model_init=init, lora_r=2, max_steps=6)
    trainer.processing_class = transformers.BertTokenizer({"[PAD]": 0, "[UNK]": 1})
    wanted = trainer.model.eval()(rows()).logits
    trainer.save_model(str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "config.json").exists()
    save_model(trainer, tmp_path / "model")
    for folder in ("adapter", "model", "model/adapter"):
        torch.manual_seed(9)  # of a head that would be drawn anew
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / folder)
        torch.testing.assert_close(loaded.eval()(rows()).logits, wanted)
    trainer = train(tmp_path / "stage", model_init=init, lora_r=2, max_steps=6)
    trainer.processing_class = transformers.BertTokenizer({"[PAD]": 0, "[UNK]": 1})
    hidden = trainer.model.eval().get_base_model().bert(rows()).last_hidden_state
    save_encoder(trainer, str(tmp_path / "base"), tmp_path / "encoder")
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "encoder").eval()
    torch.testing.assert_close(encoder(rows()).last_hidden_state, hidden)
    assert not torch.allclose(encoder(rows()).last_hidden_state, init().eval().bert(rows()).last_hidden_state)


def test_a_new_pooler_is_trained_as_a_whole(tmp_path):
    toy.model("bert").base_model.save_pretrained(tmp_path / "a")
    transformers.BertModel(toy.config(), add_pooling_layer=False).save_pretrained(tmp_path / "b")
    loaded, without = (AutoModelForSequenceClassification.from_pretrained(tmp_path / name) for name in "ab")
    assert new_modules(loaded) == ["classifier"] and new_modules(without) == ["classifier", "bert.pooler"]
    assert "pooler" in layers_of(add_lora(without, 2, 4.0)) and "pooler" not in layers_of(add_lora(loaded, 2, 4.0))


@pytest.mark.slow
def test_diagnose_finds_no_false_cause(tmp_path):
    """A rate of the authors, few steps: live, and from the files alone, where only the record knows of the adapters."""
    trainer = train(tmp_path, model_init=pretrained(tmp_path / "base"), lora_r=2, max_steps=60, learning_rate=4e-4)
    trainer.model.save_pretrained(tmp_path / "checkpoint-60")
    for source in (trainer, tmp_path, tmp_path / "stability" / "steps.rec"):
        found = {finding.name: finding for finding in diagnose(source).findings}
        assert {name for name, finding in found.items() if finding.likelihood == "likely"} <= {"train and dev"}
        assert "for LORA adapters" in found["learning rate"].sentence
        assert not any("mosbach2021" in finding.recipe for finding in found.values())
    report = diagnose(trainer)
    assert "--lora_r 2" in report.rescue and "--learning_rate 0.0004" in report.rescue


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mixout": 0.5}, "--lora_r 2 with --mixout 0.5: LoRA freezes the pretrained weights"),
        ({"reinit_layers": 1}, "--lora_r 2 with --reinit_layers 1: "),
        ({"prior_decay": 0.1, "prior_decay_form": "l2_sp"}, "--lora_r 2 with --prior_decay 0.1: "),
        ({"layerwise_lr_decay": 0.9}, "--lora_r 2 with --layerwise_lr_decay 0.9: "),
        ({"child_tuning": "D"}, "--lora_r 2 with --child_tuning D: .* Give --child_tuning F"),
        ({"lora_alpha": 0.0}, "--lora_alpha 0.0: must be above 0"),
        ({"lora_dropout": 1.0}, "--lora_dropout 1.0: must be 0 or more, and below 1"),
        ({"lora_r": -1}, "--lora_r -1: must be 0 or more"),
    ],
)
def test_refused_arguments(values, message, tmp_path):
    with pytest.raises(InputError, match=message):
        StableTrainingArguments(str(tmp_path), **{"lora_r": 2, **values})


def test_refused_models(make, tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match="--lora_targets query,keys: the encoder of this bert has no linear layer 'keys'"
    ):
        LoRA(lora_r=2, lora_targets="query,keys").check_model(toy.config(), None)
    perceiver = transformers.FunnelConfig(vocab_size=60, d_model=8, n_head=2, d_head=4, d_inner=8, block_sizes=[1])
    with pytest.raises(
        InputError, match="of this funnel has no query and value matrix of a known name. Give all-linear"
    ):
        LoRA(lora_r=2).check_model(perceiver, None)
    with pytest.raises(InputError, match=r"--lora_r 2: the model has adapters already \(LORA\)"):
        add_lora(add_lora(make("bert"), 2, 4.0), 2, 4.0)
    model = make("bert")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    args = StableTrainingArguments(str(tmp_path), **FAST, lora_r=2, max_steps=1)
    trainer = StableTrainer(model, args, train_dataset=toy.data(16), optimizers=(optimizer, None))
    with pytest.raises(
        InputError, match="--lora_r 2: the optimizer that was passed to the Trainer lacks the adapters"
    ):
        trainer.train()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs the package peft. Install it with: pip install 'hf_stability\[lora\]'"
    ):
        StableTrainingArguments(str(tmp_path), **FAST, lora_r=2)


def test_a_dry_run_counts_the_trained_weights(make):
    (line,) = LoRA(lora_r=2).describe(toy.config(), {})
    counted = sum(p.numel() for n, p in add_lora(make("bert"), 2, 4.0).named_parameters() if ".lora_" in n)
    assert f"rank 2 on 6 matrices (query, value), {counted:,} weights" in line and "classifier" in line


def test_a_study_pads_a_decoder_with_the_end_of_text():
    tokenizer = transformers.GPT2Tokenizer({"<|endoftext|>": 0, "a": 1}, [], pad_token=None)
    config = transformers.Qwen2Config(**{**DECODER, "pad_token_id": None})
    set_padding(tokenizer, config)
    assert tokenizer.pad_token == "<|endoftext|>" and config.pad_token_id == 0
