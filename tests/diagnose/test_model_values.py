"""The checks' values on a model and its adapters: layers, frozen parts, the tokenizer's class."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, Trainer

from hf_stability.diagnose import diagnose
from hf_stability.diagnose.causes import find
from hf_stability.diagnose.model_values import config_values, frozen_parts, model_values
from hf_stability.diagnostics.gradients import GradientMeter
from hf_stability.study.run import quiet
from hf_stability.utils.layers import layers_of
from tests import toy
from tests.diagnose.tools import lora, of, trainer_of


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    ("architecture", "wrap"),
    [*((architecture, lambda model: model) for architecture in toy.CONFIGS), ("bert", compiled)],
)
def test_layers_have_the_names_that_the_record_has(architecture, wrap):
    model = wrap(toy.model(architecture))
    names = GradientMeter(model).names
    assert list(model_values(model)["trainable"]) == names and model_values(model)["frozen"] == {}
    sizes = model_values(model)["trainable"]
    for name, group in layers_of(model).items():  # each alone, and it is the only one that the record then lacks
        for parameter in group:
            parameter.requires_grad_(False)
        values = model_values(model)
        assert values["frozen"] == {name: sizes[name]} and list(values["trainable"]) == [n for n in names if n != name]
        for parameter in group:
            parameter.requires_grad_(True)
    assert list(model_values(model.requires_grad_(False))["frozen"]) == names


@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_frozen_layers_are_those_that_the_record_lacks(tmp_path, architecture):
    names = list(layers_of(toy.model(architecture)))
    model = toy.model(architecture)
    encoder = getattr(model, architecture).encoder
    encoder.requires_grad_(False)
    trainer = trainer_of(tmp_path, model)
    trainer.train()
    report = diagnose(trainer)
    lacking = [name for name in names if name not in trainer.stability.record["layers"]]
    assert of(report, "frozen weights").figures["frozen_layers"] == lacking
    expected = ["shared_layer_00"] if architecture == "albert" else ["layer_00", "layer_01", "layer_02"]
    assert lacking == expected and ", ".join(lacking) in of(report, "frozen weights").sentence


def test_layers_with_adapters_have_the_names_that_the_record_has():
    model = lora(toy.model(), task_type="SEQ_CLS")
    values = model_values(model)
    assert list(values["trainable"]) == GradientMeter(model).names
    assert list(values["frozen"]) == ["embeddings", "layer_00", "layer_01", "layer_02", "pooler"]


def test_frozen_weights_of_a_live_trainer(tmp_path):
    model = toy.model()
    model.bert.requires_grad_(False)
    finding = of(diagnose(trainer_of(tmp_path, model)), "frozen weights")
    assert finding.likelihood == "likely" and set(finding.figures["frozen_layers"]) == {
        "embeddings", "layer_00", "layer_01", "layer_02", "pooler",
    }  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A function of a class that loads it from an encoder's files, which have no head and, unless wanted, no pooler."""
    folders = {}
    for pooler in (False, True):
        encoder = transformers.BertModel(toy.config(), add_pooling_layer=pooler)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.01)  # a trained bias is not 0
        folders[pooler] = tmp_path_factory.mktemp("pretrained")
        with quiet():
            encoder.save_pretrained(folders[pooler])

    def load(cls=transformers.BertForSequenceClassification, pooler=True):
        with quiet():
            return cls.from_pretrained(folders[pooler])

    return load


def adapted(kind):
    """A function of a model: it with adapters of this kind, its head frozen."""
    peft = pytest.importorskip("peft")
    config = {
        "ia3": lambda: peft.IA3Config(target_modules=["query"], feedforward_modules=[]),
        "prompts": lambda: peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2),
        "loha": lambda: peft.LoHaConfig(r=2, target_modules=["query"]),
    }[kind]()
    return lambda model: peft.get_peft_model(model, config)


def looked_at(model):
    """`frozen_parts` without those that are as they should be."""
    return {name: origin for name, origin in frozen_parts(model).items() if origin != "kept"}


