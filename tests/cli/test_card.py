"""`hf-stability card`: what it writes and prints, and that it starts at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from hf_stability import cli
from tests.study.report.card.test_card import SCORES, know_models, leave_study
from tests.study.report.card.test_hub import reach_hub


@pytest.fixture
def study(tmp_path, monkeypatch):
    know_models(monkeypatch, "bert-large-uncased")
    return leave_study(tmp_path)


@pytest.fixture
def hub(monkeypatch):
    return reach_hub(monkeypatch)


def test_it_writes_a_card_and_says_which_run_it_is_of(study, capsys):
    assert cli.main(["card", str(study)]) == 0
    out, err = capsys.readouterr()
    path = study / "README.md"
    best = "It is the best of 5 runs by its score after the last update step."
    assert out == f"{path}: the card of mosbach2021/seed-004. {best}\n" and err == ""
    assert ModelCard.load(path).data.eval_results[0].metric_value == max(SCORES)


def test_another_run_another_file_and_names(study, capsys, tmp_path, monkeypatch):
    know_models(monkeypatch)
    file = tmp_path / "cards" / "one.md"
    given = ["--recipe", "mosbach2021", "--seed", "1", "--dataset", "anna/rte", "--output", str(file)]
    assert cli.main(["card", str(study), *given]) == 0
    out, _ = capsys.readouterr()
    assert "seed-001. Its seed was named by hand." in out and not (study / "README.md").exists()
    assert (
        "Left out, because the study does not record it: the pretrained model's name on the hub (--base_model)." in out
    )
    assert ModelCard.load(file).data.datasets == ["anna/rte"]


def test_it_uploads_only_with_push(study, capsys, hub):
    assert cli.main(["card", str(study)]) == 0 and hub.calls == []
    assert cli.main(["card", str(study), "--push", "anna/rte", "--private"]) == 0
    assert "Uploaded: https://huggingface.co/anna/rte\n" in capsys.readouterr().out
    _, (_, _, files) = hub.calls
    assert files["README.md"] == (study / "README.md").read_text() and "model.safetensors" in files


def test_a_failed_upload_keeps_the_card_and_ends_with_1(study, capsys, hub):
    hub.error = ConnectionError("no route to host")
    assert cli.main(["card", str(study), "--push", "anna/rte"]) == 1
    _, err = capsys.readouterr()
    assert err == "hf-stability: error: --push anna/rte: not uploaded (ConnectionError: no route to host).\n"
    assert (study / "README.md").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "card: give the study's folder first"),
        (["nowhere"], "nowhere: no finished run; give a study's folder"),
        (["study", "--seed", "9"], "--seed 9: mosbach2021 has no finished run with this seed"),
        (
            ["study", "--seed", "1", "--push", "anna/rte"],
            "--push anna/rte: the study kept no model of mosbach2021/seed-001",
        ),
        (["study", "--push", "anna/rte"], "--push anna/rte: HF_HUB_OFFLINE switches the network off"),
        (["study", "--private"], "--private: goes with --push"),
        (["study", "--output", "mine.md"], "--output mine.md: this file was not written by hf-stability card"),
        (["study", "--psh", "a/b"], "--psh: no such argument (did you mean --push?)"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    leave_study(tmp_path / "study")
    (tmp_path / "mine.md").write_text("my own text")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["card", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hf-stability: error: {message}") and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "mine.md").read_text() == "my own text"


def test_it_imports_nothing_heavy(study):
    code = """
import sys
from hf_stability.cli import main
main(["card", sys.argv[1]])
print(sorted({"torch", "transformers", "pandas", "datasets", "matplotlib", "ray"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(study)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
