import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import fisher_exact

from benchmarks import real_checkpoint as study
from benchmarks import real_checkpoint_report as tables
from benchmarks.real_checkpoint import BASE, BEST_GRID, LONG, RECIPES, STRESS_GRID, Run
from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe


DATA = study.WHOLE[0]


def made(part, arm, rate, seed, failed=False, score=0.8, stuck=None, data=DATA):
    stuck = failed if stuck is None else stuck
    numbers = (score, score, score, 0.6, 189, 50.0)
    return Run(part, data, arm, rate, seed, "failed" if failed else "ok", failed, stuck, "f1", *numbers)


def selected(failed, best=5e-5, data=DATA):
    """A complete part `select`: by rate, how many of the base's five runs fail; all recipes score best at one rate."""
    runs = []
    while left := study.missing(study.select_cells(data, runs), runs):
        for (arm, rate), seeds in left.items():
            fails = [arm == BASE and seed - 100 < failed.get(rate, 0) for seed in seeds]
            score = 0.9 if rate == best else 0.8
            runs += [
                made("select", arm, rate, seed, f, score, data=data) for seed, f in zip(seeds, fails, strict=True)
            ]
    return runs


FAILING = {3e-4: 2, 5e-4: 5}


def confirmed(chosen, failing=12, data=DATA):
    """Part `confirm`: the base fails at the stress rate, other arms do not."""
    rng = np.random.default_rng(0)
    return [
        made(
            "confirm",
            arm,
            rate,
            s,
            (arm, rate) == (BASE, chosen["stress"]) and s <= failing,
            rng.normal(0.8, 0.02),
            data=data,
        )
        for (arm, rate), seeds in study.confirm_cells(data, chosen["stress"], chosen["best"]).items()
        for s in seeds
    ]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "HERE", tmp_path / "here")
    monkeypatch.setattr(tables, "DRAWS", 20)
    study.HERE.mkdir()
    return study.HERE


# ---- the rule -------------------------------------------------------------------------------------------------------


def base(failed, best):
    """Five runs of the base per rate, with this failed share; the mean score is highest at one rate."""
    return {rate: study.AtRate(share, 0.9 if rate == best else 0.8) for rate, share in failed.items()}


@pytest.mark.parametrize(
    ("failed", "best", "stress"),
    [
        ({1e-4: 0.0, 2e-4: 0.4, 3e-4: 1.0}, 1e-4, 2e-4),
        ({1e-4: 0.4, 2e-4: 0.6, 3e-4: 1.0}, 1e-4, 1e-4),  # equally near: the smaller
        ({1e-4: 0.0, 2e-4: 0.2, 3e-4: 1.0}, 1e-4, 2e-4),
        ({1e-4: 0.0, 2e-4: 0.0, 3e-4: 1.0}, 1e-4, 3e-4),  # a rate without failed runs is none
        (
            {1e-4: 0.4, 2e-4: 0.0, 3e-4: 0.2},
            2e-4,
            3e-4,
        ),  # below the best rate runs fail, because they train too little
        ({1e-4: 0.0, 1e-3: 0.0}, 1e-4, None),
        ({1e-4: 0.0, 1e-3: 0.2}, 1e-4, 1e-3),
        ({1e-4: 1.0, 1e-3: 1.0}, 1e-4, 1e-4),
    ],
)
def test_the_stress_rate_is_the_failing_rate_nearest_to_one_half(failed, best, stress):
    assert study.stress_rate(base(failed, best)) == stress


