import numpy as np
import pytest

from benchmarks import recipes, recipes_report
from benchmarks.recipes_report import Arm, holm, paired_difference, same_rate_table, task_tables
from hf_stability.recipe import load_recipes


def made_arm(name, share, seed, n=20):
    rng = np.random.default_rng(seed)
    failed = rng.random(n) < share
    select, report = (np.where(failed, 0.5, rng.normal(0.85, 0.02, n)) for _ in range(2))
    seconds = np.full(n, 80.0 if name == "mosbach2021" else 12.0)
    return Arm(name, 1e-4, tuple(range(n)), select, report, failed, seconds)


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


def test_holm_is_holms():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_the_difference_is_paired():
    first = np.linspace(0, 1, 20)
    mean, low, high = paired_difference(first + 0.1, first)
    assert mean == pytest.approx(0.1) and low == pytest.approx(0.1) and high == pytest.approx(0.1)


def test_the_tables_have_every_recipe_and_the_counts(arms, monkeypatch):
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 20)
    text = task_tables({"demo_pair": arms, "demo_cola": arms})
    assert f"{2 * (len(arms) - 1)} comparisons" in text
    for name, arm in arms.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` ")]
        assert len(rows) == 2 and f"| {int(arm.failed.sum())} (" in rows[0]
    mosbach = next(line for line in text.splitlines() if line.startswith("| `mosbach2021` "))
    assert "6.67: 0.8" in mosbach  # the best of so many restarts hardly fails
    same = same_rate_table(arms)
    assert same.count("< .001") == len(arms) - 1 and "0.00025" in same


def test_power_is_what_the_protocol_says(monkeypatch):
    monkeypatch.setattr(recipes_report, "POWER_DRAWS", 400)
    assert recipes_report.power(60, 1.5) == pytest.approx(0.8, abs=0.08)
    assert recipes_report.power(20, 1.0) == pytest.approx(0.04, abs=0.04)  # a little conservative


def test_a_part_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="devlin2019 has 0 runs, planned are 20"):
        recipes_report.read_arms(tmp_path, {"devlin2019": 1e-4})
