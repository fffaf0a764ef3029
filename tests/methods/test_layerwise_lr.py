import pytest
import torch

from hf_stability.errors import InputError
from hf_stability.methods.layerwise_lr import groups_table, layer_rates, layerwise_lr_groups
from hf_stability.utils.layers import layers_of
from tests import toy


def test_each_layer_has_a_share_of_the_rate_above():
    names = ["embeddings", "layer_00", "layer_01", "layer_02", "pooler", "classifier"]
    rates = layer_rates(names, 1e-3, 0.5)
    assert rates == {
        "embeddings": 1e-3 / 16,
        "layer_00": 1e-3 / 8,
        "layer_01": 1e-3 / 4,
        "layer_02": 1e-3 / 2,
        "pooler": 1e-3,
        "classifier": 1e-3,
    }
    assert set(layer_rates(names, 1e-3, 1.0).values()) == {1e-3}
    other = layer_rates(["embeddings", "layer_00", "final_norm", "classifier"], 1.0, 0.5)
    assert other == {"embeddings": 0.25, "layer_00": 0.5, "final_norm": 1.0, "classifier": 1.0}


@pytest.mark.parametrize(("architecture", "body"), [("bert", 4), ("roberta", 4), ("albert", 2)])
def test_every_parameter_is_in_one_group_with_its_layers_rate(architecture, body):
    model = toy.model(architecture)
    undecayed = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    groups = layerwise_lr_groups(layers_of(model), 1e-3, 0.9, 0.01, undecayed)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    left_out = {id(p) for p in undecayed}
    for group in groups:
        assert all((id(p) in left_out) == (group["weight_decay"] == 0.0) for p in group["params"])
    assert groups[0]["name"] == "classifier" and groups[0]["lr"] == 1e-3
    rates = sorted({group["lr"] for group in groups}, reverse=True)
    assert rates == pytest.approx([1e-3 * 0.9**k for k in range(body + 1)])  # ALBERT: one shared layer, and embeddings
    assert groups[-1]["name"].startswith("embeddings") and groups[-1]["lr"] == rates[-1]


def test_the_table_shows_all_of_it():
    model = toy.model()
    groups = layerwise_lr_groups(layers_of(model), 2e-5, 0.95, 0.01)
    lines = groups_table(groups).splitlines()
    assert len(lines) == 2 + len(groups)
    assert lines[2] == "| classifier | 2e-05 | 0.01 | 34 |"
    counts = [int(line.split("|")[4].replace(",", "")) for line in lines[2:]]
    assert sum(counts) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1, float("nan")])
def test_what_is_no_share_is_refused(decay):
    with pytest.raises(InputError, match="--layerwise_lr_decay"):
        layer_rates(["layer_00"], 1e-3, decay)


def test_a_model_without_layers_is_refused():
    head = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match="no layer below the head"):
        layerwise_lr_groups({"classifier": [head]}, 1e-3, 0.9)
