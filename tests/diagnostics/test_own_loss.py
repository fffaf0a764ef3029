"""The gradient at the logits tells custom losses from the plain mean cross entropy."""

import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, one_hot
from transformers import Trainer, TrainingArguments

from hf_stability.diagnostics.own_loss import LossCheck, differs
from tests import toy


def focal(logits, labels):
    log_p = log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def weighted(*weights):
    return lambda logits, labels: cross_entropy(logits, labels, weight=torch.tensor(weights, dtype=logits.dtype))


def weighted_examples(logits, labels):
    return (cross_entropy(logits, labels, reduction="none") * torch.linspace(1, 2, len(labels))).mean()


def mixed(logits, labels):
    return cross_entropy(logits, labels) + 0.1 * logits.square().mean()


PLAIN = {
    "mean": cross_entropy,
    "sum": lambda logits, labels: cross_entropy(logits, labels, reduction="sum"),
    "loss scaling": lambda logits, labels: 65536 * cross_entropy(logits.float(), labels),
    "accumulation": lambda logits, labels: cross_entropy(logits, labels) / 64,
    "equal weights": weighted(2.0, 2.0),
    "written out": lambda logits, labels: -(log_softmax(logits, -1) * one_hot(labels, 2)).sum(-1).mean(),
}
OWN = {
    "weights (1, 3)": weighted(1.0, 3.0),
    "weights (1, 12)": weighted(1.0, 12.0),
    "weights (1, 1.2)": weighted(1.0, 1.2),
    "label smoothing": lambda logits, labels: cross_entropy(logits, labels, label_smoothing=0.1),
    "focal": focal,
    "weighted examples": weighted_examples,
    "another term": mixed,
    "turned round": lambda logits, labels: -cross_entropy(logits, labels),
    "hinge": lambda logits, labels: nn.functional.multi_margin_loss(logits.float(), labels),
    "binary, of one-hot labels": lambda logits, labels: nn.functional.binary_cross_entropy_with_logits(
        logits, one_hot(labels, logits.shape[-1]).to(logits.dtype)
    ),
}


def batch(n=16, classes=2, seed=0, dtype=torch.float32, scale=1.0, share=0.5):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)).to(dtype)
    labels = (torch.rand(n, generator=generator) < share).long() * torch.randint(1, classes, (n,), generator=generator)
    labels[:2] = torch.tensor([0, 1])
    return logits.requires_grad_(), labels


def found(loss_function, logits, labels, check=None):
    check = LossCheck() if check is None else check
    assert check.watch(logits, labels) is None
    loss_function(logits, labels).backward()
    return check.is_own()


