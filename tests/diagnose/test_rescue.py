"""`hf-stability rescue`: its arms, its last paragraph, and whole, tiny studies."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from hf_stability import StableTrainingArguments, cli
from hf_stability.diagnose.rescue import conclusion, rescue_jobs
from hf_stability.errors import InputError
from hf_stability.study.job import Job
from hf_stability.study.records import RunRecord
from tests import toy


pytestmark = pytest.mark.usefixtures("no_heat_maps")


BERT = toy.config()


def job(seed=1, recipe="mine", **args):
    fingerprints = {"model_fingerprint": "m", "data_fingerprint": "d"}
    sources = dict.fromkeys(args, "recipe mine")
    return Job(recipe, seed, "custom", args, {}, **fingerprints, sources=sources)


def arms_of(jobs):
    """Arm -> what is set in its first job."""
    return {job.recipe: job.args for job in reversed(jobs)}


# ---- the arms -------------------------------------------------------------------------------------------------------


def test_there_are_four_arms_and_each_changes_what_it_says():
    planned = [job(seed, learning_rate=3e-4, num_train_epochs=3.0, weight_decay=0.1) for seed in (1, 2, 3)]
    jobs, left_out = rescue_jobs(planned, 1000, BERT)
    same = {"learning_rate": 3e-4, "num_train_epochs": 3.0, "weight_decay": 0.1}
    assert arms_of(jobs) == {
        "same": same,
        "third_of_rate": {**same, "learning_rate": pytest.approx(1e-4), "warmup_steps": 0.1},
        "2000_steps": {**same, "num_train_epochs": 16.0},  # whole epochs of 125 update steps
        "reinit_top": {**same, "reinit_layers": 1},
    }
    assert left_out == [] and [j.name for j in jobs[:4]] == [f"same/seed-00{s}" for s in (1, 2, 3)] + [
        "third_of_rate/seed-001"
    ]
    assert len({j.id for j in jobs}) == 12
    third = next(j for j in jobs if j.recipe == "third_of_rate")
    assert third.sources == {**planned[0].sources, "learning_rate": "rescue", "warmup_steps": "rescue"}
    assert planned[0].args == same  # as they were


@pytest.mark.parametrize(("depth", "expected"), [(2, 1), (3, 1), (6, 1), (12, 3), (24, 6)])
def test_about_a_quarter_of_the_layers_is_drawn_anew(depth, expected):
    jobs, _ = rescue_jobs([job()], 100, toy.config(num_hidden_layers=depth))
    assert arms_of(jobs)["reinit_top"]["reinit_layers"] == expected


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (toy.config("albert"), "albert uses one layer many times over"),
        (
            transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2),
            "is a Conv1D, and only Linear and LayerNorm",
        ),
    ],
)
def test_a_model_whose_layers_cannot_be_drawn_anew_has_no_such_arm(config, reason):
    jobs, left_out = rescue_jobs([job()], 100, config)
    assert list(arms_of(jobs)) == ["2000_steps", "third_of_rate", "same"]
    assert len(left_out) == 1 and left_out[0].startswith("No arm of re-initialised layers: ") and reason in left_out[0]


def test_what_the_run_has_already_is_no_arm():
    planned = [job(max_steps=3000, reinit_layers=2)]
    jobs, left_out = rescue_jobs(planned, 100, BERT)
    assert list(arms_of(jobs)) == ["third_of_rate", "same"]
    assert left_out == ["No arm of 2000 update steps: the run already has 3000.", "No arm of re-initialised layers: the run re-initialises them already."]  # fmt: skip
    assert arms_of(rescue_jobs([job(max_steps=40)], 100, BERT, min_steps=50)[0])["50_steps"] == {"max_steps": 50}


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 10), ({"warmup_steps": 0.3}, 30), ({"warmup_steps": 20}, 20), ({"warmup_steps": 2}, 10),
     ({"warmup_steps": 100}, 100), ({"warmup_steps": 250}, 250)],
)  # fmt: skip
def test_a_longer_warmup_stays(tmp_path, given, expected):
    arms = arms_of(rescue_jobs([job(max_steps=100, **given)], 100, BERT)[0])
    args = StableTrainingArguments(str(tmp_path), **arms["third_of_rate"])
    assert args.get_warmup_steps(100) == expected  # as the Trainer reads it


def test_the_trainers_own_rate_is_what_a_third_is_taken_of():
    arms = arms_of(rescue_jobs([job()], 100, BERT)[0])
    default = StableTrainingArguments.__dataclass_fields__["learning_rate"].default
    assert arms["third_of_rate"]["learning_rate"] == pytest.approx(default / 3)


@pytest.mark.parametrize(
    ("planned", "more", "message"),
    [
        ([job(), job(recipe="other")], {}, "--recipe mine other: give one recipe, that of the failed run"),
        ([job()], {"min_steps": 0}, "--min_steps 0: must be 1 or more"),
        ([job(learning_rate=0.0)], {}, "--learning_rate 0.0: must be above 0"),
        ([job(on_alarm="stop")], {}, "--on_alarm stop: a rescue counts failed runs, so it must finish them all"),
    ],
)
def test_what_cannot_be_rescued_is_refused(planned, more, message):
    with pytest.raises(InputError, match=message):
        rescue_jobs(planned, 100, BERT, **more)


# ---- the last paragraph ---------------------------------------------------------------------------------------------


def runs(**arms):
    """Records: arm -> `(status, score)` of each run."""
    return [
        RunRecord(str(seed), arm, seed, "custom", status, "accuracy", last=score)
        for arm, outcomes in arms.items()
        for seed, (status, score) in enumerate(outcomes, start=1)
    ]


OK, FAILED = ("ok", 0.8), ("failed", 0.5)


def test_what_held_is_said_with_how_little_that_is():
    text = conclusion(
        runs(
            same=[FAILED] * 3, third_of_rate=[OK] * 3, reinit_top=[("ok", 0.9)] * 3, long=[OK, ("diverged", None), OK]
        )
    )
    assert "No failed run: third_of_rate (0 of 3 failed), reinit_top (0 of 3 failed)." in text
    assert "0 of 3 is weak evidence: the failed share may be up to 0.56 (95% interval)." in text
    assert "Failed: same (3 of 3), long (1 of 3)." in text
    assert "of the arms without a failed run, reinit_top has the best mean score" in text and "--seeds 20" in text


def test_settings_that_do_not_fail_again_are_not_changed():
    text = conclusion(runs(same=[OK] * 3, third_of_rate=[OK] * 3))
    assert "did not fail again" in text and "best mean score" not in text


def test_where_no_run_at_all_is_ok_a_bug_is_likelier():
    text = conclusion(runs(same=[FAILED] * 3, third_of_rate=[FAILED, ("diverged", None)]), ["No arm of X."])
    assert (
        "No run of any arm is ok. Look for a bug first" in text
        and "--memorize" in text
        and "No failed run" not in text
    )
    assert "Failed: same (3 of 3), third_of_rate (2 of 2). No arm of X." in text


def test_where_some_runs_of_every_arm_failed_the_best_arm_is_named_and_no_bug_is_looked_for():
    text = conclusion(runs(same=[FAILED] * 3, third_of_rate=[OK, OK, FAILED], long=[OK, FAILED, FAILED]))
    assert "Failed: same (3 of 3), third_of_rate (1 of 3), long (2 of 3)." in text
    assert "third_of_rate failed least: 1 of 3, a failed share of 0.06 to 0.79 (95% interval)." in text
    assert "Look for a bug" not in text and "No failed run" not in text and "a smaller --learning_rate" in text
    text = conclusion(runs(same=[OK] * 19 + [FAILED], third_of_rate=[FAILED] * 20))
    assert "same failed least: 1 of 20, a failed share of 0.01 to 0.24" in text


def test_of_arms_that_failed_as_often_the_one_with_the_better_scores_is_named():
    text = conclusion(runs(same=[FAILED, ("ok", 0.7)], third_of_rate=[FAILED, ("ok", 0.9)]))
    assert "third_of_rate failed least: 1 of 2" in text


def test_runs_that_did_not_end_are_no_evidence():
    text = conclusion(runs(same=[FAILED, FAILED], third_of_rate=[OK, OK, ("stopped", None)]))
    assert "No failed run: third_of_rate (0 of 2 failed)." in text and "Failed: same (2 of 2)." in text
    text = conclusion(runs(same=[FAILED] * 2, third_of_rate=[OK] * 3, long=[OK]))
    assert "0 of 1 is weak evidence: the failed share may be up to 0.79" in text  # the arm of which least is known


def test_crashed_runs_are_no_evidence():
    text = conclusion(runs(same=[FAILED, ("crashed", None)], third_of_rate=[("crashed", None)] * 3))
    assert "Failed: same (1 of 1)." in text and "third_of_rate" not in text
    assert conclusion(runs(same=[("crashed", None)])).startswith("No run has finished")


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A function of arguments that runs the command in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(["rescue", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def tiny(tiny_model, tiny_csv):
    """Arguments of a rescue on the tiny model and data: 3 update steps, 6 in the long arm, two epochs."""
    return [
        *("--model_name_or_path", tiny_model(), "--train_file", tiny_csv[0], "--validation_file", tiny_csv[1]),
        *("--recipe", "devlin2019", "--num_train_epochs", "1", "--min_steps", "5", "--workers", "0", "--use_cpu"),
    ]


ARMS = ["same", "third_of_rate", "5_steps", "reinit_top"]


def test_dry_run_shows_the_arms_and_writes_nothing(run, tiny, tmp_path):
    code, out, err = run(*tiny, "--learning_rate", "3e-4", "--dry_run")
    assert code == 0 and err == "" and list(tmp_path.iterdir()) == []
    assert [line.partition(":")[0] for line in out.splitlines() if " run(s), seeds 1, 2, 3" in line] == ARMS
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    assert rows.count(["learning_rate", "0.0003", "--learning_rate"]) == 3
    assert rows.count(["learning_rate", "9.999999999999999e-05", "rescue"]) == 1
    assert rows.count(["num_train_epochs", "2.0", "rescue"]) == 1 and rows.count(["reinit_layers", "1", "rescue"]) == 1


@pytest.mark.usefixtures("no_figures")
def test_it_is_a_study_that_can_go_on(run, tiny, tmp_path):
    code, out, err = run(*tiny, "--seeds", "1")
    assert code == 0 and "Traceback" not in err
    folder = tmp_path / "results" / "rescue_custom"
    summary = json.loads((folder / "summary.json").read_text())
    assert [figures["recipe"] for figures in summary["recipes"]] == ARMS
    steps = {r["recipe"]: r["steps"] for r in summary["runs"]}
    assert steps == {"same": 3, "third_of_rate": 3, "5_steps": 6, "reinit_top": 3}

    def values(arm):
        return json.loads((folder / "runs" / arm / "seed-001" / "config.json").read_text())["args"]

    assert values("same")["bias_correction"] is False and values("same")["learning_rate"] == 2e-5
    assert values("third_of_rate")["learning_rate"] == pytest.approx(2e-5 / 3)
    assert values("reinit_top")["reinit_layers"] == 1 and values("same")["reinit_layers"] == 0
    losses = {arm: record_of(folder, arm)["loss"][0] for arm in ARMS}
    assert losses["same"] == losses["third_of_rate"] == losses["5_steps"]  # the same seed, head, order and dropout
    assert losses["reinit_top"] != losses["same"]
    table, _, last = out.rpartition("to look at them: ")
    assert [line.split()[0] for line in table.splitlines() if re.match(r"\S+ +1  [01] ", line)] == ARMS
    paragraph = last.splitlines()[-1]
    held = [r["recipe"] for r in summary["runs"] if r["status"] == "ok"]
    fell = [r["recipe"] for r in summary["runs"] if r["status"] != "ok"]
    assert len(held) + len(fell) == 4
    assert paragraph.count(" (0 of 1 failed)") == len(held) and paragraph.count(" (1 of 1)") == len(fell)
    assert all(f"{arm} (0 of 1 failed)" in paragraph for arm in held)
    assert all(f"{arm} (1 of 1)" in paragraph for arm in fell)
    assert paragraph.endswith("The same command with --seeds 20 keeps these runs and adds the rest.")

    (folder / "runs" / "same" / "seed-001" / "run.json").unlink()  # as if it had been interrupted
    code, out, _ = run(*tiny, "--seeds", "1")
    assert code == 0 and "3 finished runs found, kept" in out
    assert json.loads((folder / "summary.json").read_text()) == summary
    code, out, err = run(*tiny, "--seeds", "1", "--learning_rate", "1e-3")
    assert code == 2 and "seed-001 was run with other settings" in err and "args.learning_rate: " in err


def record_of(folder: Path, arm: str):
    from hf_stability.diagnostics.step_record import read_steps

    return read_steps(folder / "runs" / arm / "seed-001" / "steps.rec")


def test_albert_is_told_why_an_arm_is_missing(run, tiny, tiny_model):
    code, out, err = run(*tiny, "--model_name_or_path", tiny_model("albert"), "--dry_run")
    assert code == 0 and "third_of_rate: " in out and "reinit_top" not in out
    assert err.startswith("No arm of re-initialised layers: albert uses one layer many times over")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--recipe", "devlin2019", "mosbach2021"],
            "--recipe devlin2019 mosbach2021: give one recipe, that of the failed run",
        ),
        (["--min_steps", "0"], "--min_steps 0: must be 1 or more"),
        (["--min_steps", "x"], "--min_steps"),
        (["--learning_rate", "0"], "--learning_rate 0.0: must be above 0"),
        (["--on_alarm", "stop"], "--on_alarm stop: a rescue counts failed runs, so it must finish them all"),
        (["--recipe", "nonesuch"], "--recipe nonesuch: no such recipe"),
        (["--memorize"], "--memorize: no such argument"),
        (["--task_name", "rte"], "--task_name rte"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_nothing_is_written(run, tiny, tmp_path, given, message):
    code, out, err = run(*tiny, *given)
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("hf-stability: error: "), err
    assert message in err and list(tmp_path.iterdir()) == []


def test_the_default_is_three_seeds_of_the_untouched_trainer(run, tiny_model, tiny_csv):
    model, (train, dev) = tiny_model(), tiny_csv
    code, out, _ = run("--model_name_or_path", model, "--train_file", train, "--validation_file", dev, "--dry_run")
    assert code == 0 and "same: 3 run(s), seeds 1, 2, 3" in out and "recipe transformers_default" in out
    assert "2000_steps: 3 run(s)" in out


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["rescue", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and max(map(len, text.splitlines())) <= 120
    words = " ".join(text.split())  # a line may end between two of them
    assert all(
        word in words for word in ("four settings", "--min_steps", "Default: 3.", "transformers_default", "examples:")
    )


def test_a_plan_is_not_changed_by_it():
    planned = [job(learning_rate=1e-4)]
    before = replace(planned[0])
    rescue_jobs(planned, 100, BERT)
    assert planned == [before]
