"""Differences between the seeds of a recipe, as tables: from the numbers of `predictions.prediction_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....utils.text import decimal, joined, share_text
from .tables import Table


NO_RUN = "-"


def agreement_tables(predictions: Mapping[str, Any]) -> list[Table]:
    """The table of recipes, then that of classes if there are any, then one of hard examples per recipe that has some.

    Args:
        predictions: see `prediction_report`.
    """
    recipes = predictions["recipes"]
    with_ok = [
        recipe for recipe in recipes if recipe["hard_examples_of"] == "ok"
    ]  # a failed run gets a whole class wrong
    tables = [_recipes(recipes), _classes(recipes), *(_hard(recipe, predictions) for recipe in with_ok)]
    return [table for table in tables if table.rows]


def _recipes(recipes: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for recipe in recipes:
        name = "ok" if recipe["ok"]["runs"] else "all"
        own, together = recipe[name], recipe[name]["ensemble"] or {}
        if not own["runs"]:
            continue
        examples = own["examples"]
        rows.append(
            (
                recipe["recipe"],
                f"{own['runs']} {name}",
                NO_RUN if own["disagreement"] is None else share_text(own["disagreement"]),
                decimal(own["fleiss_kappa"], 2),
                decimal(own["jensen_shannon"]),
                *(
                    NO_RUN if own[key] is None else f"{own[key]} of {examples}"
                    for key in ("wrong_in_every_run", "wrong_in_half")
                ),
                *(decimal(together.get(key)) for key in ("score", "mean_run", "best_run")),
                together.get("metric", NO_RUN).replace("_", " "),
            )
        )
    header = (
        "recipe", "runs", "disagreement", "Fleiss' kappa", "Jensen-Shannon, nats", "wrong in every run",
        "wrong in half", "ensemble", "mean run", "best run", "metric",
    )  # fmt: skip
    notes = [
        "Runs: those that did not fail. Two failed runs that always predict one class agree on every example. If all runs of "
        "a recipe failed, all are used.",
        "Disagreement: share of the examples on which two runs predict different classes, mean over pairs of runs. Fleiss' "
        "kappa: agreement beyond chance, 1 if all runs agree. Jensen-Shannon: divergence of two runs' probabilities.",
        "Ensemble: the mean probabilities of these runs. The best run was chosen on the same examples, so its score is too "
        "good for new ones.",
    ]
    if any(row[4] == NO_RUN for row in rows):
        notes.append("A dash: not defined, for example with one run, or for a regression.")
    return Table("agreement", "Differences between seeds.", header, tuple(rows), (0, 1), tuple(notes))


def _classes(recipes: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            recipe["recipe"],
            str(own["class"]),
            str(own["examples"]),
            decimal(own["error"], 2),
            f"{decimal(own['lowest'], 2)} to {decimal(own['highest'], 2)}",
            f"{own['half_wrong']} of {recipe['all']['runs']}",
            f"{own['missed']} of {recipe['all']['runs']}",
        )
        for recipe in recipes
        for own in recipe["all"]["classes"] or ()
    )
    header = (
        "recipe", "class", "examples", "share wrong, mean run", "lowest to highest run", "runs with half wrong",
        "runs that miss all",
    )  # fmt: skip
    notes = ("All runs, failed ones too. A failed run often misses a whole class.",)
    return Table("classes", "Errors by class, over seeds.", header, rows, (0, 1), notes)


def _hard(recipe: Mapping[str, Any], predictions: Mapping[str, Any]) -> Table:
    """Examples that half of a recipe's ok runs or more get wrong."""
    listed = recipe["hard_examples"] or []
    n = recipe["ok"]["runs"]
    rows = tuple(
        (
            str(own["example"]),
            str(own["label"]),
            f"{own['wrong_ok']} of {n}",
            joined(f"{name}: {number}" for name, number in own["predictions"].items()),
            " / ".join(map(str, (own["texts"] or {}).values())) or NO_RUN,
        )
        for own in listed
    )
    found = recipe["hard_examples_found"]
    caption = (
        f"{recipe['recipe']}: {found} examples that at least half of its {n} ok runs get wrong"
        f"{f' (the first {len(listed)})' * (found is not None and len(listed) < found)}"
    )
    notes = (predictions["texts_missing"],) if predictions.get("texts_missing") else ()
    header = ("example", "label", "wrong in", "predicted by runs", "text")
    return Table("hard_examples", caption, header, rows, (1, 3, 4), notes)
