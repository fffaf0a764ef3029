"""Recipes of one or several studies compared on equal terms, for `hf-stability compare`.

Scores can be compared only on the same data, with the same metric. More training, more evaluations to choose from or another
pretrained model are told, because they may explain a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ....errors import InputError, nearest
from ....utils.text import joined, markdown_table
from ...attempts import MARK_NOTE, with_marks, with_restarts
from ...folder import read_runs
from ...records import RunRecord
from ..settings import read_json, read_settings
from ..until import until_notes
from .conclusion import conclusion
from .contents import ROPE, report_contents
from .tables import pairs_table, recipes_table, to_markdown


@dataclass(frozen=True)
class Arm:
    """One recipe of a study.

    Args:
        name: the recipe's; with the study's folder before it if another arm has the same recipe.
        runs: its finished runs, all with `name` as their recipe.
        job: a run's job from `config.json`; empty if that cannot be read.
        examples: number of development examples; None if unknown.
        until: how to read its study, if that has `--until`; with several studies its name and compared recipes come first.
    """

    name: str
    runs: tuple[RunRecord, ...]
    job: dict[str, Any]
    examples: int | None
    until: str = ""

    @property
    def steps(self) -> str:
        """Planned update steps of its runs."""
        return _numbers({run.planned_steps for run in self.runs})

    @property
    def evaluations(self) -> str:
        """Evaluations of its runs that were trained to their end."""
        return _numbers({run.evaluations for run in self.runs if run.steps >= run.planned_steps})


def read_arms(paths: Sequence[str | Path]) -> list[Arm]:
    """The recipes below each path: a study's folder, or `STUDY/runs/RECIPE` for one recipe of it.

    Raises:
        InputError: there is no such folder, or no finished run in it; or a recipe is given twice.
    """
    found: dict[tuple[Path, str], list[RunRecord]] = {}
    for path in map(Path, paths):
        study, recipe = (path.parents[1], path.name) if path.absolute().parent.name == "runs" else (path, None)
        if not path.is_dir():
            raise InputError(f"compare {path}: no such folder; give a study's folder, or STUDY/runs/RECIPE")
        runs = read_runs(study)
        recipes = list(dict.fromkeys(run.recipe for run in runs))
        if not recipes or (recipe is not None and recipe not in recipes):
            hint = nearest(recipe, recipes) if recipe else ""
            raise InputError(f"compare {path}: no finished run{hint}; give a study's folder, or STUDY/runs/RECIPE")
        for name in recipes if recipe is None else [recipe]:
            key = (study.resolve(), name)
            if key in found:
                raise InputError(f"compare {path}: its recipe {name} is given twice; give each recipe once")
            found[key] = [run for run in runs if run.recipe == name]
    recipes = [recipe for _, recipe in found]
    names = {key: key[1] if recipes.count(key[1]) == 1 else f"{key[0].name}/{key[1]}" for key in found}
    several = len({study for study, _ in found}) > 1
    arms = []
    for (study, recipe), runs in found.items():
        name = names[study, recipe]
        jobs = (read_json(study / "runs" / run.name / "config.json").get("job") for run in runs)
        job = next((job for job in jobs if isinstance(job, dict)), {})
        examples = read_settings(study, runs).examples
        until = " ".join(until_notes(study, [(run.recipe, run.seed) for run in read_runs(study)]))
        if until and several:
            until = f"{study.name} ({joined([own for key, own in names.items() if key[0] == study])}): {until}"
        arms.append(Arm(name, tuple(replace(run, recipe=name) for run in runs), job, examples, until))
    return arms


def unequal_terms(arms: Sequence[Arm]) -> list[str]:
    """The terms on which the arms differ, a sentence each. Empty: none is known.

    Raises:
        InputError: there are fewer than two arms, two have one name, or they have other data.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < max(2, len(names)):
        raise InputError("compare: give two recipes or more, from folders of different names")
    data = {arm.job.get("data_fingerprint") for arm in arms} - {None}
    if len(data) > 1:
        raise InputError(
            f"compare: {joined(names)} have different data (their data_fingerprint differs), so their scores cannot be compared"
        )
    sentences = []
    if any("data_fingerprint" not in arm.job for arm in arms):
        sentences.append("Whether all have the same data is unknown: a run's config.json cannot be read.")
    if len({arm.job.get("model_fingerprint") for arm in arms}) > 1:
        sentences.append("Their pretrained models differ.")
    if len({arm.steps for arm in arms}) > 1:
        sentences.append("Their numbers of update steps differ, so one had more compute.")
    if len({arm.evaluations for arm in arms}) > 1:
        sentences.append("Their numbers of evaluations differ. Compare only the scores at the end, not the best ones.")
    if len({frozenset(run.known_seed for run in arm.runs) for arm in arms}) > 1:
        sentences.append("Their seeds differ, so they are not compared within seeds.")
    return sentences


def comparison(paths: Sequence[str | Path], rope: float = ROPE) -> str:
    """The comparison as Markdown: the verdict, the terms, the tables.

    Args:
        paths: see `read_arms`.
        rope: half width of the region of practical equivalence, in the metric's unit.

    Raises:
        InputError: see `read_arms`, `unequal_terms` and `report_contents`.
    """
    arms = read_arms(paths)
    terms = unequal_terms(arms)
    runs = [run for arm in arms for run in arm.runs]
    contents = report_contents(runs, rope=rope, examples=arms[0].examples)
    again = with_restarts(contents["recipes"])
    contents = with_marks(contents, again)
    rows = [[with_marks(arm.name, again), str(len(arm.runs)), arm.steps, arm.evaluations] for arm in arms]
    told = [f"- {sentence}" for sentence in terms] or ["- Data, model, update steps, evaluations and seeds are equal."]
    told += [f"- {text}" for text in dict.fromkeys(arm.until for arm in arms) if text]
    told += [f"- {MARK_NOTE}"] if again else []
    parts = [
        " ".join(conclusion(contents)),
        markdown_table(["recipe", "runs", "update steps", "evaluations"], rows),
        "\n".join(told),
        *(to_markdown(table) for table in (recipes_table(contents), pairs_table(contents))),
    ]
    return "\n\n".join(parts)


def _numbers(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "unknown"