def oracle(gradient, logits, labels) -> bool:
    """In float64: whether one positive factor fits all examples that count."""
    rows = [i for i, label in enumerate(labels.tolist()) if label != -100]
    d = logits.double().softmax(-1)[rows] - one_hot(labels[rows], logits.shape[-1])
    g = gradient.double()[rows]
    factor = float((g * d).sum() / (d * d).sum())
    return factor <= 0 or float((g - factor * d).norm()) > 1e-3 * float(g.norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_mean_cross_entropy_in_any_unit_is_not_custom(name, scale, dtype):
    for seed in range(10):
        for share in (0.5, 0.07):
            logits, labels = batch(seed=seed, dtype=dtype, scale=scale, share=share)
            assert found(PLAIN[name], logits, labels).item() is False


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", [name for name in OWN if "1.2" not in name])
def test_a_custom_loss_is_found_within_ten_steps(name, dtype):
    check = LossCheck()
    for seed in range(10):
        logits, labels = batch(seed=seed, dtype=dtype, scale=1.0, share=0.07)
        found(OWN[name], logits, labels, check)
    assert check.is_own().item() is True


OF_TWO_CLASSES = {"equal weights", "written out", *(name for name in OWN if name.startswith("weights"))}


@pytest.mark.parametrize(
    "name, classes",
    [(name, classes) for name in PLAIN | OWN for classes in (2, 3, 10) if classes == 2 or name not in OF_TWO_CLASSES],
)
def test_it_agrees_with_the_oracle_in_float64(name, classes):
    for seed in range(20):
        logits, labels = batch(classes=classes, seed=seed, dtype=torch.float64)
        own = found((PLAIN | OWN)[name], logits, labels)
        assert own.item() is oracle(logits.grad, logits.detach(), labels)


def test_small_weights_are_found_in_float32():
    assert found(OWN["weights (1, 1.2)"], *batch()).item()


def test_one_class_alone_hides_class_weights_and_no_later_step_takes_a_finding_back():
    check, (logits, labels) = LossCheck(), batch()
    assert not found(weighted(1.0, 12.0), logits, torch.zeros_like(labels), check)
    assert found(weighted(1.0, 12.0), *batch(), check)
    assert found(cross_entropy, *batch(seed=1), check)


def test_micro_batches_of_other_sizes_may_each_have_a_factor():
    check = LossCheck()
    for n in (16, 16, 3, 2):
        found(lambda logits, labels: cross_entropy(logits, labels, reduction="sum") / 37, *batch(n), check)
    assert check.is_own().item() is False


def test_ignored_labels_are_left_out():
    logits, labels = batch()
    labels[3:] = -100
    assert found(cross_entropy, logits, labels).item() is False
    logits, labels = batch()
    labels[3:8] = -100
    assert found(weighted(1.0, 3.0), logits, labels).item() is True


def test_a_batch_without_any_label_is_no_finding():
    logits, labels = batch()
    assert found(cross_entropy, logits, torch.full_like(labels, -100)).item() is False
    assert found(lambda logits, labels: logits.sum() * math.nan, *batch()).item() is False


@pytest.mark.parametrize("masked", [-math.inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("name, own", [("mean", False), ("label smoothing", True), ("focal", True)])
def test_masked_classes_decide_nothing(masked, name, own):
    logits, labels = batch(classes=4)
    logits, labels = logits.detach(), labels % 2
    logits[:, 2:] = masked
    logits.requires_grad_()
    if name == "label smoothing":  # of the two classes that are left: torch's own would be infinite

        def loss_function(logits, labels):
            return cross_entropy(logits[:, :2], labels, label_smoothing=0.1)

    else:
        loss_function = (PLAIN | OWN)[name]
    assert found(loss_function, logits, labels).item() is own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("distance", [8.0, 14.0, 17.0, 40.0])
def test_a_perfectly_fitted_batch_is_no_finding(dtype, distance):
    _, labels = batch()
    logits = (distance * (2.0 * one_hot(labels, 2) - 1) + 0.1 * torch.randn(16, 2)).to(dtype).requires_grad_()
    assert found(cross_entropy, logits, labels).item() is False


def test_logits_that_need_no_gradient_and_labels_of_another_shape_are_not_watched():
    check, (logits, labels) = LossCheck(), batch()
    check.watch(logits.detach(), labels)
    check.watch(logits, labels[:3])
    check.watch(logits, torch.zeros(16, 2))
    cross_entropy(logits, labels).backward()
    assert check.is_own() is None


def test_logits_on_which_the_loss_does_not_depend_decide_nothing():
    check, (logits, labels) = LossCheck(), batch()
    check.watch(logits, labels)
    cross_entropy(batch()[0], labels).backward()
    assert check.is_own() is None


def test_half_precision_under_autocast():
    torch.manual_seed(0)
    layer, check, own_check = nn.Linear(8, 2), LossCheck(), LossCheck()
    for seed in range(10):
        _, labels = batch(seed=seed)
        for loss_function, one in ((cross_entropy, check), (weighted(1.0, 3.0), own_check)):
            with torch.autocast("cpu", torch.bfloat16):
                logits = layer(torch.randn(16, 8))
            assert logits.dtype == torch.bfloat16
            one.watch(logits, labels)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_function(logits if one is check else logits.float(), labels)
            loss.backward()
    assert check.is_own().item() is False and own_check.is_own().item() is True


def test_the_training_is_bitwise_untouched_and_memory_is_flat():
    gradients, graphs, check = [], [], LossCheck()
    for watched in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(8, 2)
        for _ in range(5):
            logits = layer(torch.randn(16, 8))
            if watched:
                check.watch(logits, torch.arange(16) % 2)
                graphs.append(weakref.ref(logits))
            cross_entropy(logits, torch.arange(16) % 2).backward()
        gradients.append(layer.weight.grad.clone())
    assert torch.equal(*gradients)
    del logits
    gc.collect()
    assert [ref() for ref in graphs] == [None] * 5
    assert [value.shape for value in vars(check).values() if isinstance(value, torch.Tensor)] == [()]


def test_a_step_without_a_backward_pass_holds_nothing():
    logits, labels = batch()
    made = logits * 1
    LossCheck().watch(made, labels)
    ref = weakref.ref(made)
    del made
    assert ref() is None  # without the garbage collector: no cycle


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e30])
def test_the_size_of_the_gradient_does_not_matter(size):
    logits, labels = batch()
    d = logits.detach().softmax(-1) - one_hot(labels, 2)
    weights = torch.where(labels == 1, 3.0, 1.0)[:, None]
    assert not differs(size * d, logits, labels) and differs(size * d * weights, logits, labels)
    assert differs(-size * d, logits, labels) and not differs(0 * d, logits, labels)


def test_token_labels_are_watched_too():
    logits = torch.randn(3, 5, 4, requires_grad=True)
    labels = torch.randint(0, 4, (3, 5))
    labels[:, 3:] = -100
    assert found(lambda x, y: cross_entropy(x.flatten(0, 1), y.flatten()), logits, labels).item() is False


class Weighted(Trainer):
    """As in the Trainer's documentation: the model gets the labels, and also computes its own loss."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 3.0]))
        return (loss, outputs) if return_outputs else loss


def train_watched(tmp_path, trainer_class, watched=True, **values):
    """Trains a small BERT for three update steps. Returns whether its loss is custom, and its weights."""
    made, check = toy.model(), LossCheck()

    def observe(module, args, kwargs, output):
        if module.training and watched:
            check.watch(output.logits, kwargs["labels"])

    made.register_forward_hook(observe, with_kwargs=True)
    arguments = {"per_device_train_batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, **toy.QUIET, **values}
    trainer = trainer_class(
        model=made, args=TrainingArguments(tmp_path, **arguments), train_dataset=toy.data(64, length=8)
    )
    trainer.train()
    return check.is_own(), toy.weights(trainer)


@pytest.mark.parametrize("values", [{}, {"gradient_accumulation_steps": 3}, {"bf16": True}], ids=str)
def test_the_trainers_own_loss_and_one_with_class_weights(tmp_path, values):
    own, weights = train_watched(tmp_path / "plain", Trainer, **values)
    # With autocast, accelerate returns a copy of the logits in float32. The model's own loss does not depend on that copy.
    assert own is None if values.get("bf16") else own.item() is False
    assert train_watched(tmp_path / "weighted", Weighted, **values)[0].item() is True
    assert torch.equal(weights, train_watched(tmp_path / "unwatched", Trainer, watched=False, **values)[1])
