"""The figures on the pages of results are those of the committed runs and tables."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest

from benchmarks import diagnostics_overhead, recipes, recipes_report
from hf_stability.statistics import wilson_interval
from hf_stability.utils.text import decimal, share_text
from tests.prose import ROOT


def tables(path: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each a list of rows, column -> cell without backticks."""
    found: list[list[dict[str, str]]] = []
    columns: list[str] = []
    for line in (ROOT / path).read_text().splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            columns = []
        elif not columns:
            columns = cells
            found.append([])
        elif not set("".join(cells)) <= set("-: "):
            found[-1].append(dict(zip(columns, cells, strict=True)))
    return found


def prose(path: str) -> str:
    """A page's text, all white space one blank."""
    return " ".join((ROOT / path).read_text().split())


def floats(text: str) -> list[float]:
    """All numbers; a `-` between two numbers is a range."""
    return [float(number) for number in re.findall(r"[+-]?\d+\.?\d*", re.sub(r"(?<=\d)-(?=\d)", " ", text))]


# ---- the demo -------------------------------------------------------------------------------------------------------


def test_the_demos_table_is_made_of_its_runs():
    with open(ROOT / "benchmarks/demo_study/results/runs.csv", newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["part"] == "confirm"]
    (table,) = tables("docs/demo.md")
    assert {row["arm"] for row in table} == {run["recipe"] for run in runs}
    for row in table:
        own = [run for run in runs if run["recipe"] == row["arm"]]
        scores = np.array([float(run["last"]) for run in own])
        ok = np.array([run["status"] == "ok" for run in own])
        count, (low, high) = int((~ok).sum()), wilson_interval((~ok).sum(), len(own))
        share = f" = {share_text(count / len(own))}" if count else ""
        assert row["failed = share (95% interval)"] == f"{count}{share} ({share_text(low)}-{share_text(high)})"
        found = [decimal(value) for value in (scores.mean(), scores.std(ddof=1), scores[ok].std(ddof=1))]
        assert [row["mean"], row["std"], row["std of runs that did not fail"]] == found and len(own) == 20


def test_the_demos_contrasts_are_those_of_its_results():
    page, rows = prose("docs/demo.md"), tables("benchmarks/demo_study/results/confirm.md")[0]
    contrasts = {row["contrast"]: row["mean difference of accuracy (95% interval)"] for row in rows}
    for contrast in ("off_3_factor - on_3", "off_3_mean_factor - on_3"):
        mean, interval = contrasts[contrast].rstrip(")").split(" (")
        assert f"{mean}, 95% interval {interval}" in page or f"{mean}, {interval}" in page
    results = prose("benchmarks/demo_study/results/confirm.md")
    for figure in ("0.00015", "0.993", "0.935"):
        assert figure in page and figure in results


# ---- the remedies ---------------------------------------------------------------------------------------------------


def test_what_the_remedies_page_says_in_words_is_what_the_runs_say():
    """The tables of that page are compared in tests/benchmarks/test_recipes.py."""
    page, parts = prose("docs/remedies.md"), recipes_report.parts_from_csv(recipes.HERE / "runs.csv")
    pair, cola, same = parts["confirm demo_pair"], parts["confirm demo_cola"], parts["same_rate"]

    def difference(arms, first, second):
        mean, low, high = recipes_report.paired_difference(arms[first].report, arms[second].report)
        return f"{mean:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"

    assert difference(pair, "devlin2019+mixout", "mosbach2021") in page
    assert difference(cola, "mosbach2021", "devlin2019").replace("95% interval ", "") in page
    failed = {name: int(arm.failed.sum()) for name, arm in same.items()}
    none = {name for name, count in failed.items() if not count}
    assert none == {"mosbach2021", "transformers_default"} | {
        f"devlin2019+{name}" for name in ("mixout", "child_tuning_f", "child_tuning_d")
    }
    assert {name for name, count in failed.items() if count == 1} == {"devlin2019+l2_sp", "devlin2019+layerwise_lr"}
    text = (
        "Component-wise clipping failed on {component_clip}, R-Drop on {r_drop}, R3F and the decoupled decay on {r3f}, "
        "STILTs on {stilts_demo}, re-initialisation on {reinit}."
    )
    assert text.format(**{name.removeprefix("devlin2019+"): count for name, count in failed.items()}) in page
    assert failed["devlin2019+r3f"] == failed["devlin2019+prior_decay"]
    assert [name for name in same if not any(arms[name].failed.any() for arms in (pair, cola, same))] == [
        "mosbach2021"
    ]
    others = [int(arm.failed.sum()) for name, arm in cola.items() if name != "mosbach2021"]
    assert f"{min(others)} to {max(others)} of their 20 runs failed" in page


