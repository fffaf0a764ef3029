"""The numbers, tables and figures of docs/paper_experiments.md that need many runs, made again by one command.

    python benchmarks/paper_experiments.py plan                  # runs and core minutes of each part
    python benchmarks/paper_experiments.py run --workers 1       # all parts, the strongest test first
    python benchmarks/paper_experiments.py collect               # what is finished, into the repository

A part is an analysis on a study of the bundled demo. The studies are in OUTPUT_DIR/STUDY, and the runs of an analysis in
OUTPUT_DIR/STUDY/analysis. After an interruption (Ctrl-C, SIGTERM) the same command runs what is missing. `collect` writes, for each
finished part:

| file | what |
| --- | --- |
| `benchmarks/paper_experiments/PART_TABLE.csv` | each table of the analysis, numbers with 5 significant digits |
| `benchmarks/paper_experiments/PART.md` | what came out, in the analysis's sentences |
| `docs/paper_experiments/FIGURE.png` | its figures |
| `docs/paper_experiments.md` | the tables between the comments `table: PART` and `end of table` |
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.ending import exit_code
from hf_stability import run_study
from hf_stability.analysis import analyze
from hf_stability.analysis.analysis import csv_text
from hf_stability.analysis.interventions import InterventionsOptions, arms
from hf_stability.errors import InputError
from hf_stability.tasks.demo.data import demo_model_path
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table, share_text


ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "paper_experiments"
PAGE = ROOT / "docs" / "paper_experiments.md"
FIGURES = ROOT / "docs" / "paper_experiments"
DIGITS = 5
SECONDS_PER_STEP = 0.08
"""Seconds of an update step on one thread, with its share of the evaluations: 15.4 s for 189 steps, on a machine of two cores."""

STEPS = 189
"""Update steps of a run of devlin2019: 3 epochs of 1000 examples, 16 in a batch."""
LONG_STEPS = 320
"""Update steps of mosbach2021 with 250 examples: 20 epochs. A model learns so few by heart, and the train loss becomes small."""


# ---- the settings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """A study on the demo.

    Args:
        settings: keywords of `run_study`.
        steps: update steps of a run.
        architecture: of the bundled model.
    """

    settings: dict[str, Any]
    steps: int = STEPS
    architecture: str = "bert"


STUDIES = {
    "devlin": Study({"recipes": "devlin2019", "seeds": 40, "keep_model": "last"}),
    "roberta": Study({"recipes": "devlin2019", "seeds": 8}, architecture="roberta"),
    "albert": Study({"recipes": "devlin2019", "seeds": 8}, architecture="albert"),
    "long": Study(
        {
            "recipes": "mosbach2021",
            "seeds": 3,
            "max_train_samples": 250,
            "eval_strategy": "steps",  # an evaluation after each epoch would take half of the time
            "eval_steps": LONG_STEPS,
        },
        steps=LONG_STEPS,
    ),
}
"""Name of a study -> its settings."""

SEEDS = 20
RATES = (1e-4, 2.5e-4, 4e-4)
BETAS2 = (0.98, 0.999)
GRID_SEEDS = 8
FEW = 250
FEW_STEPS = 48
TIMES_LONGER = (4, 16)
LONG_SEEDS = 3


@dataclass(frozen=True)
class Part:
    """An analysis on a study.

    Args:
        study: its name.
        steps: update steps of all runs that the analysis itself needs.
        runs: how many these are.
        options: of the analysis.
        beside: names of further studies.
    """

    study: str
    runs: int
    steps: int
    options: dict[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def studies(self) -> tuple[str, ...]:
        """All studies that it needs."""
        return self.study, *self.beside


_ARMS = len(arms(STEPS, InterventionsOptions()))
_MODELS = 3
# An arm for each rate, correction and beta2; one of each model is its study.
_GRID = (2 * len(RATES) * len(BETAS2) - 1) * GRID_SEEDS * _MODELS
PARTS = {
    "interventions": Part("devlin", _ARMS * SEEDS, _ARMS * SEEDS * STEPS, {"seeds": SEEDS}),
    "lr-bias-correction": Part(
        "devlin",
        _GRID,
        _GRID * STEPS,
        {"rates": RATES, "betas2": BETAS2, "seeds": GRID_SEEDS},
        beside=("roberta", "albert"),
    ),
    "dataset-size": Part("devlin", 2 * SEEDS, SEEDS * (STEPS + FEW_STEPS), {"examples": FEW, "seeds": SEEDS}),
    "generalisation": Part(
        "long",
        LONG_SEEDS * len(TIMES_LONGER),
        LONG_SEEDS * sum(TIMES_LONGER) * LONG_STEPS,
        {"times_longer": TIMES_LONGER, "seeds": LONG_SEEDS},
    ),
}
"""Name of an analysis -> its part, in the order of `run`."""


def folder_of(output_dir: Path, name: str) -> Path:
    """Where the files of a part's analysis are."""
    return output_dir / PARTS[name].study / "analysis" / name


