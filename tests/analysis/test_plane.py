"""A plane of weights: a quadratic with exact answers, the model untouched afterwards, projections."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_stability.analysis.plane import grid_values, plane_coordinates, surface
from hf_stability.analysis.points_file import PointsFile
from hf_stability.errors import InputError
from tests.toy import data, model, weights


SHAPES = ((3,), (2, 2))
SIZE = 7


class Quadratic(torch.nn.Module):
    """0.5 x' A x + c' x of all weights x, in float64."""

    def __init__(self, rng):
        super().__init__()
        self.tensors = torch.nn.ParameterList(torch.tensor(rng.normal(size=shape)) for shape in SHAPES)
        half = rng.normal(size=(SIZE, SIZE))
        self.a, self.c = half @ half.T, rng.normal(size=SIZE)

    def forward(self):
        x = torch.cat([value.flatten() for value in self.tensors])
        return 0.5 * x @ torch.tensor(self.a) @ x + torch.tensor(self.c) @ x


def random_direction(rng):
    return [torch.tensor(rng.normal(size=shape)) for shape in SHAPES]


def flat(tensors):
    return np.concatenate([value.detach().numpy().ravel() for value in tensors])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_quadratic_has_its_exact_loss_and_gradient_norm(seed):
    # Oracle: the closed form, in numpy.
    rng = np.random.default_rng(seed)
    quadratic, directions = Quadratic(rng), (random_direction(rng), random_direction(rng))
    before = flat(quadratic.parameters())
    grid = ([-1.5, 0.0, 1.0], [-0.5, 0.0, 0.5, 2.0])
    losses, norms = surface(quadratic, directions, grid, lambda m: m())
    assert losses.shape == norms.shape == (3, 4)
    for i, a in enumerate(grid[0]):
        for j, b in enumerate(grid[1]):
            x = before + a * flat(directions[0]) + b * flat(directions[1])
            assert losses[i, j] == pytest.approx(0.5 * x @ quadratic.a @ x + quadratic.c @ x, rel=1e-10, abs=1e-10)
            assert norms[i, j] == pytest.approx(np.linalg.norm(quadratic.a @ x + quadratic.c), rel=1e-10)
    assert np.array_equal(flat(quadratic.parameters()), before)


def toy_loss(rows=8):
    batch = {name: torch.tensor(values) for name, values in data(rows).to_dict().items()}
    labels = batch.pop("label")
    return lambda m: m(**batch, labels=labels).loss


def toy_directions(first, *others):
    return tuple(
        [(theirs - own).detach() for own, theirs in zip(first.parameters(), other.parameters(), strict=True)]
        for other in others
    )


def test_the_corners_are_the_three_models_and_the_start_is_exact():
    start, failed, ok = (model(seed=seed).eval() for seed in range(3))
    loss_of = toy_loss()
    losses, _ = surface(start, toy_directions(start, failed, ok), ([0.0, 1.0], [0.0, 1.0]), loss_of)
    assert losses[0, 0] == loss_of(start).item()  # bitwise
    # p + (f - p) is f up to the rounding of float32.
    assert losses[1, 0] == pytest.approx(loss_of(failed).item(), abs=1e-6)
    assert losses[0, 1] == pytest.approx(loss_of(ok).item(), abs=1e-6)
    assert abs(losses[1, 0] - losses[0, 0]) > 1e-4


class Stop(BaseException):
    pass


@pytest.mark.parametrize("stop", [None, Stop])
def test_the_model_is_as_before_also_after_an_interrupt(stop):
    toy = model().train()
    toy.bert.eval()  # the modes of parts come back too
    modes = [module.training for module in toy.modules()]
    before, loss_of, calls = weights(toy).clone(), toy_loss(), []

    def counted(m):
        assert m is toy and not m.training  # no copy; without dropout
        calls.append(1)
        if stop is not None and len(calls) == 3:
            raise stop
        return loss_of(m)

    arguments = (toy, toy_directions(toy, model(seed=1), model(seed=2)), ([0.0, 0.5], [0.5, 1.0]), counted)
    if stop is None:
        surface(*arguments)
    else:
        with pytest.raises(stop):
            surface(*arguments)
    assert torch.equal(weights(toy), before)
    assert [module.training for module in toy.modules()] == modes
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_parts_of_a_loss_give_the_same_as_the_whole():
    toy, loss_of = model(), toy_loss(8)
    batch = {name: torch.tensor(values) for name, values in data(8).to_dict().items()}

    def parts(m):
        for rows in (slice(0, 5), slice(5, 8)):
            own = {name: value[rows] for name, value in batch.items()}
            yield m(input_ids=own["input_ids"], labels=own["label"]).loss * (len(own["label"]) / 8)

    directions, grid = toy_directions(toy, model(seed=1), model(seed=2)), ([0.0, 0.7], [0.3])
    whole, summed = surface(toy, directions, grid, loss_of), surface(toy, directions, grid, parts)
    np.testing.assert_allclose(summed, whole, rtol=1e-5)


def test_frozen_weights_move_but_have_no_gradient():
    rng = np.random.default_rng(0)
    quadratic, directions = Quadratic(rng), (random_direction(rng), random_direction(rng))
    quadratic.tensors[1].requires_grad_(False)
    x = flat(quadratic.parameters()) + flat(directions[0])
    losses, norms = surface(quadratic, directions, ([1.0], [0.0]), lambda m: m())
    assert losses[0, 0] == pytest.approx(0.5 * x @ quadratic.a @ x + quadratic.c @ x)
    assert norms[0, 0] == pytest.approx(np.linalg.norm((quadratic.a @ x + quadratic.c)[:3]))


def test_a_direction_of_another_model_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="direction 2 does not fit"):
        surface(Quadratic(rng), (random_direction(rng), random_direction(rng)[:1]), ([0.0], [0.0]), lambda m: m())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 5))
def test_a_projection_finds_the_coordinates_and_the_distance(seed, a, b, height):
    # Oracle: the weights are made from the coordinates and a vector that numpy's QR makes orthogonal to the plane.
    rng = np.random.default_rng(seed)
    directions = (random_direction(rng), random_direction(rng))
    q, _ = np.linalg.qr(np.stack([flat(directions[0]), flat(directions[1]), rng.normal(size=SIZE)], axis=1))
    vector = torch.tensor(a * flat(directions[0]) + b * flat(directions[1]) + height * q[:, 2])
    offset = [vector[:3], vector[3:].reshape(2, 2)]
    assert plane_coordinates(offset, directions) == pytest.approx((a, b, height), abs=1e-6)


def test_parallel_directions_still_have_a_projection():
    one = random_direction(np.random.default_rng(0))
    a, b, distance = plane_coordinates(one, (one, one))
    assert a == pytest.approx(0.5) and b == pytest.approx(0.5) and distance == pytest.approx(0, abs=1e-9)


def test_a_grid_has_the_exact_corners():
    values = grid_values(-0.5, 1.5, 25)
    assert len(values) == 25 and 0.0 in values and 1.0 in values and (values[0], values[-1]) == (-0.5, 1.5)


# ---- finished points ------------------------------------------------------------------------------------------------


def test_a_killed_surface_goes_on_where_it_was(tmp_path):
    path, axis, made = tmp_path / "new" / "points.jsonl", [0.0, 0.5, 1.0], []
    rng = np.random.default_rng(0)
    quadratic, directions = Quadratic(rng), (random_direction(rng), random_direction(rng))
    whole = surface(quadratic, directions, (axis, axis), lambda m: m())

    def killed(m):
        made.append(1)
        if len(made) == 5:
            raise Stop
        return m()

    saved = PointsFile(path, {"axis": axis})
    with pytest.raises(Stop):
        surface(quadratic, directions, (axis, axis), killed, saved.points, saved.add)
    with open(path, "a") as file:
        file.write('{"i": 1, "j"')  # cut by the kill
    saved = PointsFile(path, {"axis": axis})
    assert len(saved.points) == 4
    again = surface(quadratic, directions, (axis, axis), killed, saved.points, saved.add)
    assert len(made) == 5 + 5  # 9 points, 4 of them known
    np.testing.assert_array_equal(again, whole)
    assert len(PointsFile(path, {"axis": axis}).points) == 9
    assert PointsFile(path, {"axis": axis[:2]}).points == {}  # other settings: begun anew


def test_a_path_is_kept_too_and_nan_comes_back(tmp_path):
    saved = PointsFile(tmp_path / "points.jsonl", {})
    saved.add(0, 1, float("nan"), float("inf"))
    saved.add_path("ok", [{"step": 3, "a": 0.5, "b": 0.0, "distance": 0.1}])
    again = PointsFile(tmp_path / "points.jsonl", {})
    assert again.paths == saved.paths
    assert np.isnan(again.points[0, 1][0]) and np.isinf(again.points[0, 1][1])
