import numpy as np
import pytest
import torch
from scipy.stats import entropy

from hf_stability.errors import InputError
from hf_stability.methods.r3f import r3f
from hf_stability.methods.r_drop import r_drop, symmetric_kl, twice
from tests import toy


def kl_reference(first, second):
    """Both directions of scipy's KL divergence, an example at a time, in float64."""
    p, q = (torch.softmax(part.double(), -1).numpy() for part in (first, second))
    return np.mean([entropy(a, b) + entropy(b, a) for a, b in zip(p, q, strict=True)])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_divergence_is_scipys_both_ways(classes):
    torch.manual_seed(classes)
    first, second = 3 * torch.randn(5, classes), 3 * torch.randn(5, classes)
    assert float(symmetric_kl(first, second)) == pytest.approx(kl_reference(first, second), rel=1e-5)
    stacked = symmetric_kl(torch.stack([first, first]), torch.stack([second, first]))
    assert stacked.tolist() == pytest.approx([kl_reference(first, second), 0.0], abs=1e-5)


def batch(rows=6):
    data = toy.data(rows)
    return {"input_ids": torch.tensor(data["input_ids"]), "labels": torch.tensor(data["label"])}


def parts(model):
    """A `compute_loss` of a model."""

    def compute_loss(inputs):
        outputs = model(**inputs)
        return outputs.loss, outputs

    return compute_loss


def test_r_drop_is_the_mean_of_two_passes_and_their_divergence():
    model, inputs = toy.model().train(), batch()
    torch.manual_seed(3)
    loss, _ = r_drop(parts(model), inputs, 0.7)
    torch.manual_seed(3)
    logits = model(**twice(inputs)).logits  # the same dropout
    first, second = logits[:6].double(), logits[6:].double()
    assert not torch.equal(first, second)
    ce = [torch.nn.functional.cross_entropy(part, inputs["labels"]) for part in (first, second)]
    expected = (ce[0] + ce[1]) / 2 + 0.7 * kl_reference(first.detach(), second.detach()) / 2
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_without_dropout_the_passes_agree():
    model, inputs = toy.model().eval(), batch()
    loss, _ = r_drop(parts(model), inputs, 5.0)
    torch.testing.assert_close(loss, model(**inputs).loss)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_r3f_is_the_clean_loss_and_the_divergence_under_noise(architecture, noise):
    model, inputs = toy.model(architecture).eval(), batch()
    inputs["input_ids"][0, 6:] = model.config.pad_token_id
    inputs["attention_mask"] = (inputs["input_ids"] != model.config.pad_token_id).long()
    embedding = model.get_input_embeddings()
    torch.manual_seed(5)
    loss, outputs = r3f(parts(model), inputs, embedding, 2.0, 0.3, noise)
    torch.manual_seed(5)
    clean = embedding(inputs["input_ids"])
    z = 0.3 * torch.randn_like(clean) if noise == "normal" else 0.3 * (2 * torch.rand_like(clean) - 1)
    plain = model(**inputs)
    noisy = model(inputs_embeds=clean + z, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(outputs.logits[:6], plain.logits)  # the embeddings are the tokens'
    expected = float(plain.loss.detach()) + 2.0 * kl_reference(plain.logits.detach(), noisy.detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert kl_reference(plain.logits.detach(), noisy.detach()) > 1e-6


def test_neutral_values_are_the_plain_loss():
    model, inputs = toy.model().train(), batch()
    for method in (
        lambda: r_drop(parts(model), inputs, 0.0),
        lambda: r3f(parts(model), inputs, model.get_input_embeddings(), 0.0),
    ):
        torch.manual_seed(1)
        expected = model(**inputs).loss
        torch.manual_seed(1)
        assert torch.equal(method()[0], expected)


def test_a_regression_and_an_unknown_noise_are_refused():
    model = toy.model(num_labels=1, problem_type="regression")
    inputs = {**batch(), "labels": torch.rand(6)}
    with pytest.raises(InputError, match="--r_drop: the model gives no distribution"):
        r_drop(parts(model), inputs, 1.0)
    with pytest.raises(InputError, match="--r3f: the model gives no distribution"):
        r3f(parts(model), inputs, model.get_input_embeddings(), 1.0)
    with pytest.raises(InputError, match="--r3f_noise loud: must be normal or uniform"):
        r3f(parts(model), inputs, model.get_input_embeddings(), 1.0, noise="loud")
