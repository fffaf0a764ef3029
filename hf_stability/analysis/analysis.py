"""The frame of an analysis: what it needs, its numbers, its sentences, its figure, and the files that it leaves.

| in `STUDY/analysis/NAME` | what |
| --- | --- |
| `NAME.json` | every number, with its metric and its n |
| `TABLE.csv` | a table of these numbers, one file each; a table without rows has none |
| `NAME.png`, `NAME.svg` | the figure, drawn from the numbers alone; a second one is `NAME_TITLE.png` |
| `NAME.md` | what came out, in a few sentences |
"""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError, nearest
from ..utils.files import finite, plain, write_json, write_text
from .finished_study import Arms, FinishedStudy
from .packaged import ANALYSES


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..study.job import Job


SCHEMA = "hf_stability.analysis/1"


@dataclass(frozen=True)
class NoOptions:
    """The options of an analysis without options."""


class Analysis:
    """An experiment of the paper on a finished study. A subclass overrides `numbers`, `sentences` and `draw`.

    An analysis with runs of its own overrides `jobs` and `numbers_of_arms` too.

    Attributes:
        name: as in `ANALYSES`.
        Options: a frozen dataclass. Its fields are the options, with `help` (and `choices`) in their metadata. They become
            flags of `hf-stability analyze NAME`.
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions

    def beside(self, study: FinishedStudy, options: Any) -> list[FinishedStudy]:
        """Further studies, such as those of other models. Each one has its own runs."""
        return []

    def jobs(self, study: FinishedStudy, options: Any) -> list[Job]:
        """The runs that it needs beside the study's, see `more_runs`. They are trained if the user wants it. Called once."""
        return []

    def runs_folder(self, study: FinishedStudy, options: Any) -> Path:
        """The folder of its own runs."""
        from .more_runs import own_folder

        return own_folder(study, self.name)

    def prepare(self, study: FinishedStudy, jobs: list[Job], options: Any) -> None:
        """Write what these jobs need, such as other data, before they are trained."""

    def missing(self, study: FinishedStudy, options: Any) -> list[str]:
        """Which runs or files it still needs, each a sentence that says how to make them. Empty: it can begin."""
        return []

    def numbers(self, study: FinishedStudy, options: Any) -> dict[str, Any]:
        """The numbers, as values for JSON: numpy values and tuples are converted, NaN becomes null.

        Each number has its metric and its n beside it. The key `tables` has the tables: name -> list of rows, each a dict
        with the same keys.
        """
        raise NotImplementedError

    def numbers_of_arms(self, study: FinishedStudy, arms: Arms, options: Any) -> dict[str, Any]:
        """As `numbers`, of an analysis with runs of its own.

        Args:
            study: the user's.
            arms: the runs of all `jobs`, by the jobs' recipe.
            options: the analysis's.
        """
        raise NotImplementedError

    def together(self, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The numbers of all studies together: those of the first, each table with the rows of all.

        Args:
            found: the numbers of the study, then of those `beside` it.
        """
        tables = {name: [row for each in found for row in each["tables"][name]] for name in found[0].get("tables", {})}
        return {**found[0], **({"tables": tables} if len(found) > 1 else {})}

    def sentences(self, numbers: Mapping[str, Any]) -> list[str]:
        """Two or three plain sentences on what came out, with n. From the numbers alone, as read from the JSON file."""
        raise NotImplementedError

    def draw(self, numbers: Mapping[str, Any]) -> Figure:
        """The figure. From the numbers alone, as read from the JSON file."""
        raise NotImplementedError

    def figures(self, numbers: Mapping[str, Any]) -> dict[str, Figure]:
        """All figures, by the names of their files. Default: that of `draw`."""
        return {self.name: self.draw(numbers)}


@dataclass(frozen=True)
class Result:
    """The result of `analyze`.

    Args:
        name: of the analysis.
        numbers: as in `NAME.json`.
        sentences: what came out.
        files: the files that were written.
    """

    name: str
    numbers: dict[str, Any]
    sentences: list[str]
    files: list[Path]


def analyze(
    name: str,
    folder: str | os.PathLike,
    recipes: Sequence[str] | None = None,
    output_dir: str | os.PathLike | None = None,
    make_runs: bool = False,
    workers: int | None = None,
    **options: Any,
) -> Result:
    """Run an analysis on a finished study, and write its files.

    Args:
        name: of the analysis, see `ANALYSES`.
        folder: the study's folder.
        recipes: which recipes, in this order. Default: all, sorted.
        output_dir: where to write. Default: `FOLDER/analysis/NAME`.
        make_runs: train the runs that the analysis needs beside the study's, into `FOLDER/analysis/NAME/study`.
        workers: how many of them at a time. Default: one per GPU, else one per core.
        options: of the analysis; the others have their defaults.

    Raises:
        InputError: no such analysis, a wrong option, a folder without finished runs, or something is missing. Then nothing is
            written.

    Example:
        ```python
        from hf_stability.analysis import analyze

        result = analyze("gradients", "rte")
        print(*result.sentences, sep="\\n")
        ```
    """
    analysis = load_analysis(name)
    chosen = make_options(analysis, options)
    study = FinishedStudy(folder, recipes, output_dir)
    target = study.target(name)
    check_target(target)
    if make_runs and type(analysis).jobs is Analysis.jobs:
        raise InputError(f"--make_runs: analyze {name} needs no runs of its own; leave it out")
    studies = [study, *analysis.beside(study, chosen)]
    missing = [sentence for each in studies for sentence in analysis.missing(each, chosen)]
    planned = [] if missing else [analysis.jobs(each, chosen) for each in studies]
    for each, jobs in zip(studies, planned, strict=False):
        missing += provide(analysis, each, jobs, chosen, make_runs, workers) if jobs else []
    if missing:
        raise InputError(f"analyze {name}: {' '.join(missing)}")
    found = [_numbers(analysis, each, jobs, chosen) for each, jobs in zip(studies, planned, strict=True)]
    head = {
        "schema": SCHEMA,
        "analysis": name,
        "options": dataclasses.asdict(chosen),
        "recipes": {recipe: len(runs) for recipe, runs in study.by_recipe.items()},
    }
    numbers = finite(plain(head | analysis.together(found)))
    return Result(name, numbers, analysis.sentences(numbers), write(analysis, numbers, target))


def _numbers(analysis: Analysis, study: FinishedStudy, jobs: Sequence[Job], options: Any) -> dict[str, Any]:
    if not jobs:
        return analysis.numbers(study, options)
    from .more_runs import read_arms

    arms = read_arms(study, analysis.runs_folder(study, options), jobs)
    return analysis.numbers_of_arms(study, arms, options)


def provide(
    analysis: Analysis, study: FinishedStudy, jobs: list[Job], options: Any, make: bool, workers: int | None
) -> list[str]:
    """Train the jobs that an analysis lacks, if `make`; otherwise say what is missing, as `Analysis.missing` does."""
    from ..study.job import check_jobs
    from . import more_runs

    folder = analysis.runs_folder(study, options)
    check_jobs(jobs)
    jobs = more_runs.not_reused(study, jobs)
    lacking = more_runs.missing_jobs(jobs, folder)
    if lacking and not make:
        return [more_runs.missing_sentence(lacking, more_runs.seconds_of(study, lacking))]
    if lacking:
        analysis.prepare(study, jobs, options)
        more_runs.make_runs(jobs, folder, workers)
    return []


def write(analysis: Analysis, numbers: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the files of an analysis into a folder, each atomically; see above. Repeated calls write the same bytes.

    Args:
        analysis: it draws the figure and gives the sentences.
        numbers: values for JSON, as `analyze` makes them.
        folder: is made if it does not exist.
    """
    from ..diagnostics.plots import own_style
    from ..study.report.figures import write_figure

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{analysis.name}.json"]
    write_json(files[0], numbers)
    for name, rows in numbers.get("tables", {}).items():
        path = folder / f"{name}.csv"
        if rows:
            write_text(path, csv_text(rows))
            files.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier call
    with own_style():
        figures = analysis.figures(numbers)
        for name, figure in figures.items():
            files += write_figure(figure, folder, name)
    files.append(folder / f"{analysis.name}.md")
    parts = [f"# {analysis.name}", *analysis.sentences(numbers), *(f"![{name}]({name}.png)" for name in figures)]
    write_text(files[-1], "\n\n".join(parts) + "\n")
    return files


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table as CSV: numbers in full, an empty cell for None. The header has the keys of the first row."""
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def load_analysis(name: str) -> Analysis:
    """The analysis of this name. Raises InputError if there is none; the message has the nearest name."""
    if name not in ANALYSES:
        raise InputError(f"analyze {name}: no such analysis{nearest(name, ANALYSES)}; choose {', '.join(ANALYSES)}")
    return import_module(f".{name.replace('-', '_')}", __package__).ANALYSIS


def make_options(analysis: Analysis, given: Mapping[str, Any]) -> Any:
    """The options of an analysis. Raises InputError for an unknown one, and for a value that is not among its choices."""
    fields = {field.name: field for field in dataclasses.fields(analysis.Options)}
    for name, value in given.items():
        if name not in fields:
            known = f"; it takes {', '.join(fields)}" if fields else "; it takes no options"
            raise InputError(f"analyze {analysis.name}: no such option {name}{nearest(name, fields) or known}")
        choices = fields[name].metadata.get("choices")
        if choices and value not in choices:
            raise InputError(f"--{name} {value}: choose one of {', '.join(map(str, choices))}")
    return analysis.Options(**given)


def check_target(folder: Path) -> None:
    """Refuse a folder that is a file, or that lies in one."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--output_dir {folder}: {there} is a file; give a folder")
