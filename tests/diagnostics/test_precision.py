"""Half precision by accident: which models are told, and that what they are told is true."""

from __future__ import annotations

import pytest
import torch

from hf_stability.diagnostics.precision import half_precision_weights
from tests import toy


HALF = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_in_float32_or_wider_is_in_order(dtype):
    assert half_precision_weights(toy.model().to(dtype)) == ""


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_model_is_told_with_its_dtype_how_many_weights_why_and_the_way_out(dtype):
    model = toy.model().to(dtype)
    count = f"{sum(p.numel() for p in model.parameters()):,}"
    said = half_precision_weights(model)
    assert said.startswith(f"{count} of {count} trainable weights are {str(dtype).removeprefix('torch.')}. ")
    assert "is lost in rounding" in said and ("eps" in said) == (dtype == torch.float16)
    assert "from_pretrained(..., dtype=torch.float32)" in said and "bf16=True or fp16=True" in said


def test_only_what_is_trained_counts():
    model = toy.model().half()
    for parameter in model.bert.parameters():
        parameter.requires_grad = False
    model.classifier.float()
    assert half_precision_weights(model) == ""
    model.classifier.bias.data = model.classifier.bias.data.bfloat16()
    assert half_precision_weights(model).startswith("2 of 34 trainable weights are bfloat16. ")


def test_two_dtypes_are_both_named():
    model = toy.model().half()
    model.classifier.bfloat16()
    said = half_precision_weights(model)
    assert " trainable weights are float16 or bfloat16. " in said and "1/2048 (float16) or 1/256 (bfloat16)" in said


@pytest.mark.parametrize(("adapters", "told"), [(torch.float32, False), (torch.float16, True)])
def test_adapters_on_a_half_base(adapters, told):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    model = peft.get_peft_model(toy.model().half(), lora, autocast_adapter_dtype=False)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(adapters)
    assert bool(half_precision_weights(model)) == told


def test_quantised_weights_do_not_count():
    model = toy.model()
    dense = model.bert.encoder.layer[0].output.dense
    # as bitsandbytes has them
    dense.weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    assert half_precision_weights(model) == ""


@pytest.mark.parametrize("mark", [{"ds_id": 3, "ds_numel": 16}, {"_hp_mapping": object()}])
def test_weights_that_deepspeed_has_in_float32_too_are_in_order(mark):
    model = torch.nn.Linear(4, 4, bias=False).bfloat16()
    assert half_precision_weights(model)
    for name, value in mark.items():
        setattr(model.weight, name, value)
    assert half_precision_weights(model) == ""


def test_a_model_without_trainable_weights_is_in_order():
    assert half_precision_weights(torch.nn.Linear(2, 2).half().requires_grad_(False)) == ""


@pytest.mark.parametrize(("dtype", "share"), zip(HALF, (2048, 256), strict=True))
def test_an_update_below_the_share_that_is_named_is_lost(dtype, share):
    assert f"1/{share} " in half_precision_weights(torch.nn.Linear(2, 2).to(dtype))
    weight = torch.tensor(1.0, dtype=dtype)
    assert weight + 0.99 / share == weight and weight + 1.01 / share > weight
    assert torch.tensor(1.0) + 0.99 / share > 1


def test_adamws_default_eps_is_zero_in_float16():
    assert torch.tensor(1e-8, dtype=torch.float16) == 0
