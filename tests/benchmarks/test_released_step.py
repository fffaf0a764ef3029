import csv
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks import released_step
from benchmarks.released_step import (
    AT,
    HERE,
    MARKS,
    RECIPES,
    SEEDS,
    StepRatio,
    authors_step,
    mean_with_interval,
    paired,
    torch_step,
    total_decay,
)
from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.recipe import recipe_dir
from hf_stability.study.records import RunRecord
from tests import toy


# ---- the steps ------------------------------------------------------------------------------------------------------


def test_torchs_step_is_torchs_and_the_ratio_is_that_of_eps_alone():
    p, betas, eps = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64)), (0.9, 0.999), 1e-6
    optimizer = torch.optim.AdamW([p], lr=1.0, betas=betas, eps=eps, weight_decay=0.0)
    m, v = torch.zeros(2, 9, dtype=torch.float64)
    for t in range(1, 6):
        p.grad = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(t)) * 1e-6
        m, v, before = 0.9 * m + 0.1 * p.grad, 0.999 * v + 0.001 * p.grad**2, p.detach().clone()
        optimizer.step()
        torch.testing.assert_close(before - p.detach(), torch_step(m, v, t, *betas, eps), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            authors_step(m, v, t, *betas, eps), torch_step(m, v, t, *betas, eps / math.sqrt(1 - 0.999**t))
        )


def test_the_ratio_is_measured_on_the_gradients_of_a_training(tmp_path):
    """At eps 1e-6 gradients of 1e-2 hardly see eps; at a huge eps the ratio is that of the two eps, 1 / sqrt(c2)."""

    def measure(eps):
        ratio = StepRatio(3)
        args = StableTrainingArguments(str(tmp_path / str(eps)), adam_epsilon=eps, **toy.QUIET)
        toy.train(StableTrainer, args, [StabilityCallback(heat_map=False, tensorboard=False), ratio])
        return ratio.ratios

    assert list(measure(1e-12)) == [1, 2, 3]  # and training ended there
    assert all(ratio == pytest.approx(1, abs=1e-3) for ratio in measure(1e-12).values())
    for t, ratio in measure(1e6).items():
        assert ratio == pytest.approx(1 / math.sqrt(1 - 0.999**t), rel=1e-3)


@pytest.mark.parametrize("in_factor", [False, True])
def test_the_decay_of_a_training_is_the_product_of_its_steps(in_factor):
    kept, steps, up = 1.0, 50, 5
    for t in range(1, steps + 1):
        rate = 0.1 * min((t - 1) / up, (steps - t + 1) / (steps - up))
        factor = math.sqrt(1 - 0.999**t) / (1 - 0.9**t) if in_factor else 1
        kept *= 1 - rate * factor * 0.01
    assert total_decay(0.1, 0.01, steps, 0.1, in_factor) == pytest.approx(1 - kept, rel=1e-9)


def test_the_recipe_and_the_page_have_the_figures_that_were_measured():
    header = " ".join((recipe_dir() / "mosbach2021_released.yaml").read_text().replace("\n#", "\n").split())
    page = " ".join(released_step.PAGE.read_text().partition(MARKS[0])[2].partition(MARKS[1])[0].split())
    assert released_step.ratios_text() in page
    pairs = paired(released_step.runs_from_csv())
    assert len(pairs) == len(SEEDS)
    assert " ".join(released_step.result_text(pairs, released_step.FROM_PAGE).split()) == page.strip()
    assert released_step.result_text(pairs, "") in (HERE / "results.md").read_text()
    found = json.loads((HERE / "ratios.json").read_text())
    first, *later = (f"{found[str(t)]:.2f}" for t in AT)
    assert f"is {first} times theirs at step 1, {later[0]} times at step 10 and {later[1]} times at step 40" in header
    ours, theirs = (total_decay(2e-5, 0.01, 3120, 0.1, in_factor) for in_factor in (True, False))
    assert f"decay takes {ours:.3%} of a weight here and {theirs:.3%} with their code" in header


def test_without_data_the_ratios_are_skipped(monkeypatch, capsys):
    monkeypatch.delenv("GLUE_DIR", raising=False)
    assert released_step.ratios() == 0 and "skipped: needs GLUE_DIR" in capsys.readouterr().out


# ---- the result -----------------------------------------------------------------------------------------------------


def made(recipe, seed, score, status="ok"):
    return RunRecord("", recipe, seed, "demo_pair", status, "accuracy", last=score)


def test_only_seeds_with_both_recipes_count():
    first, second = RECIPES
    runs = [
        made(second, 7002, 0.7),
        made(first, 7002, 0.8),
        made(first, 7001, 0.9),
        made(second, 99, 0.5),
        made(first, 99, 1),
    ]
    assert [(seed, a.last, b.last) for seed, a, b in paired(runs)] == [(7002, 0.8, 0.7)]


def test_the_interval_is_students():
    first, second = np.random.default_rng(0).normal(0.9, 0.01, (2, 12))
    mean, low, high = mean_with_interval(first - second)
    expected = ttest_rel(first, second).confidence_interval(0.95)
    assert mean == pytest.approx((first - second).mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [3, len(SEEDS)])
def test_the_report_puts_the_result_between_its_marks(tmp_path, monkeypatch, n):
    first, second = RECIPES
    runs = [made(first, seed, 0.9 + 0.001 * (seed % 2)) for seed in SEEDS[:n]]
    runs += [
        made(second, seed, 0.8 if seed == 7002 else 0.895, "failed" if seed == 7002 else "ok") for seed in SEEDS[:n]
    ]
    page_file = tmp_path / "remedies.md"
    page_file.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    monkeypatch.setattr(released_step, "PAGE", page_file)
    monkeypatch.setattr(released_step, "HERE", tmp_path)
    monkeypatch.setattr(released_step, "read_runs", lambda folder: runs)
    (tmp_path / "ratios.json").write_text(json.dumps({str(t): 1.5 for t in AT}))
    assert released_step.report(tmp_path) == 0
    page = page_file.read_text()
    assert page.startswith(f"before\n{MARKS[0]}\n") and page.endswith(f"{MARKS[1]}\nafter\n") and "old" not in page
    flat = " ".join(page.split())
    assert (
        f"n = {n} paired seeds (7001 to {7000 + n})" in flat and f"1 of {n} (" in flat and "1.50 at update 40" in flat
    )
    assert ("the clock stopped the study" in flat) == (n < len(SEEDS))
    assert (
        f"]({released_step.FROM_PAGE}PROTOCOL.md)" in page
        and "](PROTOCOL.md)" in (tmp_path / "results.md").read_text()
    )
    with (tmp_path / "runs.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + 2 * n
    monkeypatch.setattr(released_step, "read_runs", lambda folder: [])
    page_file.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    assert released_step.report(tmp_path, from_csv=True) == 0
    assert page_file.read_text() == page  # made again from runs.csv


def test_too_few_runs_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="0 seeds with both recipes"):
        released_step.report(tmp_path)