@pytest.mark.parametrize(
    ("failed", "best", "following"),
    [
        ({}, None, 5e-5),
        ({5e-5: 0.0}, 5e-5, 1e-4),
        ({5e-5: 0.0, 1e-4: 0.4, 2e-4: 0.6}, 5e-5, 3e-4),  # no share above the window yet
        ({5e-5: 0.0, 1e-4: 0.4, 2e-4: 0.8}, 5e-5, None),
        ({5e-5: 1.0, 1e-4: 1.0}, 5e-5, 2e-4),  # nothing below the window yet
        (
            {5e-5: 1.0, 1e-4: 0.0, 2e-4: 1.0},
            1e-4,
            1.4e-4,
        ),  # the jump from 1e-4 to 2e-4, not the one below the best rate
        ({5e-5: 0.0, 1e-4: 0.2, 2e-4: 1.0}, 5e-5, 1.4e-4),
        ({5e-5: 0.0, 1e-4: 0.2, 1.4e-4: 0.0, 2e-4: 1.0}, 5e-5, None),  # once
        ({5e-5: 0.0, 1e-4: 0.4, 2e-4: 1.0}, 2e-4, None),
        (dict.fromkeys(STRESS_GRID, 0.0), 5e-5, None),
    ],
)
def test_the_base_runs_upwards_until_it_fails_too_often(failed, best, following):
    assert study.next_stress_rate(base(failed, best)) == following


def test_the_choice_counts_failed_optimisation_and_each_recipes_own_best_rate():
    runs = selected(FAILING)
    assert {run.rate for run in runs if run.arm == BASE} == {2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4}  # 7e-4 is not needed
    assert study.choice(DATA, runs) == {
        "stress": 3e-4,
        "stress_failed_share": 0.4,
        "best": dict.fromkeys(RECIPES, 5e-5),
    }
    # Runs that learned and do not generalise do not count.
    learned = [replace(run, stuck=run.stuck and run.rate != 3e-4) for run in runs]
    assert (
        study.base_at_rates(learned)[3e-4].failed == 0
        and study.next_stress_rate(study.base_at_rates(learned)) == 3.9e-4
    )
    # The seeds that only the base has do not choose its own best rate.
    lucky = [replace(run, score=5.0) if run.seed > 101 and run.rate == 1e-4 else run for run in runs]
    assert study.choice(DATA, lucky)["best"][BASE] == 5e-5
    equal = [replace(run, score=0.8) for run in runs]
    assert study.choice(DATA, equal)["best"] == dict.fromkeys(RECIPES, min(BEST_GRID))
    one = [replace(run, score=0.99) if (run.arm, run.rate) == (LONG, 3e-4) else run for run in runs]
    assert study.choice(DATA, one)["best"] == {**dict.fromkeys(RECIPES, 5e-5), LONG: 3e-4}
    # A run without a score, because it diverged, is worse than any score.
    broken = [
        replace(run, score=np.nan) if (run.arm, run.rate, run.seed) == (LONG, 5e-5, 100) else run for run in runs
    ]
    assert study.choice(DATA, broken)["best"][LONG] == min(BEST_GRID)


def test_an_incomplete_selection_chooses_nothing():
    runs = selected(FAILING)
    assert study.choice(DATA, runs[:-1]) is None
    assert sum(map(len, study.missing(study.select_cells(DATA, runs[:-1]), runs[:-1]).values())) == 1
    assert study.choice(DATA, []) is None


def test_other_sets_have_the_stress_rate_and_short_arms_only():
    found = study.choice("rte_1000", selected(FAILING, data="rte_1000"))
    assert found == {"stress": 3e-4, "stress_failed_share": 0.4, "best": {}}
    arms = {arm for arm, _ in study.confirm_cells("rte_1000", 3e-4, {})}
    assert arms == set(study.ARMS) - set(study.LONG_ARMS)


def test_no_failed_run_is_a_result(here):
    found = study.choice(DATA, selected({}))
    assert found["stress"] is None
    assert set(study.confirm_cells(DATA, None, found["best"])) == {(recipe, 5e-5) for recipe in RECIPES}
    text = tables.report(selected({}) + confirmed(found), {DATA: found})
    assert f"No stress rate: no run of `{BASE}` failed its optimisation" in " ".join(text.split())
    assert "### Each recipe at its own best rate" in text and "All at the stress rate" not in text