def test_restarts_at_equal_compute_on_the_page_are_those_of_the_results():
    page, rows = (
        prose("docs/remedies.md"),
        [row for table in tables("benchmarks/recipes_study/results.md") for row in table],
    )
    found = [
        row["difference (95% interval)"]
        for row in rows
        if row["recipe"] == "mosbach2021" and "difference (95% interval)" in row
    ]
    (first, second) = (text.replace("+", "").rstrip(")").split(" (") for text in found)
    assert f"by {first[0]} on `demo_pair` ({first[1]}) and by {second[0]} on `demo_cola` ({second[1]})" in page


# ---- the early warning ----------------------------------------------------------------------------------------------

SETTINGS = {"BERT": 0, "RoBERTa": 1, "ALBERT": 2}


@pytest.fixture(scope="module")
def warned():
    """Tables of the results: AUC, alarms, alarms in use of each setting; that of unbalanced classes."""
    _, _, *rest = tables("benchmarks/early_warning/results.md")
    return [rest[0:3], rest[3:6], rest[6:9], rest[9]]


def test_the_tables_of_the_early_warning_are_those_of_its_results(warned):
    *_, aucs, alarms = tables("docs/early_warning.md")
    for row in aucs:
        name, counts = row["model (failed, ok, healed, borderline runs)"].split(" (", 1)
        risks = {cells["AUC (95% interval)"]: cells for cells in warned[SETTINGS[name]][0]}
        columns = {"AUC at 20%": "20%", "at 30%": "30%", "at 40% of training": "40%"}
        pairs = [(row[own], risks["risk"][theirs]) for own, theirs in columns.items()]
        pairs.append(
            (
                row["at 30%, all that did not fail as negatives"],
                risks["risk, healed and borderline runs counted as ok"]["30%"],
            )
        )
        for own, theirs in pairs:
            assert floats(own) == pytest.approx(floats(theirs), abs=0.0051), name
        kinds = next(r for r in tables("benchmarks/early_warning/results.md")[0] if r["setting"] == name.lower())
        assert floats(counts)[:4] == [float(kinds[kind]) for kind in ("failed", "ok", "healed", "borderline")]
    for row in alarms:
        name = row["alarm by 40% of training"]
        alarm, used = (
            {cells["alarm raised by"]: cells for cells in table}["40%"] for table in warned[SETTINGS[name]][1:]
        )
        share = used["runs that did not fail, alarmed"].partition(" ")[0]
        assert list(row.values())[1:] == [
            alarm["recall"].partition(" = ")[2],
            share.replace("/", " of "),
            used["precision if 10% fail"],
            used["precision, all of these as negatives"].partition(" = ")[2],
        ]


