"""docs/my_run_failed.md: its tables say what the code does. tests/docs/test_pages.py runs its commands."""

from __future__ import annotations

import re

import pytest

from hf_stability.diagnose import input_checks, memorize, rescue, training_checks
from hf_stability.diagnose.causes import CHECKS
from hf_stability.diagnose.report import share_sentence
from hf_stability.diagnose.words import STABLE_RECIPE, WORDS
from hf_stability.diagnostics import settings
from hf_stability.statistics import wilson_interval
from hf_stability.study.records import RunRecord
from hf_stability.verdicts.vanished import vanished_mask
from tests.docs.workshop import ROOT


PAGE = (ROOT / "docs" / "my_run_failed.md").read_text()


def table(header: str) -> list[list[str]]:
    """The cells of the table that begins with this header."""
    lines = PAGE[PAGE.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_of_checks_has_every_check_in_its_order():
    assert [row[0] for row in table("check")] == list(CHECKS)


def test_the_arms_are_those_of_the_rescue():
    assert re.findall(r"^\| (`\w+`) \|", rescue.__doc__, re.M) == [row[0] for row in table("arm")]


def test_the_table_of_seeds():
    rows = table("seeds, none of them failed")
    assert {int(n): float(share) for n, share in rows} == {
        int(n): pytest.approx(wilson_interval(0, int(n))[1], abs=0.005) for n, _ in rows
    }
    assert "a failed share of 0.21 to 1" in PAGE and round(float(wilson_interval(1, 1)[0]), 2) == 0.21


def test_the_report_on_the_page_is_in_todays_words():
    report = " ".join(PAGE[PAGE.index("run: failed/") : PAGE.index("MODEL stands for")].split())
    names = "|".join(CHECKS)
    found = re.findall(rf"- ({names}): .+? remedy: (.+?) use: (.+?)(?= - | possible | in order )", report)
    assert [name for name, *_ in found] == [
        "vanished gradients", "early warning", "learning rate", "update steps", "warmup",
    ]  # fmt: skip
    for name, remedy, recipe in found:
        words = WORDS[name]
        if name == "warmup":
            assert (remedy, recipe) == settings.warmup_remedy(["uncorrected"])
            continue
        assert remedy == (words.remedy if isinstance(words.remedy, str) else settings.smaller_steps(4e-4, 64))
        assert recipe == words.recipe if isinstance(words.recipe, str) else recipe.startswith(STABLE_RECIPE)
    assert share_sentence((1.0, *map(float, wilson_interval(1, 1)))) in report


def test_the_end_of_the_rescue_on_the_page_is_in_todays_words():
    shown = " ".join(PAGE[PAGE.index("\nNo failed run: ") :].split("\n```")[0].split())
    scores = {"same": 0.489, "third_of_rate": 0.81, "2000_steps": 0.788, "reinit_top": 0.489}
    runs = [
        RunRecord(str(seed), arm, seed, "demo_pair", "ok" if score > 0.511 else "failed", "accuracy", last=score)
        for arm, score in scores.items()
        for seed in (1, 2, 3)
    ]
    assert shown == rescue.conclusion(runs)


def test_the_bounds_on_the_page_are_those_of_the_checks():
    cells = {row[0]: row[1] for row in table("check")}
    assert f"Fewer than {settings.FEW_STEPS} " in cells["update steps"]
    assert f"less than {training_checks.SHORT_WARMUP:.0%} " in cells["warmup"]
    assert f"{input_checks.MAJORITY:.0%} or more" in cells["class shares"]
    assert f"{input_checks.TRUNCATED:.0%} or more" in cells["truncation"]
    defaults = vanished_mask.__kwdefaults__
    assert f"{defaults['ratio_below']:.0%} of the classifier" in cells["vanished gradients"]
    assert f"{defaults['drop_to']:.0%} of their own" in cells["vanished gradients"]
    assert f"from {training_checks.RATE_POSSIBLE:g} times" in PAGE
    assert f"likely cause from {settings.FAR_ABOVE:g} times on" in PAGE
    assert f"narrower models from {settings.FAR_ABOVE_NARROW:g} times on" in PAGE
    assert f"learn {memorize.EXAMPLES} of its own" in cells[
        "memorize"
    ] and f"at most {memorize.STEPS} update steps" in " ".join(PAGE.split())