def test_seeds_of_the_parts_are_disjoint_and_the_protocol_has_the_settings():
    assert not set(study.CONFIRM_SEEDS) & {*study.STRESS_SEEDS, *study.BEST_SEEDS}
    assert set(study.BEST_SEEDS) <= set(study.STRESS_SEEDS)
    protocol = " ".join((study.HERE / "PROTOCOL.md").read_text().split())
    for name in (*study.SETS, *study.ARMS):
        assert f"`{name}`" in protocol
    for grid in (STRESS_GRID, BEST_GRID):
        assert ", ".join(map(study.rate_text, grid)) in protocol


def test_arms_differ_from_their_recipe_in_what_they_are_named_for(tmp_path):
    recipes = {arm: load_recipe(study.write_arm(tmp_path, arm, 3e-4)) for arm in study.ARMS}
    args = {arm: recipe.args for arm, recipe in recipes.items()}
    assert recipes[BASE].name == "devlin2019_at_3e-4"
    differ = {
        arm: {name: value for name, value in own.items() if args[BASE].get(name) != value} for arm, own in args.items()
    }
    assert {own["learning_rate"] for own in args.values()} == {3e-4}
    assert {own["total_train_batch_size"] for own in args.values()} == {16}
    assert differ["devlin2019_correction"] == {"bias_correction": True}
    assert differ["devlin2019_long_warmup"] == {"warmup_steps": 0.666}
    assert differ["devlin2019_20_epochs"] == {"num_train_epochs": 20}
    assert differ[LONG] == {"num_train_epochs": 20, "bias_correction": True}


# ---- the files ------------------------------------------------------------------------------------------------------


def test_runs_survive_the_csv_and_a_choice_is_kept_once_confirmation_has_begun(here, capsys):
    runs = selected(FAILING)
    (here / "runs.csv").write_text(study.runs_csv(runs[::-1]))
    assert sorted(study.read_csv(), key=study.key) == sorted(runs, key=study.key)
    assert study.main(["choose"]) == 0
    assert json.loads((here / "chosen.json").read_text())[DATA]["stress"] == 3e-4
    assert "rte_1000: part select lacks 5 runs or more; nothing is chosen." in capsys.readouterr().out
    changed = selected({2e-4: 2, 3e-4: 5}) + [made("confirm", BASE, 3e-4, 1)]
    (here / "runs.csv").write_text(study.runs_csv(changed))
    with pytest.raises(SystemExit, match=f"{DATA}: part confirm has begun with other rates"):
        study.main(["choose"])
    assert json.loads((here / "chosen.json").read_text())[DATA]["stress"] == 3e-4
    assert study.keeps({"stress": 1e-4, "best": {BASE: 1e-4}}, {"stress": 1e-4, "best": {}})


def test_confirm_refuses_a_set_without_a_choice(here, tmp_path):
    with pytest.raises(SystemExit, match=rf"--tasks {DATA}: .*chosen.json has no rates for it"):
        study.main(["confirm", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path)])
    with pytest.raises(InputError):
        study.confirm(study.parsed(["confirm", "--tasks", "rte"]))


