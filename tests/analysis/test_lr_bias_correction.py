"""The grid of rates, correction and beta2: effective rates against known shares, arms, and (slow) a tiny study."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_stability import cli
from hf_stability.analysis.lr_bias_correction import ANALYSIS, GridOptions, arm_name, effective_rates
from hf_stability.errors import InputError
from hf_stability.study.records import read_run
from hf_stability.study.study import run_jobs


pytestmark = pytest.mark.usefixtures("no_heat_maps")


def linear(steps, warmup=0.1):
    """The learning rates of a linear schedule with warmup, at its peak 1."""
    t, before = np.arange(steps), int(np.ceil(warmup * steps))
    return np.where(t < before, t / before, (steps - t) / (steps - before))


@pytest.mark.parametrize("steps, beta2, share", [(468, 0.999, 0.37), (3120, 0.999, 0.76), (468, 0.98, 0.93)])
def test_with_the_correction_the_sum_of_the_steps_is_this_share(steps, beta2, share):
    """RTE with 3 and 20 epochs of 156 update steps, and RoBERTa's beta2: each step's factor by the equation."""
    rates = linear(steps)
    t = np.arange(1, steps + 1)
    slow = sum(rate * np.sqrt(1 - beta2**k) / (1 - 0.9**k) for rate, k in zip(rates, t, strict=True))
    on = effective_rates(rates, 0.9, beta2, True).sum()
    assert on == pytest.approx(slow) and effective_rates(rates, 0.9, beta2, False).sum() == pytest.approx(rates.sum())
    assert on / rates.sum() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"rates": (0.0,)}, "--rates 0.0"),
        ({"betas2": (0.9, 0.9)}, "--betas2 0.9 0.9: give each"),
        ({"betas2": (1.0,)}, "--betas2 1.0"),
        ({"seeds": 0}, "--seeds 0"),
    ],
)
def test_options_out_of_range_are_refused(values, says):
    with pytest.raises(InputError, match=says):
        ANALYSIS.missing(None, GridOptions(**values))


def arm(rate, corrects, failed, summed, beta2=0.999, n=10, model="bert"):
    share = failed / n
    return {"model": model, "rate": rate, "correction": corrects, "beta2": beta2, "summed_effective_rate": summed, "failed": failed, "n": n,
            "failed_share": share, "failed_share_low": share, "failed_share_high": share, "median_score": 1 - share}  # fmt: skip


def test_the_sentences_name_the_largest_difference_and_the_arms_of_equal_steps():
    rows = [
        arm(1e-4, False, 0, 0.01),
        arm(1e-4, True, 0, 0.004),
        arm(3e-4, False, 9, 0.03),
        arm(3e-4, True, 1, 0.0105),
    ]
    numbers = {"template": "devlin2019", "planned_steps": 189, "metric": "accuracy", "baseline": 0.5,
               "tables": {"arms": rows, "runs": []}}  # fmt: skip
    said = " ".join(ANALYSIS.sentences(numbers))
    assert "rate 0.0003: without it 9 of 10 runs fail" in said and "with it 1 of 10" in said
    assert "ratio 1.05" in said and "on at 0.0003 against off at 0.0001: 1 of 10 and 0 of 10 fail" in said
    assert len(ANALYSIS.draw(numbers).axes) == 2


def test_models_are_crossed_with_beta2():
    rows = [
        arm(rate, corrects, failed, 0.01, beta2, model=model)
        for model, beta2, failed in (
            ("bert", 0.98, 1),
            ("bert", 0.999, 8),
            ("roberta", 0.98, 0),
            ("roberta", 0.999, 6),
        )
        for rate in (1e-4, 3e-4)
        for corrects in (False, True)
    ]
    numbers = {"template": "devlin2019", "planned_steps": 189, "metric": "accuracy", "baseline": 0.5,
               "tables": {"arms": rows, "runs": []}}  # fmt: skip
    said = ANALYSIS.sentences(numbers)
    assert "bert 2 of 20 with beta2 0.98 and 16 of 20 with beta2 0.999; roberta 0 of 20" in said[1]
    assert any(sentence.startswith("roberta: with beta2 0.999") for sentence in said)
    axes = ANALYSIS.draw(numbers).axes
    assert [ax.get_ylabel() for ax in axes[::2]][2] == "accuracy\nroberta, beta2 0.98" and len(axes) == 8


@pytest.mark.slow
def test_a_tiny_study_gives_its_own_runs_and_the_others_are_trained(tiny_jobs, tmp_path, capsys):
    values = {"max_steps": 6, "learning_rate": 1e-3, "bias_correction": False}
    run_jobs(tiny_jobs(tmp_path, seeds=(1, 2), **values), tmp_path, quiet=True)
    words = ["analyze", "lr-bias-correction", str(tmp_path), "--rates", "1e-3", "--betas2", "0.999", "--seeds", "2"]
    assert cli.main(words) == 2 and "2 runs are missing (rate_0.001_on_beta2_0.999" in capsys.readouterr().err
    assert cli.main([*words, "--make_runs", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "2 arms of 2 runs each" in out
    made = tmp_path / "analysis" / "lr-bias-correction"
    numbers = json.loads((made / "lr-bias-correction.json").read_text())
    off, on = numbers["tables"]["arms"]
    assert (off["correction"], on["correction"]) == (False, True) and off["n"] == on["n"] == 2
    assert on["summed_effective_rate"] < off["summed_effective_rate"]
    assert not (made / "study" / "devlin2019" / "runs" / arm_name(1e-3, False, 0.999)).exists()  # the study had these
    own = read_run(tmp_path / "runs" / "devlin2019" / "seed-001")
    assert own.last in [row["score"] for row in numbers["tables"]["runs"] if not row["correction"]]


@pytest.mark.slow
def test_the_study_of_another_model_has_its_own_runs(tiny_jobs, tiny_model, tmp_path, capsys):
    values = {"max_steps": 6, "learning_rate": 1e-3}
    folders = tmp_path / "one", tmp_path / "two"
    for folder, model in zip(folders, (tiny_model(), tiny_model("roberta")), strict=True):
        run_jobs(tiny_jobs(folder, seeds=(1,), model=model, **values), folder, quiet=True)
    words = [
        "analyze",
        "lr-bias-correction",
        str(folders[0]),
        "--rates",
        "1e-3",
        "--betas2",
        "0.98",
        "0.999",
        "--seeds",
        "1",
    ]
    assert cli.main([*words, "--beside", str(folders[0])]) == 2 and "the same model" in capsys.readouterr().err
    words += ["--beside", str(folders[1])]
    assert cli.main(words) == 2  # each study has the arm of its own recipe: RoBERTa's beta2 is 0.98
    assert capsys.readouterr().err.count("3 runs are missing") == 2
    assert cli.main([*words, "--make_runs", "--workers", "0"]) == 0
    made = json.loads((folders[0] / "analysis" / "lr-bias-correction" / "lr-bias-correction.json").read_text())
    rows = made["tables"]["arms"]
    assert len({row["model"] for row in rows}) == 2 and len(rows) == 8 and {row["n"] for row in rows} == {1}
    assert len(list(folders[1].glob("analysis/*/study/devlin2019/runs/*/*/run.json"))) == 3


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tiny_jobs, tmp_path, capsys):
    run_jobs(tiny_jobs(tmp_path, seeds=(1,)), tmp_path, quiet=True)
    words = ["analyze", "lr-bias-correction", str(tmp_path), "--seeds", "1", "--betas2", "0.999", "--make_runs"]
    for more, says in (
        (["--rates", "1e-3", "1e-3"], "--rates 0.001 0.001: give each value once"),
        (["--rates", "1e-3", "--workers", "-1"], "--workers -1"),
    ):
        assert cli.main([*words, *more]) == 2 and says in capsys.readouterr().err
    assert cli.main(["analyze", "gradients", str(tmp_path), "--make_runs"]) == 2
    assert "needs no runs of its own" in capsys.readouterr().err
    path = tmp_path / "runs" / "devlin2019" / "seed-001" / "config.json"
    content = json.loads(path.read_text())
    content["job"]["processes"] = 2
    path.write_text(json.dumps(content))
    assert cli.main([*words, "--rates", "1e-3"]) == 2 and "2 processes trained it" in capsys.readouterr().err
    assert not (tmp_path / "analysis" / "lr-bias-correction" / "study" / "devlin2019" / "runs").exists()
