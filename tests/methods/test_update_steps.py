"""Each method as StableTrainer applies it: whole update steps next to a slow loop in float64.

The loop below is the oracle: it knows the papers' equations and nothing of the package. It is given the micro-batches that
the Trainer drew, and draws as it does from a generator that is seeded before each of them. SGD, so that a wrong gradient is
as wrong in the weights; two micro-batches a step, weight decay, with clipping and without.
"""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hf_stability import StableTrainer, StableTrainingArguments
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


STEPS, WEIGHT_DECAY = 3, 0.1
CLIPPING = {"clipped": (0.1, 1.0), "not clipped": (0.0, 0.1)}  # max_grad_norm and the rate
METHODS = {
    "none": {},
    "mixout": {"mixout": 0.6},
    "mixout_all": {"mixout": 0.6, "mixout_where": "all", "mixout_rescale_grad": True},
    "prior_decay": {"prior_decay": 0.5},
    "l2_sp": {"prior_decay": 0.5, "prior_decay_form": "l2_sp"},
    "layerwise_lr": {"layerwise_lr_decay": 0.7},
    "component_clip": {"component_clip": 0.06},
    "r_drop": {"r_drop": 1.5},
    "r3f": {"r3f": 3.0, "r3f_eps": 0.2},
    "r3f_normal": {"r3f": 3.0, "r3f_eps": 0.2, "r3f_noise": "normal"},
    "child_tuning_f": {"child_tuning": "F", "child_tuning_share": 0.4},
    "child_tuning_d": {"child_tuning": "D", "child_tuning_share": 0.4},
    "head_first": {"head_first": 0.5, "head_first_lr": 0.02},
    "ema": {"average": "ema", "average_from": 0.1, "average_decay": 0.7},
    "swa": {"average": "swa", "average_from": 0.1},
}


class RowsDropout(nn.Dropout):
    """A dropout that is known: row i of a batch has a mask of its own, the same each time."""

    first_row = 0

    def forward(self, x):
        if not self.training:
            return x
        rows = range(self.first_row, self.first_row + len(x))
        keep = [torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(row)) > 0.3 for row in rows]
        return x * torch.stack(keep) / 0.7


def toy_model(known_dropout):
    dropout = {"hidden_dropout_prob": 0.3 if known_dropout else 0.0, "attention_probs_dropout_prob": 0.0}
    model = toy.model(initializer_range=0.2, **dropout).double()  # all layers have gradients that count
    for module in model.modules():
        if known_dropout and isinstance(module, nn.Dropout):
            module.__class__ = RowsDropout
    return model


class Recording(StableTrainer):
    """Keeps the micro-batches, and seeds what is drawn in each."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.seen = [*getattr(self, "seen", []), dict(inputs)]
        torch.manual_seed(len(self.seen))
        return super().training_step(model, inputs, *args, **kwargs)


# ---- the oracle -----------------------------------------------------------------------------------------------------


class RefMixLinear(nn.Linear):
    """Mixout as in the paper's equation 5, its backward by autograd, or without the 1 / (1 - p)."""

    def forward(self, x):
        keep = torch.bernoulli(torch.full((self.in_features,), 1 - self.p))
        mixed = (keep * self.weight + (1 - keep) * self.start - self.p * self.start) / (1 - self.p)
        if not self.exact:
            mixed = mixed.detach() + keep * (self.weight - self.weight.detach())
        return F.linear(x, mixed, self.bias)


def put_mixout(model, p, where, exact):
    beside_a_dropout = r"attention\.self\.(query|key|value)|output\.dense|^classifier"
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (where == "all" or re.search(beside_a_dropout, name)):
            module.__class__, module.p, module.exact = RefMixLinear, p, exact
            module.start = module.weight.detach().clone()


def kl(first, second):
    p, q = first.softmax(-1), second.softmax(-1)
    return sum((p[i] * (p[i] / q[i]).log()).sum() for i in range(len(p))) / len(p)


def loss_of(model, batch, values):
    def logits(first_row=0, **inputs):
        RowsDropout.first_row = first_row
        try:
            return model(**inputs).logits
        finally:
            RowsDropout.first_row = 0

    ids, labels = batch["input_ids"], batch["labels"]
    if "r_drop" in values:  # L = (CE_1 + CE_2) / 2 + alpha (KL + KL) / 2
        one, two = logits(0, input_ids=ids), logits(len(ids), input_ids=ids)
        entropies = (F.cross_entropy(one, labels) + F.cross_entropy(two, labels)) / 2
        return entropies + values["r_drop"] * (kl(one, two) + kl(two, one)) / 2
    if "r3f" in values:
        clean = model.get_input_embeddings()(ids)
        uniform = values.get("r3f_noise", "uniform") == "uniform"
        noise = 2 * torch.rand_like(clean) - 1 if uniform else torch.randn_like(clean)
        one = logits(inputs_embeds=clean)
        two = logits(inputs_embeds=clean.detach() + values["r3f_eps"] * noise)
        return F.cross_entropy(one, labels) + values["r3f"] * (kl(one, two) + kl(two, one))
    return F.cross_entropy(logits(input_ids=ids), labels)


def rate_of(name, rate, decay):
    """The head's and the pooler's, times `decay` for each of the 3 layers below, and once more for the embeddings."""
    layer = re.search(r"encoder\.layer\.(\d)\.", name)
    depth = 3 - int(layer[1]) if layer else 4 if ".embeddings." in name else 0
    return rate * decay**depth


