"""Writes a report: one page of HTML that needs nothing else, the same as Markdown, tables in LaTeX, and the figures.

| below the folder | content |
| --- | --- |
| `report.html` | the page: no network, no external font or script |
| `report.md` | the verdict and the tables as Markdown |
| `recipes.tex`, `pairs.tex` | the tables for LaTeX, with booktabs |
| `report.json` | every number, see `report_contents` |
| `figures/` | the figures as PNG and SVG |

Repeated calls write the same bytes. Nothing is written into the runs' folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ....errors import InputError
from ....utils.files import write_json, write_text
from ....utils.text import decimal, loss_text, markdown_table
from ....verdicts.verdict import NOT_OK
from ....version import __version__
from ...attempts import with_marks, with_restarts
from ...folder import read_runs
from ...records import RunRecord
from ..plots import name_parts
from ..until import ADVICE, until_notes
from .agreement_tables import agreement_tables
from .conclusion import advice, conclusion
from .contents import ROPE, report_contents
from .figures import PageFigure, page_figures, write_figures
from .predictions import PREDICTIONS, prediction_report
from .tables import Table, pairs_table, recipes_table, to_latex, to_markdown, words


RECORDS = (
    "run.json", "verdict.json", "metrics.json", "config.json", "gradients.png", "trainer_state.json", "all_results.json",
    "eval_results.json",
)  # fmt: skip
"""Files of a run that the page links to, where they exist: a study's, then the Trainer's."""

MOST_UNFOLDED = 100
"""With more runs, their table is folded: it would make a printed page long."""

LONGEST_PART = 20
"""So many characters of a name in a table may be in one line on a phone."""

NO_SETTINGS = "No settings and versions of the runs made elsewhere: their files do not tell them."

MOST_COMPARED = 6
"""With more recipes, there is no table of the settings that differ: it would be too wide."""


def write_report(
    folder: str | os.PathLike | None = None,
    runs: Sequence[RunRecord] = (),
    output_dir: str | os.PathLike | None = None,
    rope: float = ROPE,
    examples: int | None = None,
    links: bool = True,
) -> list[Path]:
    """Write the report of a study, of runs made elsewhere, or of both.

    Args:
        folder: the study's folder; None if there is none.
        runs: records of runs made elsewhere.
        output_dir: where to write. Default: `report` below the folder, or below the current folder.
        rope: half width of the region of practical equivalence, in the metric's unit.
        examples: number of development examples. Default: as in the study's verdicts.
        links: whether the page links to the runs' files. They lead nowhere once the page is sent to somebody.

    Returns:
        the files, `report.html` first.

    Raises:
        InputError: there are no runs; they have several tasks or metrics; `output_dir` is a file, or inside of the runs.
    """
    study = None if folder is None else Path(folder)
    own = _runs_of(study) if study is not None else []
    target = _target(study, output_dir)
    together = [*own, *runs]
    contents = report_contents(together, study, rope, examples)
    drawn, missing = page_figures(contents, together, study if own else None)
    contents["agreement"], reason = _agreement(study, own, contents["ranking"])
    contents["missing"] = [*missing, ["differences between seeds", reason]] if reason else missing
    if runs:
        contents["notes"].append(NO_SETTINGS)
    again = with_restarts(contents["recipes"])
    marked = with_marks(contents, again)
    contents["advice"], contents["verdict"] = advice(marked), conclusion(marked)
    if study is not None and (marks := until_notes(study, [(run.recipe, run.seed) for run in own])):
        contents["advice"] += f" {ADVICE}"
        contents["verdict"].append(" ".join(marks))
        contents["notes"].append(marks[0])
    marked = with_marks(contents, again)
    tables = [recipes_table(marked), pairs_table(marked)]
    agreement = agreement_tables(marked["agreement"]) if marked["agreement"] else []
    texts = {
        "report.html": render(marked, drawn, study, target, links),
        "report.md": markdown(marked, [*tables, *agreement], drawn),
        **{f"{table.name}.tex": to_latex(table) for table in tables},
    }
    for path in (target, target / "figures"):
        path.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(target / name, text)
    write_json(target / "report.json", contents)
    return [*(target / name for name in (*texts, "report.json")), *write_figures(drawn, target / "figures")]


def _runs_of(folder: Path) -> list[RunRecord]:
    if not folder.is_dir():
        raise InputError(f"report {folder}: no such folder; give a study's folder, its --output_dir")
    runs = read_runs(folder)
    if not runs:
        raise InputError(
            f"report {folder}: no finished run of a study; for plain Trainer folders use --runs, for a table --scores"
        )
    return runs


def _target(folder: Path | None, output_dir: str | os.PathLike | None) -> Path:
    """Where the report is written. Raises InputError for a file, and for a place inside of the runs."""
    target = Path(output_dir) if output_dir is not None else (folder or Path()) / "report"
    there = next((path for path in (target, *target.parents) if path.exists()), target)
    if there.exists() and not there.is_dir():
        raise InputError(f"--output_dir {target}: {there} is a file; give a folder")
    if folder is not None and (folder / "runs").resolve() in (target.resolve(), *target.resolve().parents):
        raise InputError(f"--output_dir {target}: this is inside of the study's runs; give a folder outside of them")
    return target


def _agreement(
    folder: Path | None, runs: Sequence[RunRecord], ranking: Sequence[str]
) -> tuple[dict[str, Any] | None, str]:
    """Differences between seeds, see `prediction_report`; or None, and why."""
    if folder is None or not any((folder / "runs" / run.name / PREDICTIONS).is_file() for run in runs):
        return None, "these runs have no predictions on file"
    recipes = {run.recipe for run in runs}
    return prediction_report(folder, [name for name in ranking if name in recipes]), ""


# ---- HTML -----------------------------------------------------------------------------------------------------------


def render(
    contents: Mapping[str, Any], figures: Sequence[PageFigure], folder: Path | None, target: Path, links: bool = True
) -> str:
    """The page as text.

    Args:
        contents: see `report_contents`; with `advice` and `verdict`, the sentences.
        figures: see `page_figures`.
        folder: the study's folder, for links to the runs' records; None without.
        target: the folder that the page will be in; links are relative to it.
        links: whether there are any.
    """
    from jinja2 import Environment, StrictUndefined

    template = files(__package__).joinpath("templates/report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters |= {"name": _name, "numbers": _numbers}
    rows = [{**_run_row(run), "links": _links(run, folder, target) if links else []} for run in contents["runs"]]
    names = list(contents["settings"])
    differing = contents["differing_settings"] if 1 < len(names) <= MOST_COMPARED else []
    every = tuple(range(len(names) + 1))
    text = environment.from_string(template).render(
        title=title(contents),
        facts=facts(contents),
        metric=words(contents["metric"]),
        advice=contents["advice"],
        sentences=contents["verdict"],
        recipes=recipes_table(contents),
        pairs=pairs_table(contents),
        figures=figures,
        agreement=agreement_tables(contents["agreement"]) if contents["agreement"] else [],
        left_out=left_out_lines(contents),
        settings=[
            Table(name, "", ("argument", "value", "from"), _rows(own), (0, 1, 2))
            for name, own in contents["settings"].items()
        ],
        differing=Table("differing", "", ("argument", *names), _rows(differing), every),
        versions=version_lines(contents),
        runs=rows,
        unfolded=len(rows) <= MOST_UNFOLDED,
        known={name for name in ("best", "train_loss", "steps") if any(row[name] != "-" for row in rows)},
        links=any(row["links"] for row in rows),
        footer=f"Made by hf_stability {__version__}. Every number is in report.json.",
    )
    return text if text.endswith("\n") else f"{text}\n"


def _name(text: str) -> str:
    """A recipe's name as HTML that may break after `+`, `,` and spaces; a long part of it also after `_`, `-` and `=`."""
    from markupsafe import Markup

    parts = re.split(r"(?<=[+, ])", text)
    shorter = [[part] if len(part) <= LONGEST_PART else name_parts(part, LONGEST_PART) for part in parts]
    return Markup("<wbr/>").join(piece for part in shorter for piece in part)


