import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.methods.adamw import UNCORRECTED_START, AdamW, effective_step_factor
from tests import toy


SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
IMPLEMENTATIONS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"fused": False, "foreach": False},
}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return IMPLEMENTATIONS[request.param]


def make_parameters(shapes=SHAPES, dtype=torch.float64, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype))
        for shape in shapes
    ]


def set_gradients(parameters, step, seed=0):
    """Gradients that depend on nothing but the step. Their scale changes over time, so that v is far from constant."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    for p in parameters:
        gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64) * (1.5 + math.sin(step / 20))
        p.grad = gradient.to(p.device, p.dtype)


def train(optimizer, steps, start=0):
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(start, start + steps):
        set_gradients(parameters, step)
        optimizer.step()
    return parameters


def assert_bitwise(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def assert_same_state(ours, theirs):
    """Bitwise equal state of two optimizers, in parameter order."""
    a, b = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert a.keys() == b.keys()
    for index in a:
        assert a[index].keys() == b[index].keys()
        for key in a[index]:
            assert torch.equal(a[index][key], b[index][key]), (index, key)


def reference(theta, gradients, lr, beta1, beta2, eps, weight_decay, bias_correction):
    """The docstring's equations, element by element, in Python's floats (float64). theta: list of floats."""
    theta = list(theta)
    m, v = [0.0] * len(theta), [0.0] * len(theta)
    for t, gradient in enumerate(gradients, start=1):
        c1 = 1 - beta1**t if bias_correction else 1.0
        c2 = 1 - beta2**t if bias_correction else 1.0
        for i, g in enumerate(gradient):
            theta[i] = theta[i] * (1 - lr * weight_decay)  # rounded as torch does: 600 differences drift by 1e-14
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            theta[i] = theta[i] - lr * (m[i] / c1) / (math.sqrt(v[i] / c2) + eps)
    return theta


# The plain function


def test_factor_has_the_papers_values():
    steps = np.array([1, 10, 100, 156, 468, 1000])
    factors = effective_step_factor(steps)
    assert factors.shape == (6,)
    assert factors.round(4).tolist() == [0.3162, 0.1532, 0.3086, 0.3801, 0.6115, 0.7952]


def test_factor_of_a_number_is_a_float_and_of_an_array_an_array():
    assert type(effective_step_factor(10)) is float
    assert effective_step_factor(1, 0.9, 0.98) == pytest.approx(math.sqrt(0.02) / 0.1)
    assert effective_step_factor([[1, 2], [3, 4]]).shape == (2, 2)
    assert effective_step_factor(7, bias_correction=False) == 1.0
    assert effective_step_factor([1, 2], bias_correction=False).tolist() == [1.0, 1.0]


def test_share_of_the_steps_that_correction_leaves():
    """Summed over the schedule of 10% warmup: 0.37 for RTE x 3 epochs (468 updates), 0.76 for RTE x 20 (3120)."""
    for total, share in ((468, 0.37), (3120, 0.76)):
        t = np.arange(1, total + 1)
        warmup = int(0.1 * total)
        rate = np.minimum(t / warmup, (total - t) / (total - warmup))
        assert (rate * effective_step_factor(t)).sum() / rate.sum() == pytest.approx(share, abs=0.005)


def test_factor_is_the_ratio_of_the_two_updates():
    """What the function says is what the optimizer does: one corrected step over one uncorrected, at eps 0."""
    moved = {}
    for bias_correction in (True, False):
        parameters = make_parameters()
        optimizer = AdamW(parameters, eps=0.0, weight_decay=0.0, bias_correction=bias_correction)
        for t in range(1, 12):
            before = [p.detach().clone() for p in parameters]
            set_gradients(parameters, t)
            optimizer.step()
        moved[bias_correction] = torch.cat([(p - b).flatten() for p, b in zip(parameters, before, strict=True)])
    ratio = (moved[True] / moved[False]).detach().numpy()
    np.testing.assert_allclose(ratio, effective_step_factor(11), rtol=1e-9)


@pytest.mark.parametrize("kwargs", [{"step": 0}, {"step": [1, -3]}, {"step": float("nan")}, {"step": 1, "beta1": 1.0}])
def test_factor_refuses_what_is_no_update(kwargs):
    with pytest.raises(ValueError, match="update steps are counted from 1|beta1=1.0: must be 0 or more, and below 1"):
        effective_step_factor(**kwargs)


# Against the equations


@pytest.mark.parametrize("bias_correction", [True, False])
def test_600_steps_of_the_equations(implementation, bias_correction):
    settings_ = {"lr": 3e-3, "eps": 1e-6, "weight_decay": 0.05}
    parameters = make_parameters()
    initial = torch.cat([p.detach().flatten() for p in parameters]).tolist()
    gradients = []
    optimizer = AdamW(parameters, betas=(0.9, 0.999), bias_correction=bias_correction, **settings_, **implementation)
    for step in range(600):
        set_gradients(parameters, step)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]).tolist())
        optimizer.step()
    expected = reference(initial, gradients, beta1=0.9, beta2=0.999, bias_correction=bias_correction, **settings_)
    got = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    # Relative to the size of the weights: one that happens to cross zero has few digits of its own.
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error < 1e-15


def test_the_two_differ():
    """Guards the tests above: over their few hundred steps, the switch is no rounding matter."""
    corrected = train(AdamW(make_parameters(), bias_correction=True), 100)
    plain = train(AdamW(make_parameters(), bias_correction=False), 100)
    assert max((a - b).abs().max().item() for a, b in zip(corrected, plain, strict=True)) > 0.01


@given(
    lr=st.floats(1e-7, 1e-1),
    beta1=st.floats(0.0, 0.99),
    beta2=st.floats(0.0, 0.9999),
    eps=st.floats(1e-10, 1e-2),
    weight_decay=st.floats(0.0, 0.5),
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=3),
    name=st.sampled_from(sorted(IMPLEMENTATIONS)),
    bias_correction=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_any_settings_follow_the_equations(lr, beta1, beta2, eps, weight_decay, shapes, name, bias_correction, seed):
    parameters = make_parameters(shapes, seed=seed)
    initial = torch.cat([p.detach().flatten() for p in parameters]).tolist()
    gradients = []
    optimizer = AdamW(
        parameters,
        lr=lr,
        betas=(beta1, beta2),
        eps=eps,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        **IMPLEMENTATIONS[name],
    )
    for step in range(8):
        set_gradients(parameters, step, seed)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]).tolist())
        optimizer.step()
    expected = reference(initial, gradients, lr, beta1, beta2, eps, weight_decay, bias_correction)
    got = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


# Against torch's own


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_with_correction_it_is_torchs_bit_for_bit(implementation, device, dtype, amsgrad):
    kwargs = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": amsgrad}
    ours = AdamW(make_parameters(dtype=dtype, device=device), **kwargs, **implementation)
    theirs = torch.optim.AdamW(make_parameters(dtype=dtype, device=device), **kwargs, **implementation)
    assert ours.param_groups[0]["bias_correction"] is True  # the default
    for start in (0, 10):
        assert_bitwise(train(ours, 10, start), train(theirs, 10, start))
    assert_same_state(ours, theirs)


def test_plain_defaults_are_torchs():
    assert_bitwise(train(AdamW(make_parameters()), 20), train(torch.optim.AdamW(make_parameters()), 20))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_counter_starts_high_and_lives_where_torch_puts_it(implementation, device, dtype):
    ours = AdamW(make_parameters(dtype=dtype, device=device), bias_correction=False, **implementation)
    theirs = torch.optim.AdamW(make_parameters(dtype=dtype, device=device), **implementation)
    ours_parameters, their_parameters = train(ours, 3), train(theirs, 3)
    for p, q in zip(ours_parameters, their_parameters, strict=True):
        step, their_step = ours.state[p]["step"], theirs.state[q]["step"]
        assert step.item() == UNCORRECTED_START + 3
        assert (step.device, step.dtype, step.shape) == (their_step.device, their_step.dtype, their_step.shape)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_capturable_on_cuda(foreach):
    ours = AdamW(make_parameters(device="cuda"), bias_correction=False, capturable=True, foreach=foreach)
    plain = AdamW(make_parameters(), bias_correction=False)
    parameters = train(ours, 50)
    assert ours.state[parameters[0]]["step"].device.type == "cuda"
    # The counter is a float32 on the device, and torch computes the step size in it: not the last digits.
    for p, q in zip(parameters, train(plain, 50), strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=1e-6, atol=1e-8)


def test_factors_are_exactly_1_from_the_first_to_the_last_count():
    """Also where the float32 counter stands still, at 2^24."""
    for t in (UNCORRECTED_START + 1, 2**24):
        for beta in (0.9, 0.98, 0.999, 0.9999, 0.999996):
            assert 1 - beta**t == 1.0
    assert torch.tensor(float(UNCORRECTED_START)) + 1 == UNCORRECTED_START + 1
    assert torch.tensor(2.0**24) + 1 == 2**24


def test_without_correction_the_counters_limit_changes_nothing(implementation):
    """Beyond 2^24 the counter no longer moves, the weights still do and as before."""
    late = AdamW(make_parameters(), bias_correction=False, **implementation)
    early = AdamW(make_parameters(), bias_correction=False, **implementation)
    parameters, twins = train(late, 5), train(early, 5)
    for p in parameters:
        late.state[p]["step"].fill_(2**24)
    assert_bitwise(train(late, 5, 5), train(early, 5, 5))
    assert late.state[parameters[0]]["step"].item() == 2**24
    assert early.state[twins[0]]["step"].item() == UNCORRECTED_START + 10


# Groups


def test_groups_may_differ(implementation):
    first, second = make_parameters(seed=1), make_parameters(seed=2)
    mixed = AdamW(
        [{"params": first, "bias_correction": False}, {"params": second}], bias_correction=True, **implementation
    )
    alone_off = AdamW(make_parameters(seed=1), bias_correction=False, **implementation)
    alone_on = AdamW(make_parameters(seed=2), bias_correction=True, **implementation)
    for step in range(20):
        for optimizer in (mixed, alone_off, alone_on):
            for group in optimizer.param_groups:
                set_gradients(group["params"], step)
            optimizer.step()
    assert_bitwise(first, alone_off.param_groups[0]["params"])
    assert_bitwise(second, alone_on.param_groups[0]["params"])


def test_add_param_group_in_mid_training(implementation):
    optimizer = AdamW(make_parameters(seed=1), bias_correction=False, **implementation)
    train(optimizer, 5)
    added, corrected = make_parameters(seed=2), make_parameters(seed=3)
    optimizer.add_param_group({"params": added})
    optimizer.add_param_group({"params": corrected, "bias_correction": True})
    assert [group["bias_correction"] for group in optimizer.param_groups] == [False, False, True]
    train(optimizer, 2)
    assert {optimizer.state[p]["step"].item() for p in added} == {UNCORRECTED_START + 2}
    assert {optimizer.state[p]["step"].item() for p in corrected} == {2}

    with pytest.raises(ValueError, match="bias_correction=.no.: must be True or False"):
        optimizer.add_param_group({"params": make_parameters(), "bias_correction": "no"})
    assert len(optimizer.param_groups) == 3  # refused before it was added


def test_named_parameters():
    model = torch.nn.Linear(3, 2)
    optimizer = AdamW(model.named_parameters(), bias_correction=False)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.state[model.weight]["step"].item() == UNCORRECTED_START + 1


def test_a_parameter_whose_first_gradient_comes_late(implementation):
    """Its counter starts then, at the same number, and its first step is an uncorrected first step."""
    early, late = make_parameters([(4,)], seed=1), make_parameters([(4,)], seed=2)
    optimizer = AdamW(early + late, bias_correction=False, **implementation)
    before = late[0].detach().clone()
    for step in range(7):
        set_gradients(early, step)
        late[0].grad = None
        optimizer.step()
    assert late[0] not in optimizer.state and torch.equal(late[0], before)

    twin = make_parameters([(4,)], seed=2)
    alone = AdamW(twin, bias_correction=False, **implementation)
    for step in range(7, 10):
        set_gradients(early, step)
        set_gradients(late, step)
        set_gradients(twin, step)
        optimizer.step()
        alone.step()
    assert_bitwise(late, twin)
    assert optimizer.state[early[0]]["step"].item() == UNCORRECTED_START + 10
    assert optimizer.state[late[0]]["step"].item() == UNCORRECTED_START + 3


def test_looking_at_the_state_does_not_spoil_the_start():
    """`optimizer.state` is a defaultdict: a look leaves an empty dict behind."""
    parameters = make_parameters([(4,)])
    optimizer = AdamW(parameters, bias_correction=False)
    assert optimizer.state[parameters[0]] == {}
    train(optimizer, 1)
    assert optimizer.state[parameters[0]]["step"].item() == UNCORRECTED_START + 1


# Saving and resuming


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resume_continues_bitwise(implementation, device, bias_correction, dtype):
    def make():
        return AdamW(
            make_parameters(dtype=dtype, device=device), lr=0.01, bias_correction=bias_correction, **implementation
        )

    through = make()
    expected = train(through, 30)

    first = make()
    weights = [p.detach().clone() for p in train(first, 13)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = make()
    with torch.no_grad():
        for p, w in zip(resumed.param_groups[0]["params"], weights, strict=True):
            p.copy_(w)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert_bitwise(train(resumed, 17, start=13), expected)
    assert_same_state(resumed, through)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("bias_correction", [True, False])
def test_copies_continue_bitwise(implementation, bias_correction, copier):
    optimizer = AdamW(make_parameters(), bias_correction=bias_correction, **implementation)
    train(optimizer, 5)
    twin = copier(optimizer)
    assert twin.defaults["bias_correction"] is bias_correction
    parameters = train(optimizer, 5, 5)
    twins = train(twin, 5, 5)
    assert all(p is not q for p, q in zip(parameters, twins, strict=True))
    assert_bitwise(parameters, twins)

    added = make_parameters([(2,)])
    twin.add_param_group({"params": added})  # the default came along
    assert twin.param_groups[-1]["bias_correction"] is bias_correction


@pytest.mark.parametrize("saved", [True, False])
def test_loading_the_other_switch_is_an_error(saved):
    source = AdamW(make_parameters(), bias_correction=saved)
    train(source, 3)
    target = AdamW(make_parameters(), bias_correction=not saved)
    with pytest.raises(ValueError, match=f"bias_correction={saved}, this optimizer has bias_correction={not saved}"):
        target.load_state_dict(source.state_dict())
    assert not target.state  # untouched
    assert target.param_groups[0]["bias_correction"] is not saved


def test_the_error_names_the_group():
    def make(second):
        return AdamW(
            [{"params": make_parameters([(2,)])}, {"params": make_parameters([(3,)]), "bias_correction": second}],
            bias_correction=False,
        )

    make(True).load_state_dict(make(True).state_dict())
    with pytest.raises(ValueError, match="parameter group 1"):
        make(True).load_state_dict(make(False).state_dict())


def test_a_state_of_torchs_own_adamw():
    """It always corrects: it loads where we do, too, and nowhere else."""
    theirs = torch.optim.AdamW(make_parameters())
    train(theirs, 5)
    ours = AdamW(make_parameters())
    train(ours, 5)
    state = copy.deepcopy(theirs.state_dict())  # torch loads without copying, the two would share their moments
    with pytest.raises(ValueError, match="bias_correction=True, this optimizer has bias_correction=False"):
        AdamW(make_parameters(), bias_correction=False).load_state_dict(state)
    ours.load_state_dict(state)
    assert ours.param_groups[0]["bias_correction"] is True
    assert_bitwise(train(ours, 5, 5), train(theirs, 5, 5))


def test_a_wrong_number_of_groups_stays_torchs_error():
    one = AdamW(make_parameters())
    two = AdamW([{"params": make_parameters()}, {"params": make_parameters()}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        one.load_state_dict(two.state_dict())


# Bad values


@pytest.mark.parametrize("value", ["false", 0, 1, None, 0.0])
def test_bias_correction_must_be_a_bool(value):
    with pytest.raises(ValueError, match=f"bias_correction={value!r}: must be True or False"):
        AdamW(make_parameters(), bias_correction=value)
    with pytest.raises(ValueError, match=f"bias_correction={value!r}: must be True or False"):
        AdamW([{"params": make_parameters(), "bias_correction": value}])


@pytest.mark.parametrize(
    "betas, message", [((0.9, 0.99999999), "beta2=0.99999999"), ((0.9999999, 0.999), "beta1=0.9")]
)
def test_a_beta_too_close_to_1_is_an_error_only_without_correction(betas, message):
    AdamW(make_parameters(), betas=betas)
    with pytest.raises(ValueError, match=message):
        AdamW(make_parameters(), betas=betas, bias_correction=False)
    with pytest.raises(ValueError, match=message):
        AdamW([{"params": make_parameters(), "betas": betas}], bias_correction=False)
    optimizer = AdamW(make_parameters(), bias_correction=False)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": make_parameters(), "betas": betas})


@pytest.mark.parametrize("betas", [(0.0, 0.0), (0.9, 0.9999), (0.999996, 0.999996)])
def test_usual_betas_are_fine(betas):
    train(AdamW(make_parameters(), betas=betas, bias_correction=False), 1)


def test_torchs_own_checks_still_stand():
    with pytest.raises(ValueError, match="Invalid learning rate"):
        AdamW(make_parameters(), lr=-1.0, bias_correction=False)
    with pytest.raises(TypeError, match="unexpected keyword"):
        AdamW(make_parameters(), correct_bias=False)


# In a training loop


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize("skip_at", [0, 4])
def test_a_step_the_grad_scaler_skips_changes_nothing(bias_correction, skip_at):
    """`GradScaler.step` hands `grad_scale` and `found_inf` to an optimizer whose step supports them: the fused one."""

    def make():
        return AdamW(make_parameters(dtype=torch.float32), fused=True, bias_correction=bias_correction)

    optimizer, plain = make(), make()
    assert optimizer._step_supports_amp_scaling
    train(plain, 8)
    parameters = optimizer.param_groups[0]["params"]
    start = UNCORRECTED_START if not bias_correction else 0
    scale = torch.tensor(8.0)

    def scaled_step(step, overflow):
        set_gradients(parameters, step)
        for p in parameters:
            p.grad.mul_(scale)
            if overflow:
                p.grad.fill_(float("inf"))
        optimizer.grad_scale, optimizer.found_inf = scale, torch.tensor(float(overflow))
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf

    for step in range(8):
        if step == skip_at:
            weights = [p.detach().clone() for p in parameters]
            moments = [copy.deepcopy(optimizer.state[p]) for p in parameters] if step else None
            scaled_step(step, overflow=True)
            assert_bitwise(parameters, weights)
            for i, p in enumerate(parameters):
                assert optimizer.state[p]["step"].item() == start + step
                for key in ("exp_avg", "exp_avg_sq"):
                    before = moments[i][key] if step else torch.zeros_like(p)
                    assert torch.equal(optimizer.state[p][key], before)
        scaled_step(step, overflow=False)
    # A scale that is a power of 2 costs no digits: as if there had been neither scale nor overflow.
    assert_bitwise(parameters, plain.param_groups[0]["params"])
    assert_same_state(optimizer, plain)


@pytest.mark.parametrize("device", DEVICES)
def test_torchs_grad_scaler(implementation, device):
    """The scaler itself, with one overflow: a skipped update does not count, whatever the implementation."""
    model = torch.nn.Linear(3, 1).to(device)
    optimizer = AdamW(model.parameters(), bias_correction=False, **implementation)
    scaler = torch.amp.GradScaler(device, init_scale=16.0)
    for step in range(4):
        optimizer.zero_grad()
        value = float("inf") if step == 2 else 1.0
        before = model.weight.detach().clone()
        scaler.scale((model(torch.ones(2, 3, device=device)) * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(before, model.weight) == (step == 2)
    assert optimizer.state[model.weight]["step"].item() == UNCORRECTED_START + 3
    assert torch.isfinite(model.weight).all()


def test_closure(implementation):
    (p,) = make_parameters([(4,)])
    optimizer = AdamW([p], bias_correction=False, **implementation)

    def closure():
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert optimizer.state[p]["step"].item() == UNCORRECTED_START + 5


@pytest.mark.parametrize("name", ["fused", "for-loop"])
def test_lr_as_a_tensor(name):
    """Where torch allows it: foreach does not, unless capturable."""
    tensor = AdamW(
        make_parameters(), lr=torch.tensor(0.01, dtype=torch.float64), bias_correction=False, **IMPLEMENTATIONS[name]
    )
    number = AdamW(make_parameters(), lr=0.01, bias_correction=False, **IMPLEMENTATIONS[name])
    for p, q in zip(train(tensor, 20), train(number, 20), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="lr as a Tensor is not supported"):
        AdamW(make_parameters(), lr=torch.tensor(0.01), foreach=True, bias_correction=False)


@pytest.mark.parametrize("name", ["fused", "for-loop"])
def test_betas_as_tensors(name):
    betas = (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.999, dtype=torch.float64))
    tensor = AdamW(make_parameters(), betas=betas, bias_correction=False, **IMPLEMENTATIONS[name])
    number = AdamW(make_parameters(), bias_correction=False, **IMPLEMENTATIONS[name])
    for p, q in zip(train(tensor, 20), train(number, 20), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    too_close = (torch.tensor(0.9), torch.tensor(0.9999999))
    with pytest.raises(ValueError, match="too close to 1"):
        AdamW(make_parameters(), betas=too_close, bias_correction=False)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_under_a_schedule(implementation, bias_correction):
    """Linear warmup then decay by LambdaLR: the equations with that rate."""

    def rate(step):
        return min((step + 1) / 3, (10 - step) / 7)

    parameters = make_parameters([(4,)])
    expected = parameters[0].tolist()
    optimizer = AdamW(
        parameters, lr=0.1, weight_decay=0.0, eps=1e-6, bias_correction=bias_correction, **implementation
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    m, v = np.zeros(4), np.zeros(4)
    for step in range(10):
        set_gradients(parameters, step)
        g = parameters[0].grad.numpy()
        optimizer.step()
        schedule.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        c1, c2 = (1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)) if bias_correction else (1, 1)
        expected = expected - 0.1 * rate(step) * (m / c1) / (np.sqrt(v / c2) + 1e-6)
    np.testing.assert_allclose(parameters[0].detach().numpy(), expected, rtol=1e-12)


def test_under_accelerate(implementation):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    optimizer = AdamW(model.parameters(), bias_correction=False, **implementation)
    alone = AdamW(twin.parameters(), bias_correction=False, **implementation)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    for step in range(5):
        x = torch.full((2, 3), 1.0 + step)
        optimizer.zero_grad()
        accelerator.backward(model(x).pow(2).sum())
        optimizer.step()
        alone.zero_grad()
        twin(x).pow(2).sum().backward()
        alone.step()
    assert_bitwise(list(model.parameters()), list(twin.parameters()))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["bias_correction"] is False
    optimizer.load_state_dict(saved)
    assert saved["state"][0]["step"].item() == UNCORRECTED_START + 5


# ---- the step of the authors' released code ------------------------------------------------------------------------


def released_update(p, m, v, g, t, lr, beta1, beta2, eps, decay):
    """Update t of class mAdamW, github.com/uds-lsv/bert-stable-fine-tuning, examples/bert_stable_fine_tuning, in float64."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    p = p - lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
    return p - lr * decay * p, m, v


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.98)])
@pytest.mark.parametrize("size", [1.0, 1e-6])  # of the gradients; at 1e-6 eps matters
def test_no_correction_with_the_factor_in_the_rate_is_the_released_step(implementation, betas, size):
    """Without decay. torch's corrected step, with eps inside, is another one where gradients are as small as eps."""
    lr, eps = 0.1, 1e-6
    (p,), (torchs,) = ([torch.nn.Parameter(torch.zeros(20, dtype=torch.float64))] for _ in range(2))
    ours = AdamW([p], lr=lr, betas=betas, eps=eps, weight_decay=0.0, bias_correction=False, **implementation)
    rate = torch.optim.lr_scheduler.LambdaLR(ours, lambda done: effective_step_factor(done + 1, *betas))
    torchs_own = torch.optim.AdamW([torchs], lr=lr, betas=betas, eps=eps, weight_decay=0.0)
    expected, m, v = np.zeros(20), np.zeros(20), np.zeros(20)
    for t in range(1, 41):
        set_gradients([p], t)
        p.grad *= size
        torchs.grad = p.grad.clone()
        expected, m, v = released_update(expected, m, v, p.grad.numpy(), t, lr, *betas, eps, 0.0)
        ours.step()
        rate.step()
        torchs_own.step()
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-12 * lr)
        if t == 1:
            ratio = (torchs.norm() / p.norm()).item()
            assert ratio == pytest.approx(1, abs=1e-3) if size == 1 else ratio > 2


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
@pytest.mark.parametrize("decay", [0.0, None])  # None: the recipe's
def test_the_recipe_mosbach2021_released_makes_the_released_step(tmp_path, model_type, decay):
    """Exactly so without decay. With it, decay's rate has the factor too, and the weights differ by that much at most."""
    gradients = []

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.append([p.grad.clone().numpy() for p in model.parameters()])

    values = {**toy.QUIET, "learning_rate": 1e-3, "num_train_epochs": 3, "eval_strategy": "no"}
    values |= {} if decay is None else {"weight_decay": decay}
    recipe = StableTrainingArguments.from_recipe(
        "mosbach2021_released", model_type, output_dir=str(tmp_path), **values
    )
    start = toy.model(model_type).double()
    quick = [StabilityCallback(heat_map=False, tensorboard=False), Keep()]
    trainer = toy.train(StableTrainer, recipe, quick, model_init=lambda: copy.deepcopy(start))
    total, lr, betas = trainer.state.max_steps, recipe.learning_rate, (recipe.adam_beta1, recipe.adam_beta2)
    assert total == len(gradients) == 12
    decayed, warmup = set(trainer.get_decay_parameter_names(start)), math.ceil(0.1 * total)
    shape = [min(done / warmup, (total - done) / (total - warmup)) for done in range(total)]
    missing = sum(lr * share * (1 - effective_step_factor(t, *betas)) for t, share in enumerate(shape, 1))
    for i, (name, parameter) in enumerate(start.named_parameters()):
        p, own = parameter.detach().numpy(), recipe.weight_decay if name in decayed else 0.0
        m, v, largest = np.zeros_like(p), np.zeros_like(p), abs(p).max()
        for t, share in enumerate(shape, 1):
            p, m, v = released_update(p, m, v, gradients[t - 1][i], t, lr * share, *betas, recipe.adam_epsilon, own)
            largest = max(largest, abs(p).max())
        found = trainer.model.get_parameter(name).detach().numpy()
        if not own:
            np.testing.assert_allclose(found, p, rtol=1e-12, atol=1e-16)
        else:
            before_the_step = total * lr**2  # decay of a step of about lr, by lr
            assert 0 < abs(found - p).max() <= own * (missing * largest + before_the_step)
