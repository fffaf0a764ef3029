"""The benchmark of runs that begin again: its plan, its rules and its tables, on made-up runs. Nothing is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from benchmarks import recipes as recipes_study
from benchmarks import self_healing as study
from benchmarks import self_healing_report as tables
from benchmarks.self_healing import BEST, FAILING, GENTLE, LONG, PLAIN, RESTARTS, SEED, SEEDS, SETTINGS, Run
from hf_stability.recipe import load_recipe


CHOSEN = {"roberta": 2.5e-4, "albert": 5e-4}


def made(name, arm, seed, failed=False, alarm=-1, spent=189, attempts=1, score=None, part="confirm", rate=None):
    rate = study.rate_of(name, arm, CHOSEN) if rate is None else rate
    score = (0.5 if failed else 0.9) + seed / 1e6 if score is None else score
    status = "failed" if failed else "ok"
    return Run(
        part, name, arm, rate, seed, status, failed, score, score, attempts, alarm, 189, spent, 189, False, 14.0
    )


def confirmed(name, failing=20, false_alarms=2, left=1):
    """A setting's runs: the first seeds fail and raise an alarm; restarts mend all but `left` of them."""
    plain = [made(name, PLAIN, s, i < failing, 60 if i < failing + false_alarms else -1) for i, s in enumerate(SEEDS)]
    runs = list(plain)
    for arm in SETTINGS[name].arms[1:]:
        for number, seed in enumerate(study.seeds_of(arm, plain)):
            again = arm in RESTARTS and number < failing + false_alarms
            spent = (60 + 189) if again else 189
            failed = arm in RESTARTS and number < left
            runs.append(made(name, arm, seed, failed, 60 if again else -1, spent, 1 + again))
    return runs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HERE", tmp_path)
    return tmp_path


def test_its_seeds_are_nobody_elses():
    used = {*study.CHOICE_SEEDS, *SEEDS, 8199}
    assert len(used) == 4 + 40 + 1 and not set(study.CHOICE_SEEDS) & set(SEEDS)
    pattern = re.compile(r"\b8[01]\d\d\b")
    for path in Path(study.__file__).parent.rglob("*"):
        if path.suffix in (".md", ".py") and "self_healing" not in str(path):
            words = re.findall(r"(?i)seeds?\b[^\n]{0,60}", path.read_text(encoding="utf-8"))
            assert not any(pattern.search(word) for word in words), path


def test_the_arms_are_recipes_that_differ_as_the_protocol_says(tmp_path):
    for name, setting in SETTINGS.items():
        for arm in setting.arms:
            rate = study.rate_of(name, arm, CHOSEN)
            recipe = load_recipe(study.write_arm(tmp_path / name, setting, arm, rate))
            assert recipe.args["learning_rate"] == rate
            assert (recipe.args.get("on_alarm") == "restart") == (arm in RESTARTS)
            assert (recipe.args["num_train_epochs"] == 20) == (arm == LONG)
            if arm in RESTARTS:
                assert recipe.args["restart_with"] == {SEED: "seed", GENTLE: "gentle"}[arm]
    assert study.rate_of("roberta", BEST, CHOSEN) == 2.5e-4 and study.rate_of("bert_cola", BEST, {}) == 1e-4


def test_restarts_run_the_seeds_with_an_alarm_and_two_others():
    plain = [run for run in confirmed("bert_pair", failing=3, false_alarms=1) if run.arm == PLAIN]
    assert study.seeds_of(SEED, plain) == tuple(range(8001, 8007))
    diverged = [replace(run, status="diverged") if run.seed == 8040 else run for run in plain]
    assert study.seeds_of(SEED, diverged)[-1] == 8040
    assert study.seeds_of(SEED, plain[:39]) == ()  # not known yet
    assert study.seeds_of(LONG, plain) == SEEDS[:10] and study.seeds_of(BEST, plain) == SEEDS


def test_copies_are_the_plain_runs_without_an_alarm_and_only_of_complete_arms(here):
    runs = confirmed("bert_pair", failing=3, false_alarms=1)
    copied = [run for run in study.with_copies(runs) if run.copied]
    assert len(copied) == 2 * (40 - 6) and {run.seed for run in copied} == set(range(8007, 8041))
    assert all(replace(run, arm=PLAIN, copied=False, seconds=14.0) in runs for run in copied)
    assert not [run for run in study.with_copies(runs[:-1]) if run.copied and run.arm == runs[-1].arm]
    assert not [
        run for run in study.with_copies(runs[1:]) if run.copied
    ]  # a plain run is missing: all could have an alarm
    text = study.runs_csv(study.with_copies(runs))
    (here / "runs.csv").write_text(text)
    assert study.runs_csv(study.read_csv()) == text