def _numbers(text: str) -> str:
    """A cell of numbers as HTML that may break before an interval and after `/`, and nowhere else."""
    from markupsafe import Markup

    return Markup("<wbr/>").join(re.split(r"(?<= )(?=\()|(?<=/ )|(?<=, )", text))


def title(contents: Mapping[str, Any]) -> str:
    """`Stability over seeds: demo_pair`."""
    return f"Stability over seeds: {contents['task']}" if contents["task"] else "Stability over seeds"


def facts(contents: Mapping[str, Any]) -> str:
    """The runs, the score and the baseline, in one line."""
    recipes, runs = len(contents["recipes"]), len(contents["runs"])
    parts = [
        f"{runs} run{'s' * (runs != 1)} of {recipes} recipe{'s' * (recipes != 1)}",
        f"score: {words(contents['metric'])} at the end of training, on the development set",
    ]
    if contents["examples"] is not None:
        parts[-1] += f" of {contents['examples']} examples"
    if contents["baseline"] is not None:
        parts.append(f"best constant prediction: {decimal(contents['baseline'])}")
    return f"{'; '.join(parts)}."


def left_out_lines(contents: Mapping[str, Any]) -> list[str]:
    """Runs that some figure does not count, then sections that the report does not have, then notes."""
    runs = [
        f"{entry['recipe']}: {entry['n']} {'run' if entry['n'] == 1 else 'runs'} {entry['kind']} ({entry['reason']})."
        for entry in contents["left_out"]
    ]
    sections = [f"No section or figure of {name}: {reason}." for name, reason in contents["missing"]]
    return [*runs, *sections, *contents["notes"]]


