"""The packed forward pass against Hugging Face's, in float64 and without dropout."""

import copy
import pickle

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from hf_stability.errors import InputError
from hf_stability.methods.mixout import apply_mixout
from hf_stability.packed.forward import packed_forward, use_step
from hf_stability.packed.support import MODEL_TYPES
from tests import toy


DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PADDING = 1  # RoBERTa's; the others do not look at it
LENGTHS = {"mixed": (7, 1, 12, 3), "whole": (5, 5, 5), "one example": (6,), "one token": (1, 1)}


def model(architecture, **values):
    """A classifier in float64, with larger weights than those of a new model: its attention is not uniform."""
    config = CONFIG_MAPPING[architecture](**{**toy.SIZE, **DRY, "num_labels": 3, **values})
    made = AutoModelForSequenceClassification.from_config(config).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter) / 10)
    return made


def batch(lengths, left=False, length=None, seed=0):
    """Random tokens and token types, padded."""
    torch.manual_seed(seed)
    size = length or max(lengths)
    mask = torch.tensor([[0] * (size - n) + [1] * n if left else [1] * n + [0] * (size - n) for n in lengths])
    tokens = torch.randint(5, toy.VOCABULARY, mask.shape)
    labels = torch.arange(len(lengths)) % 3
    types = torch.randint(0, 2, mask.shape)
    return {
        "input_ids": torch.where(mask.bool(), tokens, PADDING), "attention_mask": mask, "token_type_ids": types, "labels": labels
    }  # fmt: skip


def results(classifier, inputs):
    """Loss, logits, and the gradient of every parameter."""
    classifier.zero_grad()
    output = classifier(**inputs)
    output.loss.backward()
    return output.loss, output.logits, {name: p.grad for name, p in classifier.named_parameters()}


def assert_same(packed, stock, inputs, tolerance=1e-12):
    loss, logits, gradients = results(packed, inputs)
    expected_loss, expected_logits, expected = results(stock, inputs)
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(loss, expected_loss, **close)
    torch.testing.assert_close(logits, expected_logits, **close)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        if (
            gradient is None or expected[name] is None
        ):  # the token embeddings, if a batch has embeddings instead of tokens
            assert gradient is expected[name], name
            continue
        scale = expected[name].abs().max().item()  # a key's bias has no gradient but rounding errors
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=tolerance * max(scale, 1e-3), msg=name)


def pair(architecture, **values):
    """The same model twice, the first one packed."""
    stock = model(architecture, **values)
    packed = copy.deepcopy(stock)
    use_step(packed)
    return packed, stock


CASES = [(architecture, name) for architecture in ("bert", "roberta", "electra", "albert") for name in LENGTHS]
CASES += [(architecture, "mixed") for architecture in MODEL_TYPES if (architecture, "mixed") not in CASES]


@pytest.mark.parametrize(("architecture", "lengths"), CASES)
def test_logits_and_every_gradient_are_hugging_faces(architecture, lengths):
    packed, stock = pair(architecture, type_vocab_size=2)
    for left in (False, True):
        assert_same(packed, stock, batch(LENGTHS[lengths], left))


