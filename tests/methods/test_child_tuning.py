import numpy as np
import pytest
import torch
from torch import nn

from hf_stability.errors import InputError
from hf_stability.methods.child_tuning import ChildTuning, child_masks, fisher_information
from tests import toy


def with_gradients(*shapes):
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in parameters:
        p.grad = torch.ones_like(p)
    return parameters


def masked(seed, steps_done, share=0.3):
    parameters = with_gradients((200, 100), (50,))
    ChildTuning(parameters, share, seed, steps_done=steps_done).mask_gradients()
    return torch.cat([p.grad.flatten() for p in parameters])


def test_f_keeps_a_share_and_scales_it_up():
    gradient = masked(1, 0)
    assert gradient.unique().tolist() == pytest.approx([0.0, 1 / 0.3])
    kept = float((gradient > 0).float().mean())
    assert kept == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / len(gradient)) ** 0.5)


def test_f_draws_by_seed_and_step_alone_and_leaves_the_global_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert torch.equal(masked(1, 4), masked(1, 4))
    assert torch.equal(torch.rand(2), expected)
    assert not torch.equal(masked(1, 4), masked(1, 5)) and not torch.equal(masked(1, 4), masked(2, 4))
    agree = ((masked(1, 4) > 0) == (masked(1, 5) > 0)).float().mean()
    assert float(agree) == pytest.approx(0.3**2 + 0.7**2, abs=0.02)  # as two draws would


def test_all_of_the_weights_is_no_child():
    parameters = with_gradients((3,))
    ChildTuning(parameters, 1.0).mask_gradients()
    assert torch.equal(parameters[0].grad, torch.ones(3))


def test_it_is_part_of_the_optimizers_step():
    parameters = with_gradients((40, 40))
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    child = ChildTuning(parameters, 0.5, seed=3)
    handle = child.attach(optimizer, lambda: 7)
    optimizer.step()
    expected = with_gradients((40, 40))
    ChildTuning(expected, 0.5, seed=3, steps_done=7).mask_gradients()
    assert torch.equal(parameters[0].detach(), -expected[0].grad)
    handle.remove()


def test_the_fisher_information_is_the_mean_squared_gradient():
    model = toy.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    parameters = list(model.bert.encoder.layer.parameters())
    batches = [toy.data(8, seed=seed)[:] for seed in range(3)]

    def loss(rows):
        return model(input_ids=torch.tensor(rows["input_ids"]), labels=torch.tensor(rows["label"])).loss

    found = fisher_information(parameters, (loss(rows) for rows in batches))
    expected = [torch.zeros(p.shape, dtype=torch.float64) for p in parameters]
    for rows in batches:
        model.zero_grad()
        loss(rows).backward()
        for total, p in zip(expected, parameters, strict=True):
            total += p.grad.double() ** 2 / 3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-12)
    clipped = fisher_information(parameters, (loss(rows) for rows in batches[:1]), 1e-3)
    assert all(float(part.sum()) <= 1e-6 * (1 + 1e-4) for part in clipped)  # each by its own norm
    with pytest.raises(InputError, match="no training examples"):
        fisher_information(parameters, [])


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 1.0])
def test_d_keeps_the_largest_of_all_tensors_together(share):
    torch.manual_seed(0)
    information = [torch.rand(30, 20), 3 * torch.rand(100)]
    masks = child_masks(information, share)
    every = torch.cat([part.flatten() for part in information]).numpy()
    kept = torch.cat([mask.flatten() for mask in masks]).numpy()
    assert kept.sum() == max(1, round(share * len(every)))
    assert kept.all() or every[kept].min() > every[~kept].max()
    np.testing.assert_array_equal(kept, every >= np.sort(every)[-kept.sum()])


def test_d_masks_the_same_every_step_and_does_not_scale():
    parameters = with_gradients((4,))
    mask = torch.tensor([True, False, True, False])
    child = ChildTuning(parameters, 0.5, masks=[mask])
    for _ in range(2):
        child.mask_gradients()
    assert parameters[0].grad.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_what_cannot_be_is_refused():
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="--child_tuning_share"):
            ChildTuning(with_gradients((2,)), share)
    with pytest.raises(InputError, match="no parameter to mask"):
        ChildTuning([], 0.5)
