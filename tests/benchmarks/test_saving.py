"""The benchmark of saving runs, on a tiny model."""

import json

import pytest

from benchmarks.saving import main
from hf_stability.study import run as run_module
from hf_stability.study import saving


@pytest.mark.slow
def test_it_measures_nine_saves_per_run(tmp_path, tiny_model, monkeypatch, capsys):
    for module, name in ((run_module, "SavingCallback"), (saving, "WORTH")):
        monkeypatch.setattr(module, name, getattr(module, name))  # it changes both
    assert (
        main(["--model_name_or_path", tiny_model(), "--steps", "10", "--rounds", "1", "--json", str(tmp_path / "x")])
        == 0
    )
    figures = json.loads((tmp_path / "x").read_text())
    assert figures["saves_per_run"] == 9 and 0 < figures["share"] < 1
    assert figures["bytes"] > 100_000 and figures["cpu_seconds_per_save"] > 0
    assert "seconds_per_save" in capsys.readouterr().out