# ---- plan -----------------------------------------------------------------------------------------------------------


def plan_text(names: Sequence[str]) -> str:
    """Runs and core minutes of each part; a study counts for the first part that needs it."""
    rows, seen = [], set()
    total = [0, 0.0]
    for name in names:
        part = PARTS[name]
        runs, steps = part.runs, part.steps
        for each in part.studies:
            if each not in seen:
                runs += STUDIES[each].settings["seeds"]
                steps += STUDIES[each].settings["seeds"] * STUDIES[each].steps
                seen.add(each)
        minutes = steps * SECONDS_PER_STEP / 60
        total = [total[0] + runs, total[1] + minutes]
        rows.append([name, " ".join(part.studies), str(runs), f"{minutes:.0f}"])
    rows.append(["all", "", str(total[0]), f"{total[1]:.0f}"])
    return markdown_table(["part", "studies", "runs", "core minutes"], rows)


# ---- run ------------------------------------------------------------------------------------------------------------


def run_parts(names: Sequence[str], output_dir: Path, workers: int, **more: Any) -> None:
    """Train what is missing, and write the files of each analysis.

    Args:
        names: of parts.
        output_dir: see above.
        workers: runs at a time; 0: in this process.
        more: keywords of every study, for a test.
    """
    for name in names:
        part = PARTS[name]
        for each in part.studies:
            study = STUDIES[each]
            print(f"study {each}", flush=True)
            run_study(
                **{
                    "task_name": "demo_pair",
                    "model_name_or_path": demo_model_path(study.architecture),
                    "output_dir": output_dir / each,
                    "workers": workers,
                    "use_cpu": True,
                    **study.settings,
                    **more,
                }
            )
        print(f"analyze {name}", flush=True)
        beside = {"beside": tuple(str(output_dir / each) for each in part.beside)} if part.beside else {}
        result = analyze(
            name, output_dir / part.study, make_runs=part.runs > 0, workers=workers, **part.options, **beside
        )
        print("\n".join(result.sentences), flush=True)


# ---- collect --------------------------------------------------------------------------------------------------------


def collect(names: Sequence[str], output_dir: Path) -> list[str]:
    """Write the results of finished parts into the repository. Returns their names."""
    found = []
    for name in names:
        folder = folder_of(output_dir, name)
        if not (folder / f"{name}.json").is_file():
            print(f"{name}: not finished, nothing is collected")
            continue
        numbers = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        RESULTS.mkdir(exist_ok=True)
        for table, rows in numbers["tables"].items():
            if rows:
                write_text(RESULTS / f"{file_name(name)}_{table}.csv", csv_text([rounded(row) for row in rows]))
        sentences = [
            text for text in (folder / f"{name}.md").read_text(encoding="utf-8").split("\n\n") if text[:1] != "!"
        ]
        write_text(RESULTS / f"{file_name(name)}.md", "\n\n".join(sentences).strip() + "\n")
        for figure in folder.glob("*.png"):
            shutil.copyfile(figure, FIGURES / f"{file_name(figure.stem)}.png")
        found.append(name)
    write_text(PAGE, with_tables(PAGE.read_text(encoding="utf-8")))
    return found


def file_name(name: str) -> str:
    """Files of the repository have `_` for `-`."""
    return name.replace("-", "_")


def rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row, its numbers with `DIGITS` significant digits."""
    return {key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for key, value in row.items()}


def read_table(name: str, table: str) -> list[dict[str, str]]:
    """The rows of a committed table, as text; none without the file."""
    path = RESULTS / f"{file_name(name)}_{table}.csv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the page -------------------------------------------------------------------------------------------------------


def number(text: str, kind: str) -> str:
    """A number of a table in a given format; `-` if it is not known."""
    return format(float(text), kind) if text else "-"


def share(row: Mapping[str, str], count: str, key: str) -> str:
    """`12 of 20 (0.39 to 0.78)`."""
    low, high = (share_text(float(row[f"{key}_{end}"])) for end in ("low", "high"))
    return f"{row[count]} of {row['n']} ({low} to {high})"


def interventions_table() -> str:
    """Saved seeds, and the last tenth of training, by arm."""
    rows = [
        [
            row["arm"].replace("_", " "),
            row["step"] or "-",
            share(row, "ok", "share"),
            number(row["update_ratio"], ".1g"),
            number(row["cls_variance"], ".2g"),
        ]
        for row in read_table("interventions", "arms")
    ]
    head = ["change", "from step", "saved (95% interval)", "update / weights", "variance of [CLS]"]
    return markdown_table(head, rows) if rows else ""


def grid_table() -> str:
    """Failed runs by model, beta2 and rate, without and with correction."""
    rows = read_table("lr-bias-correction", "arms")
    arms_of: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        arms_of.setdefault((row["model"], row["beta2"], row["rate"]), {})[row["correction"]] = row
    lines = []
    for key in sorted(arms_of, key=lambda key: (list(dict.fromkeys(r["model"] for r in rows)).index(key[0]), key[1:])):
        off, on = arms_of[key]["False"], arms_of[key]["True"]
        ratio = float(on["summed_effective_rate"]) / float(off["summed_effective_rate"])
        scores = [number(each["median_score"], ".3f") for each in (off, on)]
        shares = [share(each, "failed", "failed_share") for each in (off, on)]
        lines.append([*key, shares[0], shares[1], *scores, f"{ratio:.2f}"])
    head = [
        "model",
        "beta2",
        "rate",
        "failed, off (95% interval)",
        "failed, on",
        "median, off",
        "median, on",
        "summed steps, on / off",
    ]
    return markdown_table(head, lines) if lines else ""


def size_table() -> str:
    """Failed runs and scores by arm."""
    rows = [
        [
            row["arm"].replace("_", " "),
            row["examples"],
            row["steps"],
            share(row, "failed", "failed_share"),
            number(row["mean_score"], ".3f"),
            number(row["std_score"], ".3f"),
        ]
        for row in read_table("dataset-size", "arms")
    ]
    head = ["arm", "examples", "update steps", "failed (95% interval)", "mean", "std"]
    return markdown_table(head, rows) if rows else ""


def longer_table() -> str:
    """Longer training against the recipe's own, on the same seeds."""
    rows = [
        [
            row["arm"].replace("_", " "),
            row["steps"],
            number(row["median_train_loss"], ".2g"),
            f"{row['n_at_papers_loss']} of {row['n']}",
            f"{number(row['mean_longer'], '.3f')} against {number(row['mean_short'], '.3f')}",
            f"{number(row['difference'], '+.3f')} ({number(row['difference_low'], '+.3f')} to {number(row['difference_high'], '+.3f')})",
        ]
        for row in read_table("generalisation", "longer")
    ]
    head = [
        "training",
        "update steps",
        "median train loss",
        "at or below 1e-5",
        "mean score",
        "difference (95% interval)",
    ]
    return markdown_table(head, rows) if rows else ""


TABLES: dict[str, Callable[[], str]] = {
    "interventions": interventions_table,
    "lr-bias-correction": grid_table,
    "dataset-size": size_table,
    "generalisation": longer_table,
}
"""Name of a part -> its table on the page."""


def with_tables(page: str) -> str:
    """The page with each table, and figures that are nowhere else on it, between its comments. Without files nothing changes there."""
    for name, make in TABLES.items():
        table = make()
        if not table:
            continue
        pattern = rf"(<!-- table: {name} -->\n)(.*?)(<!-- end of table -->)"
        blocks = re.findall(pattern, page, flags=re.DOTALL)
        if len(blocks) != 1:
            raise InputError(f"{PAGE}: {len(blocks)} places for the table {name}; one is needed")
        rest = page.replace(blocks[0][1], "") if blocks[0][1] else page
        paths = [f"paper_experiments/{path.name}" for path in sorted(FIGURES.glob(f"{file_name(name)}*.png"))]
        titles = [Path(path).stem.replace("_", " ") for path in paths]
        figures = [f"![{title}]({path})" for title, path in zip(titles, paths, strict=True) if f"({path})" not in rest]
        block = "".join(f"\n{part}\n" for part in (table.strip(), *figures))
        page = page.replace("".join(blocks[0]), f"{blocks[0][0]}{block}\n{blocks[0][2]}")
    return page


# ---- the command ----------------------------------------------------------------------------------------------------


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["plan", "run", "collect"])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="in this order")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time; 0: in this process")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("results/paper_experiments"), help="folder of the studies"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parsed(argv)
    if options.action == "plan":
        print(plan_text(options.parts))
        return 0
    if options.action == "collect":
        return exit_code(
            lambda: print(f"collected: {' '.join(collect(options.parts, options.output_dir)) or 'nothing'}")
        )
    return exit_code(lambda: run_parts(options.parts, options.output_dir, options.workers))


if __name__ == "__main__":
    raise SystemExit(main())