def test_crashed_runs_end_the_part_and_are_not_tried_for_ever(here, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(study, "run_study", lambda **settings: calls.append(settings))  # leaves no finished run
    place = ["--data_dir", "glue", "--model", "model", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="5 runs crashed; read error.txt"):
        study.main(["select", *place])
    assert len(calls) == 1 and calls[0]["seeds"] == list(study.STRESS_SEEDS) and calls[0]["validation_half"] == "first"
    assert [Path(recipe).stem for recipe in calls[0]["recipes"]] == ["devlin2019_at_5e-5"]


def test_runs_that_are_in_the_csv_are_not_made_again(here, tmp_path, monkeypatch):
    chosen = {"stress": 3e-4, "best": {BASE: 1e-4}}
    runs = confirmed(chosen)
    (here / "chosen.json").write_text(json.dumps({DATA: chosen}))
    (here / "runs.csv").write_text(study.runs_csv([run for run in runs if (run.arm, run.seed) != (BASE, 7)]))
    calls = []

    def run_study(**settings):
        calls.append(settings)
        (here / "runs.csv").write_text(study.runs_csv(runs))

    monkeypatch.setattr(study, "run_study", run_study)
    place = ["--data_dir", "glue", "--model", "model", "--output_dir", str(tmp_path / "out")]
    assert study.main(["confirm", "--tasks", DATA, *place]) == 0
    (call,) = calls
    assert call["seeds"] == [7]
    assert sorted(Path(recipe).stem for recipe in call["recipes"]) == ["devlin2019_at_1e-4", "devlin2019_at_3e-4"]


def test_the_plan_counts_runs_and_hours(capsys, monkeypatch):
    monkeypatch.setattr(study, "SECONDS", {DATA: 36.0, "rte": 36.0})  # 0.01 hours
    assert study.main(["plan", "--tasks", DATA, "rte"]) == 0
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    # The base: 7 rates and one between, 5 seeds; 2e-5, 2 seeds. 4 rates of 2 seeds for the Trainer's defaults, as many of 20 epochs.
    select, confirm = 8 * 5 + 2 + 8 + 8 * 20 / 3, 6 * 20 + (2 * 20 + 10) * 20 / 3
    assert lines[2:] == [
        [DATA, "select", "58", f"{select / 100:.1f}"],
        [DATA, "confirm", "170", f"{confirm / 100:.1f}"],
        ["rte", "select", "40", "0.4"],
        ["rte", "confirm", "80", "0.8"],
    ]


# ---- the tables -----------------------------------------------------------------------------------------------------


def test_an_incomplete_confirmation_has_no_table_and_says_what_is_missing(here):
    chosen = study.choice(DATA, selected(FAILING))
    confirm = confirmed(chosen)
    text = tables.report(selected(FAILING) + confirm[:-7], {DATA: chosen})
    assert f"**Confirmation: incomplete.** 7 of {len(confirm)} runs are missing, so there is no table." in text
    assert "### Each recipe" not in text and "### All at" not in text and "no question is answered" in text
    assert "**Selection: incomplete.** 5 runs or more are missing." in text  # RTE
    assert "**Confirmation: not begun.**" in text


def test_the_tables_have_the_counts_and_fishers_p(here):
    chosen = study.choice(DATA, selected(FAILING))
    runs = selected(FAILING) + confirmed(chosen)
    text = tables.report(runs, {DATA: chosen})
    p = fisher_exact([[0, 20], [12, 8]]).pvalue
    assert tables.failed_p([run for run in runs if run.part == "confirm"], LONG, 3e-4) == pytest.approx(p)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    questions = [row for row in rows if len(row) == 7 and row[0] == f"`{DATA}`"]
    assert [row[1] for row in questions] == list(tables.QUESTIONS)
    assert {tuple(row[2:5]) for row in questions} == {("3e-4", "0 of 20", "12 of 20"), ("3e-4", "0 of 10", "12 of 20")}
    # By hand: four tests have Fisher's p of 0 against 12 of 20, the fifth that of 0 of 10. Holm multiplies by 11, 10, 9, 8 and 7.
    fewer = fisher_exact([[0, 10], [12, 8]]).pvalue
    assert p * 11 < 0.001 and [row[6] for row in questions].count("< 0.001") == 4
    assert f"{fewer * 7:.3f}" == next(row[6] for row in questions if row[3] == "0 of 10")
    assert "Holm's correction for 11 tests" in " ".join(text.split())
    (at_stress,) = (row for row in rows if row[:2] == [f"`{BASE}`", "3e-4"])
    assert at_stress[2:4] == ["20", "12 = 0.60 (0.39-0.78)"]  # Wilson, as statsmodels' proportion_confint
    assert {row[0] for row in rows if len(row) == 11} >= {f"`{arm}`" for arm in study.ARMS}
    assert "0.800; 2, 2 of 5" in text  # part select, at 3e-4


def test_restarts_need_enough_runs_with_scores(here):
    chosen = study.choice(DATA, selected(FAILING))
    confirm = [replace(run, score=np.nan) if run.arm == BASE and run.seed > 6 else run for run in confirmed(chosen)]
    text = tables.restarts_table(confirm, chosen)
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:]] == ["-", "-"]
    assert "-" not in tables.restarts_table(confirmed(chosen), chosen).splitlines()[2].split("|")[2]