@pytest.mark.parametrize("kind", ["ia3", "prompts", "loha"])
def test_a_new_head_that_is_frozen_beside_adapters_of_any_kind(pretrained, kind):
    assert looked_at(adapted(kind)(pretrained())) == {"classifier": "new"}


def test_which_frozen_parts_were_drawn_anew(pretrained):
    assert looked_at(pretrained()) == {}
    assert looked_at(lora(pretrained())) == {"classifier": "new"}
    assert looked_at(lora(pretrained(pooler=False))) == {"classifier": "new", "bert.pooler.dense": "new"}
    trained = (
        {"task_type": "SEQ_CLS"},
        {"modules_to_save": ["classifier"]},
        {"target_modules": ["query", "classifier"], "modules_to_save": ["classifier"]},
    )
    assert looked_at(lora(pretrained(), target_modules=["query", "classifier"])) == {"classifier": "adapted"}
    for values in trained:
        assert looked_at(lora(pretrained(), **values)) == {}
        assert looked_at(lora(pretrained(pooler=False), **values)) == {"bert.pooler.dense": "new"}
        assert looked_at(lora(toy.model(), **values)) == {}  # the pooler is as new as the encoder
    assert looked_at(lora(pretrained(pooler=False), modules_to_save=["classifier", "pooler"])) == {}
    assert looked_at(lora(pretrained(transformers.BertForQuestionAnswering))) == {"qa_outputs": "new"}
    assert looked_at(lora(pretrained(transformers.BertForTokenClassification))) == {"classifier": "new"}
    for architecture, parts in {
        "bert": {"classifier"}, "roberta": {"classifier.dense", "classifier.out_proj"},
        "electra": {"classifier.dense", "classifier.out_proj"}, "deberta": {"classifier"},
    }.items():  # fmt: skip
        names = ["query_proj"] if architecture == "deberta" else ["query"]
        assert set(looked_at(lora(toy.model(architecture), target_modules=names))) >= parts, architecture
    assert looked_at(lora(toy.model("distilbert"), target_modules=["q_lin"])) == {
        "pre_classifier": "new",
        "classifier": "new",
    }


def test_frozen_by_hand_half_a_head_and_a_head_of_ones_own(pretrained):
    half = toy.model("roberta")
    half.classifier.dense.requires_grad_(False)
    assert looked_at(half) == {"classifier.dense": "new"}
    by_hand = pretrained()
    by_hand.classifier.requires_grad_(False)
    assert looked_at(by_hand) == {"classifier": "new"}
    with torch.no_grad():
        by_hand.classifier.bias.add_(1)  # loaded by hand, perhaps
    assert looked_at(by_hand) == {"classifier": "unknown"}

    class Own(torch.nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.encoder, self.head = pretrained(transformers.BertModel), torch.nn.Linear(16, 2, bias=bias)
            self.head.requires_grad_(False)

    assert looked_at(Own(True)) == {"head": "unknown"} and looked_at(Own(False)) == {"head": "new"}
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 1}
    score = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**size))
    score.score.requires_grad_(False)  # no bias, no files: nothing says it
    assert looked_at(score) == {"score": "unknown"}


def test_a_head_that_came_with_the_files(tmp_path, pretrained):
    model = pretrained()
    with torch.no_grad():
        model.classifier.bias.add_(1)
    with quiet():
        model.save_pretrained(tmp_path / "trained")
        loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "trained")
        pretrained().save_pretrained(tmp_path / "saved_untrained")
        untrained = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved_untrained")
    assert looked_at(lora(loaded)) == {"classifier": "loaded"}
    assert looked_at(lora(untrained)) == {"classifier": "new"}  # its bias is 0: it was never trained


@pytest.mark.parametrize(("trained", "likelihood"), [({}, "likely"), ({"task_type": "SEQ_CLS"}, "unlikely")])
def test_a_frozen_head_beside_adapters_is_a_likely_cause(tmp_path, trained, likelihood):
    trainer = trainer_of(tmp_path, lora(toy.model(), **trained), trainer_class=Trainer, label_names=["labels"])
    trainer.train()
    report = diagnose(trainer)
    finding = of(report, "frozen weights")
    assert finding.likelihood == likelihood
    if likelihood == "likely":
        assert finding.sentence == "The head is frozen, and it was drawn at random (classifier)."
        assert "modules_to_save=['classifier']" in finding.remedy
        assert any("Fix first" in step and "frozen weights" in step for step in report.next_steps)
    rate = of(report, "learning rate")
    assert rate.likelihood == "unlikely" and "0.001, for LORA adapters" in rate.sentence
    assert "--learning_rate" not in report.rescue and "without adapters" in report.next_steps[-1]