def fisher_masks(model, data, share, max_norm):
    """Of the encoder's layers the entries with the largest mean of a batch's squared gradient, clipped by its own norm."""
    chosen = {name: p for name, p in model.named_parameters() if ".encoder.layer." in name}
    information = {name: torch.zeros_like(p) for name, p in chosen.items()}
    for start in range(0, len(data), 4):
        rows = data[start : start + 4]
        batch = {"input_ids": torch.tensor(rows["input_ids"]), "labels": torch.tensor(rows["label"])}
        gradients = torch.autograd.grad(loss_of(model, batch, {}), list(chosen.values()))
        for name, gradient in zip(chosen, gradients, strict=True):
            information[name] += clipped(gradient, gradient.norm().item(), max_norm) ** 2
    every = sorted((value for part in information.values() for value in part.flatten().tolist()), reverse=True)
    least = every[round(share * len(every)) - 1]
    return {name: part >= least * (1 - 1e-6) for name, part in information.items()}  # compared in float32 there


def clipped(gradient, norm, max_norm):
    return gradient * min(1.0, max_norm / (norm + 1e-6)) if max_norm else gradient


def train_slowly(model, micro_batches, data, values, max_norm, rate):
    """SGD over the micro-batches, two a step, with a method; the model's weights in the end."""
    model.train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    if "mixout" in values:
        where, exact = values.get("mixout_where", "dropout"), values.get("mixout_rescale_grad", False)
        put_mixout(model, values["mixout"], where, exact)
    form, share = values.get("child_tuning"), values.get("child_tuning_share")
    masks = fisher_masks(model, data, share, max_norm) if form == "D" else None
    head_steps = math.ceil(values.get("head_first", 0) * STEPS)
    seen = []
    for step in range(STEPS):
        model.zero_grad()
        for k in (2 * step, 2 * step + 1):
            torch.manual_seed(k + 1)
            (loss_of(model, micro_batches[k], values) / 2).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        is_decayed = {name: not name.endswith("bias") and "LayerNorm" not in name for name in gradients}
        is_body = {name: not name.startswith("classifier") for name in gradients}
        prior = values.get("prior_decay", 0.0)
        for name, p in model.named_parameters():
            if prior and values.get("prior_decay_form") == "l2_sp" and is_body[name]:
                gradients[name] += prior * (p.detach() - start[name])
        if "component_clip" in values:
            limit = values["component_clip"]
            gradients = {
                name: clipped(gradient, gradient.norm().item(), limit) for name, gradient in gradients.items()
            }
        if step < head_steps:  # the encoder stays as it is, and has no part in the norm
            gradients = {name: gradient for name, gradient in gradients.items() if not is_body[name]}
        total = sum(gradient.square().sum().item() for gradient in gradients.values()) ** 0.5
        assert total > max_norm
        generator = torch.Generator().manual_seed(42 * 1_000_003 + step + 1)
        for name, p in model.named_parameters():
            if name not in gradients:
                continue
            gradient, w = clipped(gradients[name], total, max_norm), p.detach().clone()
            if form == "F":
                gradient *= torch.empty_like(gradient).bernoulli_(share, generator=generator) / share
            elif form == "D" and name in masks:
                gradient *= masks[name]
            own_rate = rate_of(name, rate, values.get("layerwise_lr_decay", 1.0))
            own_rate = values["head_first_lr"] if step < head_steps else own_rate
            if prior and "prior_decay_form" not in values and is_body[name] and is_decayed[name]:
                w -= own_rate * prior * (w - start[name])
            p.data = w - own_rate * (gradient + WEIGHT_DECAY * is_decayed[name] * w)
        seen.append(toy.weights(model).clone())
    return averaged(seen, values)


def averaged(seen, values):
    """The weights that a run ends with, from those after each step."""
    if "average" not in values:
        return seen[-1]
    seen = seen[math.ceil(values["average_from"] * STEPS) :]
    if values["average"] == "swa":
        return torch.stack(seen).mean(0)
    mean = seen[0]
    for weights in seen[1:]:
        mean = values["average_decay"] * mean + (1 - values["average_decay"]) * weights
    return mean


# ---- the tests ------------------------------------------------------------------------------------------------------


def arguments(folder, values, max_norm, rate):
    return StableTrainingArguments(
        str(folder),
        **toy.QUIET,
        optim="sgd",
        lr_scheduler_type="constant",
        learning_rate=rate,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=max_norm,
        max_steps=STEPS,
        total_train_batch_size=8,
        gradient_accumulation_steps=2,
        eval_strategy="no",
        **values,
    )


@pytest.mark.parametrize("clipping", CLIPPING)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "ema" else ()) for name in METHODS]
)
def test_update_steps_are_the_equations(name, clipping, tmp_path):
    values, data = METHODS[name], toy.data(24)
    model = toy_model(known_dropout=name == "r_drop")
    begun = copy.deepcopy(model)
    trainer = Recording(model, arguments(tmp_path, values, *CLIPPING[clipping]), train_dataset=data)
    trainer.train()
    assert len(trainer.seen) == 2 * STEPS and all(len(batch["labels"]) == 4 for batch in trainer.seen)
    expected = train_slowly(begun, trainer.seen, data, values, *CLIPPING[clipping])
    # R-Drop's and R3F's divergence is taken in float32, as are norms of the record's pass.
    torch.testing.assert_close(toy.weights(trainer), expected, rtol=1e-5, atol=1e-6)
