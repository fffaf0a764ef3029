import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import recipes, recipes_report
from benchmarks.recipes_report import (
    MARKS,
    Arm,
    against_restarts,
    difference_text,
    holm,
    paired_difference,
    restarts,
    same_rate_table,
    says_nothing_of_stability,
    task_tables,
)
from hf_stability.recipe import load_recipes
from hf_stability.study.records import RunRecord


@pytest.fixture(autouse=True)
def no_power_of_before():
    recipes_report.power.cache_clear()


def made_arm(name, share, seed, n=20):
    rng = np.random.default_rng(seed)
    failed = rng.random(n) < share
    select, report = (np.where(failed, 0.5, rng.normal(0.85, 0.02, n)) for _ in range(2))
    seconds = np.full(n, 80.0 if name == "mosbach2021" else 12.0)
    stage = 90.0 if "stilts" in name else 0.0
    return Arm(name, "accuracy", 1e-4, False, tuple(range(n)), select, report, failed, seconds, stage)


@pytest.fixture(scope="module")
def arms():
    names = recipes.recipe_names()
    return {name: made_arm(name, 0.6 if name == "devlin2019" else 0.0, i) for i, name in enumerate(names)}


def test_every_recipe_of_the_protocol_loads_with_the_grid_and_with_a_rate(tmp_path):
    protocol = (recipes.HERE / "PROTOCOL.md").read_text()
    for name in recipes.ADD_ONS:
        assert f"`{name}`" in protocol or name == "stilts_demo"
    grid = {"grid": {"learning_rate": list(recipes.GRID)}, "replaces": ["learning_rate"]}
    part = recipes.write_part(tmp_path, "rates", grid)
    for name in recipes.recipe_names():
        loaded = load_recipes(recipes.composed(name, tmp_path, part))
        assert [recipe.point["learning_rate"] for recipe in loaded] == list(recipes.GRID)
        assert {recipe.name.partition("+rates,")[0] for recipe in loaded} == {name}


def test_the_newer_recipes_load_and_are_in_the_amendment(tmp_path):
    amendment = (recipes.HERE / "PROTOCOL.md").read_text().partition("## Amendment: the newer")[2]
    part = recipes.write_part(tmp_path, "at", {"args": {"learning_rate": 1e-4}, "replaces": ["learning_rate"]})
    for name in (*recipes.NEWER.known, *recipes.NEWER.chosen):
        base, _, add_on = name.partition("+")
        assert f"`{base}`" in amendment and (f"`{add_on}`" in amendment or f"`{name}`" in amendment)
        loaded = load_recipes(recipes.composed(name, tmp_path, part))
        assert [recipe.name for recipe in loaded] == [f"{name}+at"]
    for name in recipes.ALSO_CORRECTED:
        assert load_recipes(recipes.composed(name, tmp_path, part))[0].args["bias_correction"]
    assert f"Holm over {len(recipes.NEWER.known) + len(recipes.NEWER.chosen) - 1} arms x 2 tasks" in amendment


def test_the_newer_recipes_have_files_seeds_and_rates_of_their_own(tmp_path, monkeypatch):
    first, newer = recipes.FIRST, recipes.NEWER
    assert not set(recipes.parse_seeds(first.seeds)) & set(recipes.parse_seeds(newer.seeds))
    assert newer.file("chosen.json").name == "newer_chosen.json" and first.file("chosen.json").name == "chosen.json"
    monkeypatch.setattr(recipes, "HERE", tmp_path)
    own = {task: dict.fromkeys(newer.chosen, recipes.FAILING_RATE) for task in recipes.TASKS}
    (tmp_path / "chosen.json").write_text(
        json.dumps({task: {"devlin2019": 4e-5, "mosbach2021": 1e-4} for task in own})
    )
    with pytest.raises(SystemExit, match="newer_chosen.json is missing"):
        recipes.chosen_rates("demo_pair", newer)
    (tmp_path / "newer_chosen.json").write_text(json.dumps(own))
    rates = recipes.chosen_rates("demo_pair", newer)
    assert set(rates) == {*newer.known, *newer.chosen} and rates["devlin2019"] == 4e-5
    assert recipes.not_at_failing_rate(newer) == {"devlin2019": recipes.FAILING_RATE}


def test_the_plan_counts_runs_and_hours():
    rows = [line.split("|")[1:5] for line in recipes.plan(recipes.NEWER).splitlines()[2:]]
    counts = {(part.strip(), task.strip()): int(runs) for part, task, runs, _ in rows}
    assert counts["choose", "demo_pair"] == 13 * 3 * 3 and counts["confirm", "demo_cola"] == 15 * 20
    assert counts["same_rate, at most", "demo_pair"] == 12 * 20
    assert 5 < sum(float(hours) for part, *_, hours in rows if "further" not in part) < 8


