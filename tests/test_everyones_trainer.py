"""The record on everyone's Trainer: each row is a run for real, shows that its wrapper is there, and is held against a
plain loop over the parameters.

Rows: plain, accumulation, no clipping, bf16 autocast, torch.compile, gradient checkpointing, LoRA, unused parameters,
Seq2SeqTrainer, a causal LM, a resume in mid-epoch, two processes (DistributedDataParallel, `fully_shard`), DeepSpeed (by
its marks), and fp16 on a GPU. Nearly each of them on a StableTrainer and on a stock Trainer with a callback.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from datasets import Dataset
from torch import nn
from torch._dynamo import OptimizedModule
from torch._dynamo.utils import counters
from transformers import (
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_stability import StabilityCallback, StabilityMixin
from hf_stability.diagnostics.step_record import read_steps
from tests import toy
from tests.processes import run_script


TRAINERS = ("stable", "stock")
MAX_STEPS = 6
FAST = {
    **toy.QUIET,
    "max_steps": MAX_STEPS,
    "per_device_train_batch_size": 8,
    "optim": "sgd",
    "learning_rate": 0.1,
    "max_grad_norm": 0.25,  # some steps hit it, some do not
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 4,
}
BERT = {
    "embeddings.": "embeddings",
    "encoder.layer.0.": "layer_00",
    "encoder.layer.1.": "layer_01",
    "encoder.layer.2.": "layer_02",
    "pooler.": "pooler",
    "classifier.": "classifier",
}


class Slow:
    """Before a Trainer: each layer's norm, parameter by parameter, before it clips and before it steps; and the loss.

    Attributes:
        places: part of a parameter's name -> name of the layer that it is in.
        shift: of a causal LM, whose label is the token after: 1.
        before_clipping, after_clipping: layer -> norm, one for each update step.
        losses: cross entropy of each update step, mean over its examples (tokens), from the logits.
        micro_batches: number of `training_step`s; clippings: number of calls of `_clip_grad_norm`.
    """

    places, shift = BERT, 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.before_clipping, self.after_clipping, self.losses = [], [], []
        self.micro_batches = self.clippings = 0
        self._cross_entropies = []  # of this update step's examples
        self.add_callback(BeforeStep(self))

    def training_step(self, *args, **kwargs):
        self.micro_batches += 1
        return super().training_step(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            logits, labels = outputs["logits"].detach().double(), inputs["labels"]
            if self.shift:
                logits, labels = logits[:, :-1], labels[:, 1:]
            self._cross_entropies += F.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), reduction="none"
            ).tolist()
        return (loss, outputs) if return_outputs else loss

    def _clip_grad_norm(self, model):
        self.clippings += 1
        self.before_clipping.append(self.slow_norms(model))
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:  # nothing is clipped
            self.before_clipping.append(self.slow_norms(model))
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def slow_norms(self, model) -> dict[str, float]:
        squares: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                layer = next(layer for part, layer in self.places.items() if part in name)
                grad = parameter.grad
                squares[layer] = squares.get(layer, 0.0) + (
                    0.0 if grad is None else float(grad.double().square().sum())
                )
        return {layer: square**0.5 for layer, square in squares.items()}


class BeforeStep(TrainerCallback):
    def __init__(self, slow):
        self.slow = slow

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.slow.after_clipping.append(self.slow.slow_norms(self.slow.model))
        self.slow.losses.append(float(np.mean(self.slow._cross_entropies)))
        self.slow._cross_entropies.clear()


def no_dropout(**values):
    return toy.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **values)


def run(
    kind, folder, model=None, base=Trainer, args_class=TrainingArguments, resume=None, more=(), slow=None, **values
):
    """Train a `stable` or a `stock` trainer, its attributes of `Slow` as in `slow`.

    `trainer.stability` is its callback in either case.
    """
    bases = (Slow, StabilityMixin, base) if kind == "stable" else (Slow, base)
    trainer_class = type("Recorded", bases, slow or {})
    given = {
        "train_dataset": toy.data(64),
        "eval_dataset": toy.data(24, seed=1),
        "compute_metrics": toy.accuracy,
        **{
            key: values.pop(key) for key in list(values) if key in ("train_dataset", "eval_dataset", "compute_metrics")
        },
    }
    callback = StabilityCallback(compute_metrics=given["compute_metrics"], tensorboard=False, heat_map=False)
    args = args_class(str(folder), **{**FAST, **values})
    trainer = trainer_class(model or no_dropout(), args, callbacks=[callback, *more], **given)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.stability = callback
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def check(trainer, kind, loss_rtol=1e-5):
    """The record of a finished run is complete, its norms and losses are the slow loop's. Returns it."""
    record = read_steps(Path(trainer.args.output_dir) / "stability" / "steps.rec")
    assert record["step"].tolist() == list(range(1, trainer.state.max_steps + 1))
    reference = trainer.before_clipping if kind == "stable" else trainer.after_clipping
    assert_norms(record, reference)
    if not trainer.shift:  # how many tokens a causal LM's loss is divided by is the Trainer's, and differs by version
        np.testing.assert_allclose(record["loss"], trainer.losses, rtol=loss_rtol)
    assert np.isfinite(record["loss"]).all()
    made_up = trainer.compute_metrics is token_accuracy  # no accuracy of these outputs: the verdict cannot rest on it
    assert trainer.stability.verdict.status in (("unknown",) if made_up else ("ok", "failed"))
    assert trainer.stability.verdict.sentence
    return record