def version_lines(contents: Mapping[str, Any]) -> list[str]:
    """Library versions, with the number of runs that were made with them."""
    return [
        f"{entry['n']} run{'s' * (entry['n'] != 1)}: {', '.join(f'{name} {value}' for name, value in entry['versions'].items())}"
        for entry in contents["versions"]
    ]


def _rows(rows: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in rows)


def _links(run: Mapping[str, Any], folder: Path | None, target: Path) -> list[tuple[str, str]]:
    """A run's records, each a name and where it is."""
    places = [] if folder is None else [folder / "runs" / run["name"]]
    places += [Path(run["id"])] if run["id"] else []  # of a run made elsewhere: its folder
    own = next((place for place in places if place.is_dir()), None)
    if own is None:
        return []
    way = os.path.relpath(own.resolve(), target.resolve()).replace(os.sep, "/")
    return [(name.partition(".")[0], quote(f"{way}/{name}")) for name in RECORDS if (own / name).is_file()]


def _run_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's row, with text in place of numbers."""
    steps = str(run["steps"])
    if run["planned_steps"] and run["steps"] != run["planned_steps"]:
        steps += f" of {run['planned_steps']}"
    return {
        **run,
        "last": decimal(run["last"]),
        "best": decimal(run["best"]),
        "train_loss": "-" if run["train_loss"] is None else loss_text(run["train_loss"]),
        "steps": steps if run["steps"] else "-",
        "bad": run["status"] in NOT_OK,
    }


# ---- Markdown -------------------------------------------------------------------------------------------------------


def markdown(contents: Mapping[str, Any], tables: Sequence[Table], figures: Sequence[PageFigure]) -> str:
    """The report as Markdown, with links to the figures below its folder."""
    parts = [f"# {title(contents)}", facts(contents), "## Verdict", f"**{contents['advice']}**", *contents["verdict"]]
    for table in tables:
        if table.rows:
            parts += [f"## {HEADINGS[table.name]}"] if table.name in HEADINGS else []
            parts.append(to_markdown(table))
    if figures:
        parts.append("## Figures")
        parts += [f"![{figure.title}](figures/{figure.name}.png)\n\n{figure.caption}" for figure in figures]
    left_out = left_out_lines(contents) or ["Nothing: every figure counts every run."]
    parts += ["## Left out", "\n".join(f"- {line}" for line in left_out)]
    if contents["settings"]:
        parts.append("## Settings")
    for name, rows in contents["settings"].items():
        parts += [f"### {name}", markdown_table(["argument", "value", "from"], rows)]
    if contents["versions"]:
        parts += ["## Versions", "\n".join(f"- {line}" for line in version_lines(contents))]
    return "\n\n".join(parts) + "\n"


HEADINGS = {"recipes": "Recipes", "pairs": "Recipes in pairs", "agreement": "Differences between seeds"}
"""Tables that begin a section."""