def test_the_newer_recipes_tables_have_every_arm(monkeypatch):
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 20)
    monkeypatch.setattr(recipes_report, "RESTARTS_RESAMPLES", 50)
    names = [*recipes.NEWER.known, *recipes.NEWER.chosen]
    arms = {name: made_arm(name, 0.3, i) for i, name in enumerate(names)}
    same = {name: arms[name] for name in recipes.NEWER.at_one_rate}
    parts = {"confirm demo_pair": arms, "confirm demo_cola": arms, "same_rate": same}
    text = recipes_report.all_tables(parts)
    assert all(text.count(f"| `{name}` ") >= 2 for name in names)
    assert "Holm's correction for 28 comparisons" in " ".join(text.split()) and "Beside bias correction alone" in text


def test_rates_and_differences_are_written_as_one_would():
    assert [recipes.rate_text(rate) for rate in (1e-4, 2.5e-4, 3.75e-3)] == ["1e-4", "2.5e-4", "3.75e-3"]
    assert recipes_report.difference_text(0.0121, -0.0004, 0.0271) == "+0.012 (0.000 to +0.027)"


def test_holm_is_holms():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_difference_is_paired():
    first = np.linspace(0, 1, 20)
    mean, low, high = paired_difference(first + 0.1, first)
    assert mean == pytest.approx(0.1) and low == pytest.approx(0.1) and high == pytest.approx(0.1)