def assert_norms(record, reference):
    assert len(record["step"]) == len(reference) and set(record["layers"]) == set(reference[0])
    slow = np.array([[norms[layer] for layer in record["layers"]] for norms in reference])
    np.testing.assert_allclose(record["layer_norms"], slow, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(record["grad_norm"], np.sqrt((slow**2).sum(1)), rtol=1e-5)


def logged_losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# ---- one process -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Kind -> trainer and record of the plain run: what some of the others must equal."""
    runs = {kind: run(kind, tmp_path_factory.mktemp(kind)) for kind in TRAINERS}
    return {kind: (trainer, check(trainer, kind)) for kind, trainer in runs.items()}


@pytest.mark.parametrize("kind", TRAINERS)
def test_plain(plain, kind):
    trainer, record = plain[kind]
    assert trainer.model_wrapped is trainer.model and trainer.micro_batches == MAX_STEPS
    assert 0 < record["clipped"].sum() < MAX_STEPS  # or else before and after clipping could be mistaken
    assert trainer.before_clipping != trainer.after_clipping and trainer.clippings == MAX_STEPS
    np.testing.assert_allclose(record["loss"], logged_losses(trainer), rtol=1e-4)


@pytest.mark.parametrize("kind", TRAINERS)
def test_accumulation(tmp_path, kind):
    trainer = run(kind, tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=4)
    record = check(trainer, kind)
    assert trainer.micro_batches == 16  # of an epoch of 64 rows: its last update step has one
    assert record["labels"].sum(1).tolist() == [12, 12, 12, 12, 12, 4]


@pytest.mark.parametrize("kind", TRAINERS)
def test_without_clipping(tmp_path, kind):
    trainer = run(kind, tmp_path, max_grad_norm=0.0)
    record = check(trainer, kind)
    assert trainer.clippings == 0 and record["clipped"].sum() == 0
    assert trainer.before_clipping == trainer.after_clipping and record["grad_norm"].max() > FAST["max_grad_norm"]


@pytest.mark.parametrize("kind", TRAINERS)
def test_bf16_autocast(tmp_path, plain, kind):
    model, seen = no_dropout(), set()
    model.bert.pooler.dense.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    record = check(run(kind, tmp_path, model, bf16=True), kind, loss_rtol=1e-2)
    assert seen == {torch.bfloat16} and {p.dtype for p in model.parameters()} == {torch.float32}
    in_float32 = plain[kind][1]["layer_norms"]
    assert (record["layer_norms"] != in_float32).all()
    np.testing.assert_allclose(record["layer_norms"][0], in_float32[0], rtol=0.05)


def small():
    """One layer, which is compiled sooner."""
    return no_dropout(num_hidden_layers=1)


def compiled(tmp_path, kind, backend):
    torch._dynamo.reset()
    counters.clear()
    trainer = run(kind, tmp_path, small(), torch_compile=True, torch_compile_backend=backend)
    record = check(trainer, kind)
    assert isinstance(trainer.model_wrapped, OptimizedModule) and not isinstance(trainer.model, OptimizedModule)
    assert counters["stats"]["unique_graphs"] > 0
    eager = check(run(kind, tmp_path / "eager", small()), kind)
    np.testing.assert_allclose(record["layer_norms"], eager["layer_norms"], rtol=1e-3)
    np.testing.assert_allclose(record["loss"], eager["loss"], rtol=1e-4)


@pytest.mark.parametrize("kind", TRAINERS)
def test_torch_compile(tmp_path, kind):
    compiled(tmp_path, kind, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("kind", TRAINERS)
def test_torch_compile_with_inductor(tmp_path, kind):
    compiled(tmp_path, kind, "inductor")


def graphs_of(folder, callbacks, accumulation):
    """How many graphs a training under torch.compile has."""
    torch._dynamo.reset()
    counters.clear()
    values = {**FAST, "eval_strategy": "no", "gradient_accumulation_steps": accumulation, "max_steps": 2}
    args = TrainingArguments(str(folder), **values, torch_compile=True, torch_compile_backend="eager")
    trainer = Trainer(small(), args, train_dataset=toy.data(128), callbacks=callbacks)
    trainer.train()
    assert isinstance(trainer.model_wrapped, OptimizedModule)
    return counters["stats"]["unique_graphs"]


def test_the_callback_adds_nothing_to_compile(tmp_path):
    plain = graphs_of(tmp_path, [], 4)
    assert graphs_of(tmp_path, [StabilityCallback(tensorboard=False, heat_map=False)], 4) == plain > 0


@pytest.mark.slow
def test_the_probes_do_not_compile_again_for_each_micro_batch(tmp_path):
    one, many = (
        graphs_of(tmp_path, [StabilityCallback(tensorboard=False, heat_map=False, diagnostics="all")], accumulation)
        for accumulation in (2, 6)
    )
    assert one == many


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", TRAINERS)
def test_gradient_checkpointing(tmp_path, plain, kind, reentrant):
    model, calls = no_dropout(), []
    attention = model.bert.encoder.layer[0].attention
    attention.register_forward_hook(lambda module, inputs, output: calls.append(module.training))
    kwargs = {"use_reentrant": reentrant}
    trainer = run(kind, tmp_path, model, gradient_checkpointing=True, gradient_checkpointing_kwargs=kwargs)
    record = check(trainer, kind)
    assert calls.count(True) == 2 * trainer.micro_batches  # once forward, once again in the backward pass
    np.testing.assert_allclose(record["layer_norms"], plain[kind][1]["layer_norms"], rtol=1e-5)
    np.testing.assert_allclose(record["loss"], plain[kind][1]["loss"], rtol=1e-6)  # the second pass is not counted


@pytest.mark.parametrize("kind", TRAINERS)
def test_lora(tmp_path, kind):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["word_embeddings", "query", "value"])
    model = peft.get_peft_model(no_dropout(), config)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trainer = run(kind, tmp_path, model)
    record = check(trainer, kind)
    assert isinstance(trainer.model, peft.PeftModel) and len(frozen) > 40
    assert all(torch.equal(frozen[name], p) for name, p in model.named_parameters() if name in frozen)
    assert record["layers"] == ["embeddings", "layer_00", "layer_01", "layer_02", "classifier"]
    assert (record["layer_norms"] > 0).all()


class WithUnused(nn.Module):
    """A whole layer, and a part of another, never used: they get no gradient."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(toy.VOCABULARY, 8)
        self.middle = nn.ModuleDict({"used": nn.Linear(8, 8), "not_used": nn.Linear(8, 8)})
        self.nothing = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.middle["used"](self.embed(input_ids).mean(1)).tanh())
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


UNUSED = {"embed.": "embeddings", "middle.": "middle", "nothing.": "nothing", "head.": "head"}


@pytest.mark.parametrize("max_grad_norm", [0.25, 0.0])
@pytest.mark.parametrize("kind", TRAINERS)
def test_unused_parameters(tmp_path, kind, max_grad_norm):
    trainer = run(kind, tmp_path, WithUnused(), slow={"places": UNUSED}, max_grad_norm=max_grad_norm)
    record = check(trainer, kind)
    assert trainer.model.nothing.weight.grad is None and trainer.model.middle["not_used"].weight.grad is None
    norms = dict(zip(record["layers"], record["layer_norms"].T, strict=True))
    assert (norms.pop("nothing") == 0).all()
    assert all((norm > 0).all() for norm in norms.values())


def t5():
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": toy.VOCABULARY}
    transformers.set_seed(0)
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    )


T5 = {
    "shared.": "embeddings",
    "lm_head.": "lm_head",
    **{f"{side}.block.{i}.": f"{side}_layer_{i:02d}" for side in ("encoder", "decoder") for i in range(2)},
    "encoder.final": "encoder",
    "decoder.final": "decoder",
}


def gpt2():
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 20, "vocab_size": toy.VOCABULARY}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    transformers.set_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **dropout, bos_token_id=1, eos_token_id=1))


GPT2 = {"wte.": "embeddings", "wpe.": "embeddings", "h.0.": "layer_00", "h.1.": "layer_01", "ln_f.": "ln_f"}


def texts(rows, seed=0, shift=0):
    ids = np.array(toy.data(rows, seed)["input_ids"])
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids[:, shift:].tolist()})


def token_accuracy(prediction):
    return {"accuracy": 0.5}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", TRAINERS)
def test_seq2seq_trainer(tmp_path, kind, accumulation):
    trainer = run(
        kind,
        tmp_path,
        t5(),
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        slow={"places": T5},
        train_dataset=texts(64, shift=6),
        eval_dataset=texts(8, seed=1, shift=6),
        compute_metrics=token_accuracy,
        predict_with_generate=True,
        generation_max_length=5,
        gradient_accumulation_steps=accumulation,
        max_steps=4,
    )
    record = check(trainer, kind)
    assert isinstance(trainer, Seq2SeqTrainer) and trainer.model.config.is_encoder_decoder
    assert record["layers"][0] == "embeddings" and trainer.micro_batches == 4 * accumulation


def run_lm(kind, folder, **values):
    """Train a causal LM."""
    slow, sets = {"places": GPT2, "shift": 1}, {"train_dataset": texts(64), "eval_dataset": texts(8, seed=1)}
    return run(kind, folder, gpt2(), slow=slow, compute_metrics=token_accuracy, max_steps=4, **sets, **values)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", TRAINERS)
def test_a_causal_lm(tmp_path, kind, accumulation):
    trainer = run_lm(kind, tmp_path, gradient_accumulation_steps=accumulation)
    record = check(trainer, kind)
    assert record["layers"] == ["embeddings", "layer_00", "layer_01", "ln_f"]
    # Mean over the step's tokens: the Trainer tells the model how many all of its micro-batches have together.
    assert trainer.model_accepts_loss_kwargs and trainer.micro_batches == 4 * accumulation
    np.testing.assert_allclose(record["loss"], logged_losses(trainer), rtol=1e-4)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_decoders_classifier_whose_loss_is_a_batch_mean(tmp_path, accumulation):
    """Qwen2's takes `num_items_in_batch`, and does not hand it on to `loss_function`."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=toy.VOCABULARY, num_key_value_heads=2, pad_token_id=0, num_labels=2, **sizes)
    callback = StabilityCallback(tensorboard=False, heat_map=False)
    values = {**FAST, "eval_strategy": "no", "gradient_accumulation_steps": accumulation, "learning_rate": 0.0}
    model = Qwen2ForSequenceClassification(config)
    Trainer(model, TrainingArguments(str(tmp_path), **values), None, toy.data(128), callbacks=[callback]).train()
    assert np.abs(callback.record["loss"] - np.log(2)).max() < 0.1


class Die(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_resume_in_mid_epoch(tmp_path, kind):
    values = {
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 5,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
    }
    whole = check(run(kind, tmp_path / "whole", toy.model(), **values), kind)
    with pytest.raises(KeyboardInterrupt):
        run(kind, tmp_path / "resumed", toy.model(), more=[Die()], **values)
    written = read_steps(tmp_path / "resumed" / "stability" / "steps.rec")["step"].tolist()
    assert written[:5] == [1, 2, 3, 4, 5] and len(written) > 5  # rows that the resumed run makes again
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")] == ["checkpoint-5"]  # of 8 an epoch
    trainer = run(kind, tmp_path / "resumed", toy.model(seed=9), resume=True, **values)
    assert len(trainer.before_clipping) == 12 - 5
    resumed = read_steps(tmp_path / "resumed" / "stability" / "steps.rec")
    assert resumed["step"].tolist() == list(range(1, 13))
    for column in ("layer_norms", "grad_norm", "loss", "learning_rate"):
        np.testing.assert_array_equal(resumed[column], whole[column])
    assert np.isfinite(resumed["loss"]).all() and trainer.stability.verdict.status in ("ok", "failed")


# ---- two processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What tests/sharded_norms.py saw in either process, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("two")
    done = run_script(Path(__file__).parent / "sharded_norms.py", [folder], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)], folder


@pytest.mark.parametrize("unused", [False, True])  # also whether DDP looks for unused parameters
@pytest.mark.parametrize("kind", TRAINERS)
def test_distributed_data_parallel(two_processes, kind, unused):
    ranks, folder = two_processes
    name = f"{kind}-unused" if unused else kind
    first, second = (rank["ddp"][name] for rank in ranks)
    for seen in (first, second):
        assert seen["wrapped"] and seen["world_size"] == 2 and seen["micro_batches"] == MAX_STEPS
        assert seen["wrapped_names"] == seen["unwrapped_names"] == list(first["before"][0])
    assert first["before"] == second["before"] and first["after"] == second["after"] != first["before"]
    record = read_steps(folder / name / "stability" / "steps.rec")
    assert record["step"].tolist() == list(range(1, MAX_STEPS + 1))
    assert_norms(record, first["before" if kind == "stable" else "after"])
    if unused:
        assert (record["layer_norms"][:, record["layers"].index("nothing")] == 0).all()
    else:
        assert record["labels"].sum(1).tolist() == [16.0] * MAX_STEPS  # both processes' examples
    assert first["losses"] != second["losses"]
    np.testing.assert_allclose(record["loss"], np.mean([first["losses"], second["losses"]], 0), rtol=1e-5)
    verdict = json.loads((folder / name / "stability" / "verdict.json").read_text())
    assert verdict["status"] in ("ok", "failed")


def test_distributed_data_parallel_with_a_causal_lm(two_processes):
    ranks, folder = two_processes
    seen = ranks[0]["ddp"]["lm"]
    record = read_steps(folder / "lm" / "stability" / "steps.rec")
    assert seen["wrapped"] and seen["world_size"] == 2 and record["step"].tolist() == [1, 2, 3, 4]
    assert_norms(record, seen["after"])
    np.testing.assert_allclose(record["loss"], seen["logged"], rtol=1e-4)  # mean over both processes' tokens


@pytest.mark.parametrize("how", ["even", "uneven", "partly"])
def test_fully_shard(two_processes, how):
    for rank in (0, 1):
        seen = two_processes[0][rank][how]
        if how == "partly":
            assert 0 < seen["dtensors"] < seen["gradients"]
        else:
            assert seen["dtensors"] == seen["gradients"] > 40
        for norms in (seen["norms"], seen["meter"]):
            assert list(norms) == list(seen["reference"]) == list(dict.fromkeys(BERT.values()))
            assert norms == pytest.approx(seen["reference"], rel=1e-5)
        assert seen["plain_tensors"]
    (first, second) = (rank[how] for rank in two_processes[0])
    assert first["local_sum"] != second["local_sum"]  # either process holds another part
    assert (first["local_rows"] != second["local_rows"]) == (how == "uneven")
    assert ([0] in second["local_rows"]) == (how == "uneven")  # nothing of some parameter


def test_fully_shard_along_the_seed_axis(two_processes):
    for rank in two_processes[0]:
        seen = rank["seeds"]
        assert seen["dtensors"]
        for norms, reference in zip(seen["norms"].values(), seen["reference"], strict=True):
            assert norms == pytest.approx(reference, rel=1e-5)


def test_the_first_version_of_fsdp_is_an_error(two_processes):
    for rank in two_processes[0]:
        assert "FullyShardedDataParallel" in rank["version_1"] and "fully_shard" in rank["version_1"]


# ---- DeepSpeed: it is not here, its marks are --------------------------------------------------------------------------------


def zero_3():
    """A model as DeepSpeed's ZeRO 3 leaves it, as far as attributes go."""
    model = no_dropout()
    for number, parameter in enumerate(model.parameters()):
        parameter.ds_id, parameter.ds_tensor = number, parameter.data[:1]
    return model


@pytest.mark.parametrize("kind", TRAINERS)
def test_under_deepspeed_norms_are_unknown_and_it_is_said_once(tmp_path, kind, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = run(kind, tmp_path, zero_3())
    said = [message for message in caplog.messages if "DeepSpeed" in message]
    assert len(said) == 1 and "NaN" in said[0]
    assert "deepspeed.utils.safe_get_full_grad" in said[0] and "on all ranks" in said[0]
    record = read_steps(tmp_path / "stability" / "steps.rec")
    assert record["step"].tolist() == list(range(1, MAX_STEPS + 1))
    assert np.isnan(record["layer_norms"]).all() and np.isnan(record["grad_norm"]).all()
    assert record["layers"] == list(dict.fromkeys(BERT.values())) and np.isfinite(record["loss"]).all()
    assert trainer.stability.verdict.status in ("ok", "failed")


class GradientsGone(TrainerCallback):
    """As with any of DeepSpeed's stages: its backward pass has stepped and cleared the gradients."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        model.zero_grad()


def test_gradients_that_are_gone_are_unknown_and_it_is_said_once(tmp_path, caplog):
    values = {**FAST, "eval_strategy": "no"}
    callbacks = [GradientsGone(), StabilityCallback()]
    trainer = Trainer(
        no_dropout(), TrainingArguments(str(tmp_path), **values), None, toy.data(64), callbacks=callbacks
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    record = read_steps(tmp_path / "stability" / "steps.rec")
    assert np.isnan(record["layer_norms"]).all() and np.isnan(record["grad_norm"]).all()
    (said,) = (message for message in caplog.messages if "DeepSpeed" in message)
    assert "NaN" in said and "safe_get_full_grad" in said


# ---- on a GPU ----------------------------------------------------------------------------------------------------------------


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@gpu
@pytest.mark.parametrize("max_grad_norm", [1e6, 0.0])  # never clipped: before and after are the same
@pytest.mark.parametrize("kind", TRAINERS)
def test_fp16_norms_are_unscaled(tmp_path, kind, max_grad_norm):
    records = []
    for fp16 in (False, True):
        # At a rate of zero the weights stay, and the runs can be compared at every step.
        values = {"use_cpu": False, "fp16": fp16, "learning_rate": 0.0, "max_grad_norm": max_grad_norm}
        trainer = run(kind, tmp_path / str(fp16), **values)
        records.append(read_steps(tmp_path / str(fp16) / "stability" / "steps.rec"))
        assert next(trainer.model.parameters()).is_cuda
    scaler = trainer.accelerator.scaler
    assert scaler is not None and scaler.get_scale() > 100
    full, half = (record["layer_norms"] for record in records)
    assert half.shape == full.shape and (half != full).any()
    finite = np.isfinite(half).all(1)  # a step whose scaled gradients overflow is skipped
    assert finite.sum() > MAX_STEPS // 2
    np.testing.assert_allclose(half[finite], full[finite], rtol=0.05, atol=1e-5)


SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "Memcpy DtoH")


class Profile(TrainerCallback):
    """Profile 8 update steps from `FIRST` on, then stop the training."""

    FIRST = 105

    def __init__(self):
        self.counts = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.FIRST:
            torch.cuda.synchronize()
            activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
            self.profiler = torch.profiler.profile(activities=activities)
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.FIRST + 8:
            self.profiler.stop()
            events = [event.name for event in self.profiler.events()]
            self.counts = {name: sum(event.startswith(name) for event in events) for name in SYNCHRONISATIONS}
            self.kernels = sum("LaunchKernel" in event for event in events)
            control.should_training_stop = True


@gpu
@pytest.mark.parametrize("values", [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}])
@pytest.mark.parametrize("kind", TRAINERS)
def test_between_flushes_no_synchronisation_is_added(tmp_path, kind, values):
    profiles = []
    for with_callback in (False, True):
        trainer_class = type("Ours", (StabilityMixin, Trainer), {}) if with_callback and kind == "stable" else Trainer
        ours = [StabilityCallback(block_steps=1000, tensorboard=False)] if with_callback else []
        profiles.append(Profile())
        # The early warning looks every 5% of training: the 8 steps are between two looks.
        args = TrainingArguments(
            str(tmp_path / str(with_callback)),
            **{**FAST, **values, "use_cpu": False, "max_steps": 400, "logging_steps": 1000, "eval_strategy": "no"},
        )
        trainer = trainer_class(no_dropout(), args, train_dataset=toy.data(64), callbacks=[*ours, profiles[-1]])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        assert next(trainer.model.parameters()).is_cuda and profiles[-1].kernels > 0
    without, with_it = (profile.counts for profile in profiles)
    assert with_it == without