@pytest.mark.parametrize(("architecture", "attention"), [("bert", "eager"), ("roberta", "sdpa"), ("albert", "eager")])
def test_inputs_in_other_forms(architecture, attention):
    packed, stock = pair(architecture, type_vocab_size=2, attn_implementation=attention)
    whole, padded = batch((6, 6)), batch((4, 9, 2))
    only_tokens = {name: whole[name] for name in ("input_ids", "labels")}
    assert_same(packed, stock, only_tokens)  # without a mask every token counts
    more = batch((4, 9, 2), length=15)  # more padding than the longest example needs
    assert_same(packed, stock, more)
    positions = torch.randint(0, 20, padded["input_ids"].shape)
    assert_same(packed, stock, {**padded, "position_ids": positions})
    embeddings = stock.get_input_embeddings()(padded.pop("input_ids")).detach()
    assert_same(packed, stock, {**padded, "inputs_embeds": embeddings})
    assert_same(
        packed, stock, {**padded, "inputs_embeds": embeddings, "attention_mask": padded["attention_mask"].bool()}
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_models_of_other_forms(depth):
    assert_same(*pair("bert", num_hidden_layers=depth), batch((7, 2)))
    groups = {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": depth}
    assert_same(*pair("albert", **groups), batch((7, 2)))
    assert_same(*pair("electra", embedding_size=16), batch((7, 2)))
    regression = {**batch((7, 2)), "labels": torch.tensor([0.5, -1.0], dtype=torch.float64)}
    assert_same(*pair("roberta", num_labels=1, problem_type="regression"), regression)


def test_a_copy_keeps_it_and_what_is_saved_is_hugging_faces(tmp_path):
    packed, stock = pair("bert")
    inputs = batch((7, 2))
    states = (2, 1, toy.SIZE["hidden_size"])
    assert packed.bert(inputs["input_ids"]).last_hidden_state.shape == states
    assert packed.state_dict().keys() == stock.state_dict().keys()
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        with torch.no_grad():
            next(other.parameters()).zero_()  # its own weights count
        assert other.bert.forward.func is packed_forward
        assert not torch.equal(other(**inputs).logits, packed(**inputs).logits)
    packed.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    use_step(packed, "hf")
    for plain in (loaded.eval(), packed):
        assert torch.equal(plain(**inputs).logits, stock(**inputs).logits)


def test_hooks_and_other_linear_layers_are_called():
    packed, stock = pair("bert")
    apply_mixout(packed, 0.5, "all")
    inputs, seen = batch((7, 2)), {}
    for name, module in packed.named_modules():
        module.register_forward_hook(lambda m, given, output, name=name: seen.update({name: output}))
    torch.testing.assert_close(packed(**inputs).logits, stock(**inputs).logits)  # evaluation: no mixout
    assert {name for name, module in packed.named_modules() if isinstance(module, torch.nn.Linear)} <= seen.keys()
    assert seen["bert.encoder.layer.1.output"].shape == (9, 16) and seen["bert.encoder.layer.2.output"].shape == (
        2,
        16,
    )
    with torch.no_grad():
        packed.bert.encoder.layer[0].attention.self.query.weight.add_(1)  # mixout mixes it with the pretrained weight
    assert not torch.equal(packed.train()(**inputs).logits, packed(**inputs).logits)


@pytest.mark.parametrize("name", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
@pytest.mark.parametrize("architecture", ["bert", "albert"])
def test_dropout_is_that_of_the_config(architecture, name):
    packed, _ = pair(architecture, **{name: 0.5, "classifier_dropout": 0.0, "classifier_dropout_prob": 0.0})
    inputs = batch((7, 2))
    assert torch.equal(packed(**inputs).logits, packed(**inputs).logits)
    packed.train()
    assert not torch.equal(packed(**inputs).logits, packed(**inputs).logits)


def test_autocast():
    packed, stock = pair("bert")
    inputs = batch((7, 1, 12))
    packed, stock = packed.float(), stock.float()
    with torch.autocast("cpu", torch.bfloat16):
        logits, expected = packed(**inputs).logits, stock(**inputs).logits
    assert logits.dtype == expected.dtype
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(logits, stock(**inputs).logits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_hidden_states": True}, "called with output_hidden_states"),
        ({"output_attentions": True}, "called with output_attentions"),
        ({"attention_mask": torch.ones(2, 1, 7, 7)}, "an attention mask of shape"),
        ({"input_ids": None}, "needs tokens"),
    ],
)
def test_what_it_does_not_compute_is_refused(given, message):
    packed, _ = pair("bert")
    with pytest.raises(InputError, match=f"--step packed: .*{message}.*Give --step hf"):
        packed(**{**batch((7, 2)), **given})
