"""Few examples at the same epochs and at the same steps: options, sentences, and (slow) a tiny study."""

from __future__ import annotations

import json

import pytest
from scipy import stats

from hf_stability import cli
from hf_stability.analysis.dataset_size import ANALYSIS, ARMS
from hf_stability.study.records import read_run
from hf_stability.study.study import run_jobs


pytestmark = pytest.mark.usefixtures("no_heat_maps")


def test_the_sentences_say_what_the_arms_did():
    rows = [
        {"arm": arm, "examples": examples, "steps": steps, "failed": failed, "n": 20, "failed_share": failed / 20,
         "mean_score": 0.8, "std_score": 0.01}
        for arm, examples, steps, failed in zip(ARMS, (4000, 1000, 1000), (750, 189, 750), (0, 12, 1), strict=True)
    ]  # fmt: skip
    numbers = {"recipe": "devlin2019", "metric": "accuracy", "baseline": 0.5, "tables": {"arms": rows, "runs": []}}
    said = " ".join(ANALYSIS.sentences(numbers))
    assert "Few examples, same epochs (1000 examples, 189 steps): 12 of 20 fail" in said
    p = stats.fisher_exact([[12, 8], [1, 19]])[1]
    assert p < 0.001 and "from 0.60 to 0.05 (Fisher's exact test, p < 0.001)" in said
    assert ANALYSIS.draw(numbers).axes[0].get_ylabel() == "accuracy"


@pytest.mark.slow
@pytest.mark.parametrize("counted", [{"max_steps": -1, "num_train_epochs": 2.0}, {"max_steps": 8}])
def test_a_tiny_study(tiny_jobs, tmp_path, capsys, counted):
    run_jobs(tiny_jobs(tmp_path, seeds=(1, 2), **counted), tmp_path, quiet=True)
    whole = read_run(tmp_path / "runs" / "devlin2019" / "seed-001")
    words = ["analyze", "dataset-size", str(tmp_path), "--examples", "16", "--seeds", "2"]
    assert cli.main(words) == 2 and "4 runs are missing (few_same_epochs and few_same_steps" in capsys.readouterr().err
    assert cli.main([*words, "--make_runs", "--workers", "0"]) == 0
    made = tmp_path / "analysis" / "dataset-size"
    rows = {row["arm"]: row for row in json.loads((made / "dataset-size.json").read_text())["tables"]["arms"]}
    assert [rows[arm]["n"] for arm in ARMS] == [2, 2, 2]
    assert rows["all_examples"]["steps"] == rows["few_same_steps"]["steps"] == whole.planned_steps
    assert rows["few_same_epochs"]["steps"] < whole.planned_steps and rows["few_same_epochs"]["examples"] == 16
    assert (
        cli.main([*words[:3], "--examples", "12", "--seeds", "1", "--make_runs", "--workers", "0"]) == 0
    )  # beside the first
    assert cli.main([*words[:3], "--examples", "100000"]) == 2
    assert "give fewer" in capsys.readouterr().err