def test_report_without_runs_says_what_to_do(here):
    with pytest.raises(SystemExit, match="runs.csv has no runs; run select and collect first"):
        study.main(["report"])


# ---- the whole, on a tiny model -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("no_heat_maps", "no_figures")
def test_select_choose_confirm_and_report_on_a_tiny_model(here, tmp_path, monkeypatch, tiny_model, tiny_csv, capsys):
    (tmp_path / "CoLA").mkdir()
    for path, name in zip(tiny_csv, ("train", "dev"), strict=True):  # the tiny sentences in CoLA's layout
        rows = list(csv.DictReader(Path(path).open()))
        (tmp_path / f"CoLA/{name}.tsv").write_text(
            "".join(f"x\t{row['label']}\t\t{row['sentence']}\n" for row in rows)
        )
    monkeypatch.setattr(study, "SETS", {"tiny": {"task_name": "cola"}})
    for name in ("FIRST_SETS", "WHOLE"):
        monkeypatch.setattr(study, name, ("tiny",))
    for name, value in {"STRESS_GRID": (1e-3, 1.0), "BEST_GRID": (1e-3, 3e-3), "LENGTH": 32}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(tables, "COST", 1.5)
    monkeypatch.setattr(study, "FEWER_SEEDS", {"devlin2019_20_epochs": (1,)})
    for name, seeds in {"STRESS_SEEDS": (100, 101), "BEST_SEEDS": (100,), "CONFIRM_SEEDS": (1, 2)}.items():
        monkeypatch.setattr(study, name, seeds)
    place = ["--tasks", "tiny", "--output_dir", str(tmp_path / "out"), "--model", tiny_model(), "--workers", "0"]
    place += ["--data_dir", str(tmp_path)]
    for part in ("select", "collect", "choose", "confirm", "collect", "report"):
        assert study.main([part, *place]) == 0
    chosen = study.read_chosen()["tiny"]
    runs = study.read_csv()
    confirm = [run for run in runs if run.part == "confirm"]
    assert {(r.arm, r.rate, r.seed) for r in confirm} == {
        (*cell, seed)
        for cell, seeds in study.confirm_cells("tiny", chosen["stress"], chosen["best"]).items()
        for seed in seeds
    }
    majority = max(Counter(row["label"] for row in rows[12:]).values())  # the second half of the 24 sentences
    steps = {arm: {run.steps for run in confirm if run.arm == arm} for arm in study.ARMS}
    assert (
        chosen["stress"] in study.STRESS_GRID
        and steps[BASE] == {9}
        and steps[LONG] == steps["devlin2019_20_epochs"] == {60}
    )
    for run in confirm:
        assert run.failed == (run.status == "diverged" or round(run.accuracy * 12) <= majority)
    assert (here / "tiny.png").read_bytes()[:4] == b"\x89PNG"
    text = (here / "results.md").read_text()
    assert "### All at the stress rate" in text and "incomplete" not in text
    # Nothing is run twice, and an interrupted part goes on.
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*/runs/*/*/run.json")}
    lost = next(iter(times))
    lost.unlink()
    (here / "runs.csv").unlink()  # as before the first `collect`
    capsys.readouterr()
    assert study.main(["select", *place]) == 0 and study.main(["confirm", *place]) == 0
    after = {path: path.stat().st_mtime_ns for path in times}
    assert [path for path in times if after[path] != times[path]] == [lost]