def test_the_rate_is_chosen_by_its_mean_score():
    runs = [
        made("roberta", PLAIN, seed, part="choose", rate=rate, score=rate * 100)
        for rate in study.GRID
        for seed in (1, 2)
    ]
    assert study.choice(runs) == study.GRID[-1]
    diverged = [replace(run, score=np.nan) if run.rate == study.GRID[-1] else run for run in runs]
    assert study.choice(diverged) == study.GRID[-2]


def test_the_plan_counts_every_run():
    text = study.plan_text(list(SETTINGS))
    rows = {
        tuple(cells[1:3]): cells[3:]
        for line in text.splitlines()[2:]
        if (cells := [c.strip() for c in line.split("|")])
    }
    # 40 plain runs, two arms of 0.6 x 40 seeds at 1.6 runs and 2 others; at most 40 + 2 x 40 x 3
    assert rows["bert_pair", "confirm"][:2] == ["121", "280"]
    assert rows["roberta", "choose"][0] == "16" and float(rows["all", ""][2]) < 4
    assert text in (study.HERE / "PROTOCOL.md").read_text(encoding="utf-8")


def test_the_known_runs_are_those_of_the_study_of_all_recipes():
    known = study.known_runs()
    assert [sum(run.setting == name for run in known) for name in SETTINGS] == [20, 20, 0, 0, 0]
    assert {run.seed for run in known} == set(range(4001, 4021)) and study.RECIPES_STUDY.parent == recipes_study.HERE
    assert not any(run.failed for run in known) and all(run.cost == pytest.approx(20 / 3) for run in known)


@pytest.mark.parametrize(("failing", "left"), [(20, 1), (6, 0), (20, 20), (0, 0)])
def test_the_question_is_statsmodels_exact_mcnemar_test(failing, left):
    runs = study.with_copies(confirmed("bert_pair", failing, 0, left))
    arms = tables.arms_of(runs, "bert_pair", CHOSEN)
    pairs = list(zip(arms[PLAIN], arms[GENTLE], strict=True))
    table = [[sum((a.failed, b.failed) == (x, y) for a, b in pairs) for y in (True, False)] for x in (True, False)]
    assert tables.mcnemar_p(arms[PLAIN], arms[GENTLE]) == pytest.approx(mcnemar(table, exact=True).pvalue)


def test_the_report_says_what_is_met_and_what_is_missing(here):
    runs = confirmed("bert_pair") + confirmed("sound", 0, 1, 0) + confirmed("bert_cola", left=5)
    text = tables.report(study.with_copies(runs), CHOSEN)
    goals = [line for line in text.splitlines() if "cost <" in line]
    # 22 of 40 took 60 more of 189 steps: 1 + 22 x 60 / 189 / 40 = 1.17; in `sound` one: 1.008
    found = [re.search(r"`(\w+)` .*`(\w+)` .*\| (1\.\d+) .*\| (met|not met)", line).groups() for line in goals]
    assert found == [
        ("bert_pair", SEED, "1.17", "met"), ("bert_pair", GENTLE, "1.17", "met"), ("bert_cola", SEED, "1.17", "not met"),
        ("bert_cola", GENTLE, "1.17", "not met"), ("sound", GENTLE, "1.01", "met"),
    ]  # fmt: skip
    assert "`restart_gentle`†" in text and "0 of 2 and 0 of 2" in text and "20 of 22" in text
    assert text.count("No arm is complete.") == 2 and "`roberta` | `restart" not in text
    assert "20 runs of the study of all recipes" in text
    tables.write(runs, CHOSEN)
    assert (here / "results.md").is_file() and (here / "cost.png").stat().st_size > 10_000


def test_the_best_of_n_is_the_mean_for_one_and_the_best_for_all():
    plain = [run for run in confirmed("bert_pair", failing=10) if run.arm == PLAIN]
    failed, score = tables.best_of(plain, 1.0)
    assert failed == pytest.approx(0.25) and score == pytest.approx(np.mean([run.score for run in plain]))
    failed, score = tables.best_of(plain, 2.0)  # both of two fail: 10 x 9 / (40 x 39)
    assert failed == pytest.approx(10 * 9 / (40 * 39))
    assert tables.best_of(plain, 40.0) == (0.0, pytest.approx(max(run.score for run in plain)))


def test_a_checked_seed_that_differs_is_seen():
    runs = confirmed("bert_pair", failing=3, false_alarms=0)
    last = max((run for run in runs if run.arm == SEED), key=lambda run: run.seed)
    other = [replace(run, score=0.1) if run is last else run for run in runs]
    for given, text in ((runs, "0 of 2"), (other, "1 of 2")):
        arms = tables.arms_of(study.with_copies(given), "bert_pair", CHOSEN)
        assert tables.unlike(arms[PLAIN], arms[SEED]) == text


def test_every_failing_setting_has_both_restarts():
    assert all(set(RESTARTS) <= set(SETTINGS[name].arms) for name in FAILING) and SETTINGS["sound"].arms == (
        PLAIN,
        GENTLE,
    )