def test_the_head_of_an_adapter_that_was_saved(output, pretrained, tmp_path, tiny_model):
    kinds = {
        "frozen": {},
        "trained": {"task_type": "SEQ_CLS"},
        "words": {},
        "target": {"target_modules": ["query", "classifier"]},
    }
    for name, values in kinds.items():
        shutil.copytree(output, tmp_path / name)
        lora(pretrained(), **values).save_pretrained(tmp_path / name / "checkpoint-8")
    config = tmp_path / "words" / "checkpoint-8" / "adapter_config.json"  # a language model's head is not new
    config.write_text(config.read_text().replace('"task_type": null', '"task_type": "CAUSAL_LM"'))
    report = diagnose(tmp_path / "frozen")
    assert of(report, "frozen weights").likelihood == "possible" and "adapter_config.json" in report.source
    assert (
        "(no modules_to_save). It is not known whether it was drawn at random" in of(report, "frozen weights").sentence
    )
    assert of(report, "learning rate").likelihood == "unlikely"
    with_model = of(diagnose(tmp_path / "frozen", model_name_or_path=tiny_model()), "frozen weights")
    assert with_model.likelihood == "likely" and with_model.figures["frozen_parts"] == {"classifier": "new"}
    lost = of(diagnose(tmp_path / "target", model_name_or_path=tiny_model()), "frozen weights")
    assert lost.likelihood == "possible" and lost.figures["frozen_parts"] == {"classifier": "adapted"}
    for name, more in (("trained", {}), ("trained", {"model_name_or_path": tiny_model()}), ("words", {})):
        finding = of(diagnose(tmp_path / name, **more), "frozen weights")
        assert finding.likelihood == "unlikely" and finding.sentence == "The adapters are trained, the rest is frozen."


def test_tokens_that_were_added_and_cannot_be_learned(tmp_path, tiny_model):
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model())
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model())
    size = len(tokenizer)
    tokenizer.add_tokens(["newword"])
    model.resize_token_embeddings(size + 1)
    data = toy.data(16)

    def found(ids, **trained):
        rows = data.remove_columns("input_ids").add_column("input_ids", [[1, ids]] * 16)
        trainer = trainer_of(tmp_path, lora(copy.deepcopy(model), task_type="SEQ_CLS", **trained), Trainer, rows, rows)
        trainer.processing_class = tokenizer
        return of(diagnose(trainer), "frozen weights")

    assert found(size).likelihood == "possible" and "added to the tokenizer" in found(size).sentence
    assert found(size - 1).likelihood == "unlikely"  # the data have none of them
    assert found(size, trainable_token_indices=[size]).likelihood == "unlikely"
    assert found(size, modules_to_save=["classifier", "word_embeddings"]).likelihood == "unlikely"


@pytest.mark.parametrize(
    ("config", "tokenizer_class"),
    [
        (transformers.BertConfig(), "DistilBertTokenizer"),  # a special case of BertTokenizer
        (transformers.DistilBertConfig(), "DistilBertTokenizer"),
        (transformers.MobileBertConfig(), "BertTokenizer"),  # transformers has it by two names
        (transformers.ElectraConfig(), "ElectraTokenizer"),
        (transformers.RobertaConfig(), "BertTokenizer"),
    ],
)
def test_tokenizer_classes_are_told_apart_by_what_they_are(config, tokenizer_class):
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    own = tokenizer_class_from_name(tokenizer_class)
    found = find(
        "tokenizer",
        {"tokenizer_size": 9, "tokenizer_class": own, "expected_class": config_values(config)["expected_class"]},
    )
    assert found.likelihood == ("possible" if config.model_type == "roberta" else "unlikely"), found.sentence