def test_the_tables_of_the_new_alarm_are_those_of_its_benchmark():
    ideas, rules, kinds, odds, unbalanced = tables("benchmarks/early_warning/better_alarm.md")
    held_out, right, *_ = tables("docs/early_warning.md")
    first, chosen = ideas[0], next(list(row.values()) for row in ideas if row["idea"].startswith("**"))
    for i, (name, row) in enumerate(zip(("BERT", "RoBERTa", "ALBERT"), held_out, strict=True)):
        assert list(row.values()) == [name, *chosen[4 * i + 1 : 4 * i + 4], list(first.values())[4 * i + 3]]
    assert [list(row.values())[1:] for row in right] == [list(row.values())[1:] for row in odds]
    page = prose("docs/early_warning.md")
    before, now = ([row for row in rules if row["rule"] == rule] for rule in ("first rule", "now"))
    early = [row["median first alarm"] for row in before]
    assert "With the first rule it was {}, {} and {}.".format(*early) in page
    assert [row["median first alarm"] for row in now] == ["40%", "40%", "30%"]
    parts = {
        kind: np.array([[int(n) for n in row[kind].partition(" ")[0].split("/")] for row in kinds]).sum(0).tolist()
        for kind in ("ok", "healed", "borderline")
    }
    assert parts == {"ok": [0, 139], "healed": [1, 17], "borderline": [7, 75]}
    assert "Not one plainly ok run of 139 raised" in page and "7 of 75 runs near the baseline did, and 1 of 17" in page
    sound = unbalanced[1]["sound"].partition(" ")[0].replace("/", " of ")
    assert f"the new rule alarms {sound} sound runs, and all 26 failed ones" in page


def test_the_early_warnings_words_are_its_results(warned):
    page = prose("docs/early_warning.md")
    alarms = [{cells["alarm raised by"]: cells for cells in setting[1]}["40%"] for setting in warned[:3]]
    precision = [cells["precision"].partition(" = ")[2] for cells in alarms]
    assert f"it is {precision[0]}, {precision[1]} and {precision[2]}." in page
    tenth = [cells["precision if 10% fail"].partition(" ")[0] for cells in alarms]
    assert "With one run in ten failing it is {}, {} and {}.".format(*tenth) in page
    for kind, text in (
        ("borderline", "{} of {} runs near the majority-class baseline"),
        ("healed", "{} of {} healed runs"),
    ):
        parts = np.array([[int(n) for n in cells[kind].partition(" ")[0].split("/")] for cells in alarms]).sum(0)
        assert text.format(*parts) in page
    at_30 = [
        {cells["AUC (95% interval)"]: cells for cells in setting[0]}["risk above without gradients"]["30%"]
        for setting in warned[:3]
    ]
    assert "BERT {}, RoBERTa {}, ALBERT {}".format(*at_30) in page
    *settings, everything = warned[3]
    found = {
        key: everything[key].replace("-", " to ").split(" = ")
        for key in ("failed: now", "sound: now", "sound: before")
    }
    (failed, of_failed), (sound, of_sound), (before, of_before) = found.values()
    assert failed == "26/26" and f"All 26 failed runs raised an alarm {of_failed[5:]}." in page
    assert f"{sound.replace('/', ' of ')} sound runs did so ({of_sound.replace(' (', ', ')}." in page
    assert f"The rule before had {before.replace('/', ' of ')} ({of_before.replace(' (', ', ')}." in page
    worst = {row["setting"]: row["sound: now"] for row in settings if row["sound: now"][0] not in "0-"}
    assert list(worst) == ["rare03"]
    count, share = worst["rare03"].split(" = ")
    assert f"{count.replace('/', ' of ')} sound runs there ({share.replace(' (', ', ').replace('-', ' to ')}." in page


# ---- the cost -------------------------------------------------------------------------------------------------------


def test_the_limits_of_the_cost_are_the_benchmarks():
    first, second = tables("docs/cost.md")[0][:2]
    bars = diagnostics_overhead.BARS
    assert [first["limit"], second["limit"]] == [str(bars[key]["cpu"]) for key in ("stable", "callback")]
    assert f"The limit there ({bars['stable']['cuda']} for both)" in prose("docs/cost.md")