def test_the_tables_have_every_recipe_and_the_counts(arms, monkeypatch):
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 20)
    monkeypatch.setattr(recipes_report, "RESTARTS_RESAMPLES", 50)
    text = task_tables({"demo_pair": arms, "demo_cola": arms})
    assert f"correction for {2 * (len(arms) - 1)} comparisons" in " ".join(text.split())
    for name, arm in arms.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` ") and line.count("|") > 8]
        assert len(rows) == 2 and f"| {int(arm.failed.sum())} " in rows[0] and "†" not in rows[0]
    equal = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("|") and line.count("|") == 6]
    costs = {name.strip(): cost.strip() for name, cost, _ in equal[2:]}
    assert costs["`mosbach2021`"] == "6.67" and costs["`devlin2019+stilts_demo` with its stage"] == "8.50"
    assert costs["`devlin2019+stilts_demo` with 1/20 of its stage"] == "1.38"
    same = same_rate_table(arms)
    assert same.count("< 0.001") == len(arms) - 1 and "all at 2.5e-4" in same


def test_a_small_spread_of_failed_runs_or_none_is_marked():
    base, fails = made_arm("devlin2019", 0.0, 1), made_arm("a", 0.0, 2)
    assert not says_nothing_of_stability(fails, base)
    stuck = np.where(np.arange(20) < 19, 0.5, 0.52)
    assert says_nothing_of_stability(replace(fails, report=stuck, failed=stuck == 0.5), base)  # small, as they fail
    assert not says_nothing_of_stability(replace(fails, report=np.linspace(0, 1, 20), failed=stuck == 0.5), base)
    assert says_nothing_of_stability(replace(fails, report=np.ones(20)), base)


def test_restarts_at_equal_compute_are_chosen_on_the_other_half():
    base = made_arm("devlin2019", 0.0, 1)
    lucky = replace(base, select=base.report)
    found = against_restarts(made_arm("a", 0.0, 2), base, 6.67)
    assert found.low < found.difference < found.high and found.restarts < restarts(lucky, 6.67)
    assert restarts(base, 1.0) == pytest.approx(base.report.mean())
    rare = np.where(np.arange(20) < 18, 0.5, 0.9)  # 2 of 20 runs are good
    value = restarts(replace(base, select=rare, report=rare), 7.0)
    assert value == pytest.approx(0.5 + 0.4 * (1 - math.comb(18, 7) / math.comb(20, 7)))


def test_scores_of_runs_that_diverged_are_left_out_of_the_intervals():
    base, arm = made_arm("devlin2019", 0.5, 1), made_arm("a", 0.0, 2)
    without = np.where(np.arange(20) == 3, np.nan, arm.report)
    mean, low, high = paired_difference(without, base.report)
    assert (mean, low, high) == paired_difference(np.delete(arm.report, 3), np.delete(base.report, 3))
    found = against_restarts(replace(arm, report=without), base, 2.0)
    assert found == against_restarts(replace(arm, report=np.delete(arm.report, 3)), base, 2.0)
    broken = replace(base, select=np.where(np.arange(20) == 5, np.nan, base.select))
    fewer = replace(base, select=np.delete(base.select, 5), report=np.delete(base.report, 5))
    assert against_restarts(arm, broken, 2.0) == against_restarts(arm, fewer, 2.0)


def test_one_run_has_a_difference_without_an_interval():
    assert difference_text(*paired_difference(np.array([0.9]), np.array([0.8]))) == "+0.100"
    assert difference_text(0.1, 0.05, 0.15) == "+0.100 (+0.050 to +0.150)"


def test_power_is_what_the_protocol_says(monkeypatch):
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 400)
    assert recipes_report.power(60, 1.5) == pytest.approx(0.8, abs=0.08)
    assert recipes_report.power(20, 1.0) == pytest.approx(0.04, abs=0.04)  # a little conservative


# ---- from the runs' folders to the page -----------------------------------------------------------------------------


def leave(folder, recipe, rate, seed, last, report, stage=None):
    """A run's folder, as far as the report reads it: 500 examples a half, the second half's constant has 0.504."""
    place = folder / "runs" / recipe / f"seed-{seed:03d}"
    place.mkdir(parents=True)
    metrics = {"eval_second_accuracy": report}
    run = RunRecord("id", recipe, seed, "demo", "ok", "accuracy", last=last, metrics=metrics)
    job = {
        "args": {"learning_rate": rate},
        "data_folder": str(folder / "data" / "0"),
        "stages": [stage] if stage else [],
    }
    files = {"run.json": run.to_dict(), "config.json": {"job": job}, "times.json": {"wall": 12.0}}
    for name, content in files.items():
        (place / name).write_text(json.dumps(content))


def cells_of(text):
    """The cells of all tables, as (heading, recipe and rate, column, cell)."""
    heading, found, columns = "", set(), []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("## "):
            heading, columns = line, []
        elif line.startswith("|") and not columns:
            columns = cells
        elif line.startswith("| "):
            place = tuple(
                cell for name, cell in zip(columns, cells, strict=True) if name in ("task", "recipe", "learning rate")
            )
            found |= {(heading, place, *pair) for pair in zip(columns, cells, strict=True)}
    return found


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """Made studies of all three parts, of three recipes; the better the lower the rate, as far as 4e-5."""
    monkeypatch.setattr(recipes, "HERE", tmp_path)
    monkeypatch.setattr(recipes_report, "PAGE", tmp_path / "remedies.md")
    for part in ("chosen", "at_one_rate"):
        monkeypatch.setattr(recipes.FIRST, part, ("devlin2019", "mosbach2021", "devlin2019+stilts_demo"))
    monkeypatch.setattr(recipes, "CONTROLLED", "devlin2019+stilts_demo")
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 20)
    monkeypatch.setattr(recipes_report, "RESTARTS_RESAMPLES", 50)
    monkeypatch.setattr(recipes_report, "second_half_baseline", lambda folder: 0.504)
    (tmp_path / "remedies.md").write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    rng = np.random.default_rng(0)
    for task in recipes.TASKS:
        for name in recipes.recipe_names():
            for rate in (4e-5, *recipes.GRID):
                for seed in (2000, 2001, 2002):
                    leave(tmp_path / "choose" / task, f"{name}+rates,learning_rate={rate}", rate, seed, 1 - rate, None)
            parts = {"confirm": 4e-5, **({"same_rate": 2.5e-4} if task == "demo_pair" else {})}
            for part, rate in parts.items():
                for seed in range(4001, 4021):
                    scores = rng.normal(0.9, 0.01, 2) if part == "confirm" or seed % 2 else (0.51, 0.504)
                    recipe, stage = f"{name}+at_{rate}", "abc" if "stilts" in name else None
                    leave(tmp_path / part / task, recipe, rate, seed, *map(float, scores), stage)
                (tmp_path / part / task / "stages/demo_nli-abc").mkdir(parents=True, exist_ok=True)
                (tmp_path / part / task / "stages/demo_nli-abc/times.json").write_text('{"wall": 90.0}')
    places = ("control", "demo_pair", 4e-5), ("control", "demo_cola", 4e-5), ("control_same_rate", "demo_pair", 2.5e-4)
    for part, task, rate in places:
        for seed in range(4001, 4021):
            leave(tmp_path / part / task, f"{recipes.CONTROL}+at_{rate}", rate, seed, 0.9, 0.9)
    return tmp_path


def test_the_page_is_made_from_the_runs(studies, monkeypatch):
    recipes.pick(studies)
    assert set(json.loads((studies / "chosen.json").read_text())["demo_cola"].values()) == {4e-5}
    assert "| `mosbach2021`            | 1.000 | 1.000 | 1.000  | 0.999 | 4e-5*" in (studies / "chosen.md").read_text()
    monkeypatch.setattr("sys.argv", ["recipes_report.py", "--output_dir", str(studies)])
    assert recipes_report.main() == 0
    page = (studies / "remedies.md").read_text()
    assert page.startswith(f"before\n{MARKS[0]}\n## `demo_pair`, all at 2.5e-4") and page.endswith(
        f"{MARKS[1]}\nafter\n"
    )
    assert (
        "| 4e-5*" in page and "old" not in page and "| 10 = 0.50 (0.30-0.70) " in page
    )  # at the second half's constant
    rows = list(csv.DictReader((studies / "runs.csv").read_text().splitlines()))
    assert len(rows) == 20 * 3 * 3 + 20 * 3 and sum(int(row["failed"]) for row in rows) == 30
    assert page.count("`devlin2019+no_dropout`") == 3
    for row in rows:
        where = row["part"].split()[-1] if " " in row["part"] else "demo_pair"
        folder = studies / row["part"].split()[0] / where / "runs"
        (path,) = folder.glob(f"{row['recipe']}+at_*/seed-{row['seed']}/run.json")
        run = json.loads(path.read_text())
        assert float(row["select"]) == pytest.approx(run["last"], rel=1e-5)
        assert float(row["report"]) == pytest.approx(run["metrics"]["eval_second_accuracy"], rel=1e-5)
    pictures = sorted(path.name for path in studies.glob("*.png"))
    assert pictures == ["demo_cola.png", "demo_pair.png", "same_rate.png"]
    assert all(f"]({recipes_report.FROM_PAGE}{name})" in page for name in pictures[:2])
    results = (studies / "results.md").read_text()
    assert "](PROTOCOL.md)" in results and results.startswith(
        "# All recipes on the same ground\n\nn = 20 seeds per row"
    )
    assert " ".join(results.split()).count("in simulations at n = 20)") == 3
    cells = [cells_of(text) for text in (page, results)]
    assert cells[0] and cells[0] < cells[1]  # the page's tables are part of the results' tables
    table = (studies / "runs.csv").read_bytes()
    (studies / "remedies.md").write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    (studies / "results.md").unlink()
    monkeypatch.setattr("sys.argv", ["recipes_report.py", "--from_csv"])
    assert recipes_report.main() == 0
    assert (studies / "remedies.md").read_text() == page and (studies / "results.md").read_text() == results
    assert (studies / "runs.csv").read_bytes() == table


def test_runs_of_another_rate_and_parts_that_are_not_whole_are_refused(studies):
    folder, grid = studies / "confirm/demo_pair", {"devlin2019": recipes.GRID}
    with pytest.raises(SystemExit, match="devlin2019 was run at 4e-05, planned is 0.0001"):
        recipes_report.read_arms(folder, {"devlin2019": 1e-4}, grid)
    with pytest.raises(SystemExit, match="mixout has 0 runs, planned are 20"):
        recipes_report.read_arms(folder, {"mixout": 4e-5}, grid)
    with pytest.raises(SystemExit, match="part choose is incomplete, missing devlin2019 at 1e-05.*recipes.py choose"):
        recipes.mean_scores(studies / "choose/demo_pair", [1e-5, 1e-4])


def test_the_grid_is_extended_twice_at_most_where_an_edge_is_best(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(recipes, "at_grid", lambda folder, task, rates, more, which: asked.append(tuple(rates)) or 0)

    monkeypatch.setattr(recipes, "missing", lambda runs, rates, which: ["all"])

    def means(*best):  # one recipe for each, the better the nearer to its best rate
        return lambda folder, rates, which: {one: {rate: -abs(np.log(rate / one)) for rate in rates} for one in best}

    for best, expected in (
        ([2.5e-4], []),
        ([1e-4], [(4e-5,)]),
        ([2.5e-4, 4e-5], [(4e-5,), (1.6e-5,)]),
        ([1e-9, 1.5e-3], [(4e-5, 1.5e-3), (1.6e-5, 3.75e-3)]),
    ):
        asked.clear()
        monkeypatch.setattr(recipes, "mean_scores", means(*best))
        assert recipes.choose(tmp_path, "demo_pair", []) == 0
        assert asked == [recipes.GRID, *expected]


# ---- the committed pages --------------------------------------------------------------------------------------------


def test_the_committed_pages_are_made_from_the_committed_runs(monkeypatch):
    """But for what takes simulations: the power and the bootstrap at equal compute."""
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 2)
    monkeypatch.setattr(recipes_report, "RESTARTS_RESAMPLES", 50)
    parts = recipes_report.parts_from_csv(recipes.HERE / "runs.csv")
    page = recipes_report.PAGE.read_text()
    assert recipes_report.all_tables(parts, on_page=True) == page.partition(f"{MARKS[0]}\n")[2].partition(MARKS[1])[0]
    drawn = {"difference (95% interval)"}
    made, committed = (
        {cell for cell in cells_of(text) if cell[2] not in drawn}
        for text in (recipes_report.all_tables(parts), (recipes.HERE / "results.md").read_text())
    )
    assert made == committed and len(made) > 500
