"""benchmarks/gpu.py on a CPU, with the smallest models: the code runs, its figures mean nothing."""

from __future__ import annotations

import json
import time

import pytest

from benchmarks import gpu
from benchmarks.gpu import Options, Part, parse, report, run_part, time_limit


@pytest.fixture
def options(tmp_path):
    return Options("cpu", True, 9.0, tmp_path)


def test_a_part_that_fails_is_reported(options, tmp_path):
    def broken(options, folder, deadline):
        raise RuntimeError("CUDA error:\n  an illegal memory access")

    outcome = run_part("broken", broken, options, 1.0)
    assert outcome["passed"] is False and outcome["error"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "illegal memory" in (tmp_path / "broken.error.txt").read_text()
    assert "## broken: NOT PASSED" in report([outcome]) and "broken.error.txt" in report([outcome])


def test_a_part_ends_at_its_time_limit():
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="no end after 0 s"), time_limit(0.05):
        time.sleep(30)
    assert time.monotonic() - began < 10


def test_the_shares_of_the_time_are_all_of_it(options):
    assert sum(share for _, share in gpu.parts(options).values()) == pytest.approx(1.0)


def test_the_report_has_each_part_with_its_table(options):
    good = run_part("good", lambda *_: Part(["a", "b"], [[1, "x"]], True, "A note."), options, 1.0)
    text = report([good])
    assert text.startswith("## good: passed (0 s)") and "| 1 | x |" in text and text.endswith("A note.\n")


@pytest.mark.parametrize("words", [["--parts", "nonsense"], ["--minutes", "0"], []])
def test_wrong_options_are_refused(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    device = ["--device", "cpu"] if words else []
    with pytest.raises(SystemExit) as error:
        parse([*device, *words, "--output_dir", str(tmp_path)])
    assert error.value.code == 2 and "error: --" in capsys.readouterr().err


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path):
    assert gpu.main(["--device", "cpu", "--quick", "--output_dir", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["quick"] and [part["error"] for part in content["parts"]] == [""] * 7
    assert [part["name"] for part in content["parts"]] == list(gpu.parts(Options("cpu", True, 9.0, tmp_path)))
    passed = {part["name"]: part["passed"] for part in content["parts"]}
    assert passed["half_precision"] and passed["synchronisation"] and passed["memory"] and passed["runs_per_gpu"]
    assert (tmp_path / "gpu.md").read_text().count("## ") == 7 and not (tmp_path / "work").exists()
