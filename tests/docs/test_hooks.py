"""What docs/hooks.py adds to the pages: cards, a table of arguments, and links to files of the repository."""

from __future__ import annotations

import importlib.util
import re

import pytest

from hf_stability.methods import METHODS
from tests.prose import ROOT


pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", METHODS)
def test_a_card_has_its_parts_and_the_figures_of_the_results(hooks, method):
    card = hooks.method_card(method)
    assert card.startswith("## ") and ":" not in card.split("\n")[0]
    parts = re.findall(r"^\*\*([A-Z][a-z ]+)\*\*$", card, re.M)
    order = ["Equation", "When to use it", "Settings", "Cost", "Differences", "Measured here"]
    assert parts == [part for part in order if part in parts]
    assert {"Equation", "When to use it", "Settings", "Cost", "Measured here"} <= set(parts)
    results = (ROOT / hooks.RESULTS).read_text()
    for recipe in hooks._recipes_of(method):
        rows = [line.split("|")[2:6] for line in card.split("\n") if f"`devlin2019+{recipe}`" in line and "| " in line]
        # two tasks at its own rate, and all at the rate where devlin2019 fails
        assert len(rows) == (0 if "Not run yet" in card else 3)
        for _, failed, mean, std in rows:
            assert re.search(rf"`devlin2019\+{recipe}`.*\|\s*{re.escape(failed.strip())}\s*\|", results)
            assert f" {mean.strip()} " in results and f" {std.strip()} " in results


def test_every_add_on_recipe_of_a_method_has_a_card(hooks):
    of_cards = {name for method in METHODS for name in hooks._recipes_of(method)}
    assert of_cards == {
        "mixout", "prior_decay", "l2_sp", "reinit", "layerwise_lr", "component_clip", "r_drop", "r3f", "child_tuning_f",
        "child_tuning_d", "stable_adamw", "gi_adam", "head_first", "ema", "swa",
    }  # fmt: skip


def test_the_table_of_arguments_has_ours_alone(hooks):
    table = hooks.argument_table()
    assert "| `total_train_batch_size` |" in table and "| `on_alarm` |" in table
    assert "`learning_rate`" not in table.split("|")[1::4] and "| `mixout` |" not in table


@pytest.mark.parametrize(
    ("here", "link", "target"),
    [
        ("docs/demo.md", "../benchmarks/demo_study/PROTOCOL.md", "benchmarks/demo_study/PROTOCOL.md"),
        ("docs/demo.md", "../recipes/mixout.yaml", "recipes/mixout.yaml"),
        ("docs/demo.md", "limits.md", None),  # mkdocs knows its own pages
        ("docs/demo.md", "../nowhere.md", None),
        ("docs/demo.md", "../../outside.md", None),
        ("recipes/README.md", "../docs/recipes.md", "docs/recipes.md"),
    ],
)
def test_a_link_to_a_file_of_the_repository(hooks, here, link, target):
    assert hooks._target(here, link) == target


@pytest.mark.parametrize(
    "path", ["docs/demo.md", "recipes/mixout.yaml", "benchmarks/a/PROTOCOL.md", "examples/x.py", "a/b.png"]
)
def test_the_places_of_a_file_in_the_repository_and_on_the_site(hooks, path):
    assert hooks.repository_path(hooks.site_uri(path)) == path
