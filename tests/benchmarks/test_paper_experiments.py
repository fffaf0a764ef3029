"""The driver of docs/paper_experiments.md: its plan, a tiny run of all parts, and the page's tables."""

from __future__ import annotations

import json

import pytest

from benchmarks import paper_experiments as benchmark
from hf_stability.analysis.lr_bias_correction import ANALYSIS as GRID
from hf_stability.utils.files import write_text


def test_the_plan_counts_each_study_once():
    whole = benchmark.plan_text(list(benchmark.PARTS))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in whole.splitlines()[2:]]
    assert [line[0] for line in lines] == [*benchmark.PARTS, "all"]
    assert (
        int(lines[0][2]) == 40 + 18 * 20 and int(lines[1][2]) == 16 + 11 * 8 * 3
    )  # 18 and 12 arms, one of these is the study
    assert int(lines[-1][2]) == sum(int(line[2]) for line in lines[:-1])
    assert float(lines[-1][3]) <= 210, "the whole takes about three core hours and a half"


def test_every_part_has_a_table_and_its_place_on_the_page():
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert list(benchmark.TABLES) == list(benchmark.PARTS)
    for name in benchmark.PARTS:
        assert page.count(f"<!-- table: {name} -->") == 1, name
    assert benchmark.with_tables(page) == page, "run: python benchmarks/paper_experiments.py collect"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The repository's files that `collect` writes, in another folder."""
    blocks = "".join(f"<!-- table: {name} -->\nold\n<!-- end of table -->\n" for name in benchmark.PARTS)
    write_text(tmp_path / "page.md", blocks)
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(benchmark, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(benchmark, "FIGURES", tmp_path / "figures")
    return tmp_path


def test_what_is_finished_is_collected(elsewhere, capsys):
    folder = benchmark.folder_of(elsewhere / "out", "lr-bias-correction")
    folder.mkdir(parents=True)
    rows = [
        {"model": "bert", "rate": 1e-4, "correction": on, "beta2": 0.999, "summed_effective_rate": 0.123456789 / (1 + on), "failed": 1,
         "n": 10, "failed_share": 0.1, "failed_share_low": 0.02, "failed_share_high": 0.4, "median_score": 0.8}
        for on in (False, True)
    ]  # fmt: skip
    write_text(folder / "lr-bias-correction.json", json.dumps({"tables": {"arms": rows, "runs": []}}))
    write_text(
        folder / "lr-bias-correction.md", "# lr-bias-correction\n\nA sentence.\n\n![lr](lr-bias-correction.png)\n"
    )
    (folder / "lr-bias-correction.png").write_bytes(b"png")
    assert benchmark.collect(list(benchmark.PARTS), elsewhere / "out") == ["lr-bias-correction"]
    assert "dataset-size: not finished" in capsys.readouterr().out
    assert (elsewhere / "results" / "lr_bias_correction.md").read_text() == "# lr-bias-correction\n\nA sentence.\n"
    assert "0.12346" in (elsewhere / "results" / "lr_bias_correction_arms.csv").read_text()
    assert (elsewhere / "figures" / "lr_bias_correction.png").read_bytes() == b"png"
    page = (elsewhere / "page.md").read_text()
    assert (
        "| bert | 0.999 | 0.0001 | 1 of 10 (0.02 to 0.40) | 1 of 10 (0.02 to 0.40) | 0.800 | 0.800 | 0.50 |"
        in " ".join(page.split())
    )
    assert page.count("![lr bias correction](paper_experiments/lr_bias_correction.png)") == 1
    assert page.count("old\n") == 3 and benchmark.with_tables(page) == page


@pytest.mark.slow
def test_a_tiny_run_of_every_part(elsewhere, monkeypatch, capsys):
    """At this rate the run of devlin2019 fails, so that it can be changed."""
    monkeypatch.setattr(benchmark, "STUDIES", {
        name: benchmark.Study({**study.settings, "seeds": 1}, architecture=study.architecture) for name, study in benchmark.STUDIES.items()
    })  # fmt: skip
    options = {
        "interventions": {"seeds": 1, "steps": (0,)},
        "lr-bias-correction": {"seeds": 1, "rates": (1e-4,), "betas2": (0.999,)},
        "dataset-size": {"seeds": 1, "examples": 40},
        "generalisation": {"seeds": 1, "times_longer": (2,)},
    }
    parts = {
        name: benchmark.Part(part.study, 1, 1, options[name], part.beside) for name, part in benchmark.PARTS.items()
    }
    monkeypatch.setattr(benchmark, "PARTS", parts)
    more = {"max_steps": 6, "max_train_samples": 96, "max_eval_samples": 40, "learning_rate": 0.05, "quiet": True}
    benchmark.run_parts(list(parts), elsewhere / "out", workers=0, **more)
    runs = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("run.json")}
    benchmark.run_parts(["interventions"], elsewhere / "out", workers=0, **more)
    assert runs == {path: path.stat().st_mtime_ns for path in elsewhere.rglob("run.json")}
    assert benchmark.collect(list(parts), elsewhere / "out") == list(parts)
    page = (elsewhere / "page.md").read_text()
    cells = " ".join(page.split())
    assert "old\n" not in page and cells.count("| correction on |") == 1 and "| albert | 0.999 |" in cells
    made = elsewhere / "results"
    assert {path.name for path in made.glob("interventions_*.csv")} == {
        f"interventions_{table}.csv" for table in ("arms", "course", "runs")
    }
    assert (elsewhere / "figures" / "interventions_course.png").is_file()
    assert GRID.name in capsys.readouterr().out
