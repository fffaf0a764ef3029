"""Does a run that begins again on an alarm end well, and at which cost? The runs. See self_healing/PROTOCOL.md.

    python benchmarks/self_healing.py plan                   # runs and core hours of each part
    python benchmarks/self_healing.py choose --workers 2     # learning rates, first half; writes self_healing/chosen.json
    python benchmarks/self_healing.py confirm --workers 2    # once, other seeds, scored on the second half
    python benchmarks/self_healing.py collect                # finished runs into self_healing/runs.csv
    python benchmarks/self_healing.py report                 # results.md and figures, from runs.csv

Each part is a study per setting, in OUTPUT_DIR/PART/SETTING. After an interruption the same command runs what is missing.
`report` reads only the committed files.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.csv_rows import read_records, records_csv
from benchmarks.ending import exit_code
from benchmarks.recipes import best_rate, rate_text
from hf_stability import run_study
from hf_stability.errors import InputError
from hf_stability.study.attempts import attempts_of
from hf_stability.study.folder import read_runs
from hf_stability.study.records import RunRecord
from hf_stability.tasks.demo.data import demo_model_path, demo_splits
from hf_stability.tasks.load import HALVES, TokenizedData
from hf_stability.utils.files import write_json, write_text
from hf_stability.utils.text import markdown_table
from hf_stability.verdicts.constants import at_or_below, majority_accuracy


# ---- the settings: all are in PROTOCOL.md, and none is changed after a look at the runs ---------------------------------

HERE = Path(__file__).parent / "self_healing"
RECIPES_STUDY = Path(__file__).parent / "recipes_study" / "runs.csv"
PLAIN, SEED, GENTLE, BEST, LONG = "plain", "restart_seed", "restart_gentle", "best_rate", "mosbach2021"
RESTARTS = {SEED: "seed", GENTLE: "gentle"}
"""Arms with restarts -> `restart_with`."""
SEEDS = tuple(range(8001, 8041))
LONG_SEEDS = SEEDS[:10]
"""Seeds of `mosbach2021` where no other study has its runs: one run of it costs 6.67 runs."""
CHOICE_SEEDS = tuple(range(8101, 8105))
CHECKED = 2
"""Seeds without an alarm that the restart arms run all the same: they must be the plain runs, bit for bit."""
MAX_RESTARTS = 2
COST = 20 / 3
"""A run of `mosbach2021` in runs of 3 epochs, by update steps."""


@dataclass(frozen=True)
class Setting:
    """A setting: `devlin2019` on a bundled model and task.

    Args:
        architecture: name of the bundled model.
        task: name of the bundled task.
        rate: learning rate of all arms but `best_rate` and `mosbach2021`.
        seconds: CPU seconds of a run of 3 epochs on one thread, see PROTOCOL.md.
        split: name of the task's training set.
        examples: number of training examples, the first of the split.
        changes: other arguments that differ from `devlin2019`.
        arms: the arms that are run.
        best: the rate at which `devlin2019` scores best; None: part `choose` finds it.
        alarmed: share of runs that are expected to raise an alarm; only the plan needs it.
    """

    architecture: str
    task: str
    rate: float
    seconds: float
    split: str = "train"
    examples: int = 1000
    changes: Mapping[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = (PLAIN, SEED, GENTLE)
    best: float | None = None
    alarmed: float = 0.6


SETTINGS = {
    "bert_pair": Setting("bert", "demo_pair", 2.5e-4, 14.4, best=4e-5),
    "bert_cola": Setting("bert", "demo_cola", 1e-4, 10.1, best=1e-4),
    "roberta": Setting("roberta", "demo_cola", 9e-4, 15.4, arms=(PLAIN, SEED, GENTLE, BEST, LONG)),
    "albert": Setting(
        "albert",
        "demo_cola",
        9e-4,
        20.2,
        "train_full",
        2000,
        {"bias_correction": True},
        (PLAIN, SEED, GENTLE, BEST, LONG),
        alarmed=0.4,
    ),
    "sound": Setting("bert", "demo_pair", 4e-5, 13.3, arms=(PLAIN, GENTLE), best=4e-5, alarmed=0.05),
}
"""Settings by name. `sound` is the one where nothing fails; its plain runs are also `bert_pair` at its own best rate."""
FAILING = tuple(name for name in SETTINGS if name != "sound")
GRID = (1e-4, 2.5e-4, 5e-4, 9e-4)
"""Rates of part `choose`."""


@dataclass(frozen=True)
class Run:
    """A run, a line of runs.csv.

    Args:
        part: `choose` or `confirm`.
        setting, arm, rate, seed: what was run.
        status: the verdict's, on the first half, after the last attempt.
        failed: the accuracy on the scored half is at or below the majority-class baseline, or the run diverged.
        selects: score on the first half.
        score: score on the scored half: the first in part `choose`, the second in part `confirm`.
        attempts: number of attempts.
        alarm_step: update step of the first attempt's alarm; -1 without one.
        steps: update steps of the last attempt.
        steps_spent: update steps of all attempts.
        planned: update steps of one whole run.
        copied: an arm with restarts did not run this seed, because the plain run raised no alarm: it would be the same run.
        seconds: wall clock.
    """

    part: str
    setting: str
    arm: str
    rate: float
    seed: int
    status: str
    failed: bool
    selects: float
    score: float
    attempts: int
    alarm_step: int
    steps: int
    steps_spent: int
    planned: int
    copied: bool
    seconds: float

    @property
    def began_again(self) -> bool:
        """Whether it has several attempts, or, as a plain run, would have with restarts."""
        return self.attempts > 1 or self.alarm_step >= 0 or self.status == "diverged"

    @property
    def cost(self) -> float:
        """Update steps of all attempts, in runs of 3 epochs."""
        return self.steps_spent / self.planned * (COST if self.arm == LONG else 1.0)


# ---- what is planned ------------------------------------------------------------------------------------------------


def rate_of(name: str, arm: str, chosen: Mapping[str, float]) -> float:
    """The learning rate of an arm. `mosbach2021` has the own best rate of `devlin2019`."""
    setting = SETTINGS[name]
    if arm not in (BEST, LONG):
        return setting.rate
    return setting.best if setting.best is not None else chosen[name]


def seeds_of(arm: str, plain: Sequence[Run]) -> tuple[int, ...]:
    """The seeds of an arm in part `confirm`.

    Args:
        arm: its name.
        plain: the setting's plain runs: an arm with restarts runs the seeds that raised an alarm, and the first `CHECKED`
            others. Empty: none of it is known yet.
    """
    if arm == LONG:
        return LONG_SEEDS
    if arm not in RESTARTS:
        return SEEDS
    if len(plain) < len(SEEDS):
        return ()
    again = [run.seed for run in plain if run.began_again]
    quiet = [run.seed for run in plain if not run.began_again]
    return tuple(sorted([*again, *quiet[:CHECKED]]))


# ---- the runs -------------------------------------------------------------------------------------------------------


def data_of(folder: Path, setting: Setting) -> dict[str, Any]:
    """The data to train on, as keywords of a study. A task's larger training set is written as .csv files."""
    if setting.split == "train":
        return {"task_name": setting.task, "max_train_samples": setting.examples}
    splits = demo_splits(setting.task)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        f"{setting.task}-{setting.split}-{setting.examples}": splits[setting.split][: setting.examples],
        f"{setting.task}-validation": splits["validation"],
    }
    paths = []
    for name, rows in parts.items():
        paths.append(folder / f"{name}.csv")
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_text(paths[-1], out.getvalue())
    return {"train_file": paths[0], "validation_file": paths[1]}


def write_arm(folder: Path, setting: Setting, arm: str, rate: float) -> str:
    """Write an arm as a recipe file; its path."""
    recipe = LONG if arm == LONG else "devlin2019"
    args = {"learning_rate": rate, **setting.changes}
    if arm in RESTARTS:
        args |= {
            "on_alarm": "restart",
            "max_restarts": MAX_RESTARTS,
            "restart_with": RESTARTS[arm],
            "audit_alarms": 0.0,
        }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arm}_at_{rate_text(rate)}.yaml"
    write_text(
        path, "# See benchmarks/self_healing/PROTOCOL.md.\n" + yaml.safe_dump({"extends": recipe, "args": args})
    )
    return str(path)


def run_arm(part: str, name: str, arm: str, rate: float, seeds: Sequence[int], options: argparse.Namespace) -> None:
    """Run what is missing of an arm.

    Raises:
        InputError: runs crashed.
    """
    folder, setting = options.output_dir / part / name, SETTINGS[name]
    there = {run.seed for run in read_study(options.output_dir, part, name) if (run.arm, run.rate) == (arm, rate)}
    left = [seed for seed in seeds if seed not in there]
    print(f"{name}, {arm} at {rate_text(rate)}: {len(seeds) - len(left)} of {len(seeds)} runs finished", flush=True)
    if not left:
        return
    result = run_study(
        **data_of(options.output_dir / "data", setting),
        model_name_or_path=demo_model_path(setting.architecture),
        validation_half={"choose": HALVES[0], "confirm": "both"}[part],
        recipes=write_arm(options.output_dir / "arms" / name, setting, arm, rate),
        seeds=left,
        workers=options.workers,
        output_dir=folder,
        use_cpu=True,
        eval_strategy="no",  # a study evaluates the last update step
    )
    crashed = sum(run.status == "crashed" for run in result.runs)
    if crashed:
        raise InputError(
            f"{folder}: {crashed} runs crashed; read error.txt in the folders of runs/, then repeat the command"
        )


def choose(options: argparse.Namespace) -> None:
    """Part `choose`: run `devlin2019` at each rate of the grid, and write the rate with the highest mean score."""
    chosen = read_chosen()
    for name in options.settings:
        if SETTINGS[name].best is not None:
            continue
        for rate in GRID:
            run_arm("choose", name, PLAIN, rate, CHOICE_SEEDS, options)
        found = choice(read_study(options.output_dir, "choose", name))
        begun = any((run.part, run.setting) == ("confirm", name) for run in read_csv())
        if begun and chosen.get(name) != found:
            raise InputError(f"{name}: part confirm has begun with another rate; chosen.json stays as it is")
        chosen[name] = found
        print(f"{name}: {rate_text(found)}")
    write_json(HERE / "chosen.json", chosen)


def choice(runs: Iterable[Run]) -> float:
    """The rate with the highest mean score; of equals the lower one. A run without a score counts as -1."""
    by_rate: dict[float, list[float]] = {}
    for run in runs:
        by_rate.setdefault(run.rate, []).append(run.score)
    return best_rate({rate: float(np.mean(np.nan_to_num(own, nan=-1.0))) for rate, own in by_rate.items()})


def confirm(options: argparse.Namespace) -> None:
    """Part `confirm`: run all arms. The plain runs come first: they tell which seeds raise an alarm."""
    chosen = read_chosen()
    for name in options.settings:
        if SETTINGS[name].best is None and name not in chosen:
            raise InputError(f"--settings {name}: {HERE / 'chosen.json'} has no rate for it; run choose")
    for name in options.settings:
        for arm in SETTINGS[name].arms:
            plain = [run for run in read_study(options.output_dir, "confirm", name) if run.arm == PLAIN]
            run_arm("confirm", name, arm, rate_of(name, arm, chosen), seeds_of(arm, plain), options)


def read_study(output_dir: Path, part: str, name: str) -> list[Run]:
    """The finished runs of a part in a setting."""
    folder = output_dir / part / name
    return [read_one(folder, part, name, record) for record in read_runs(folder)]


def read_one(folder: Path, part: str, name: str, record: RunRecord) -> Run:
    """A run from its folder."""
    own = folder / "runs" / record.name
    job = json.loads((own / "config.json").read_text(encoding="utf-8"))["job"]
    seconds = json.loads((own / "times.json").read_text(encoding="utf-8"))["wall"]
    half = 1 if part == "confirm" else 0
    accuracy, score = record.accuracy, record.last
    if half:
        accuracy, score = record.metrics.get(f"eval_{HALVES[1]}_accuracy"), record.report
    examples, baseline = scored_half(folder / "data" / Path(job["data_folder"]).name, half)
    failed = record.status == "diverged" or accuracy is None or at_or_below(accuracy, baseline, examples)
    attempts = attempts_of(record)
    first = attempts[0] if attempts else None
    alarm = record.alarm_step if first is None else (first.alarm or {}).get("step")
    return Run(
        part=part,
        setting=name,
        arm=record.recipe.rpartition("_at_")[0],
        rate=float(job["args"]["learning_rate"]),
        seed=record.seed,
        status=record.status,
        failed=bool(failed),
        selects=np.nan if record.last is None else record.last,
        score=np.nan if score is None else score,
        attempts=max(len(attempts), 1),
        alarm_step=-1 if alarm is None else alarm,
        steps=record.steps,
        steps_spent=record.steps if record.steps_spent is None else record.steps_spent,
        planned=record.planned_steps if first is None else first.total_steps,
        copied=False,
        seconds=round(seconds, 1),
    )


@cache
def scored_half(folder: Path, half: int) -> tuple[int, float]:
    """Number of examples of a half of the development set, and its majority-class baseline."""
    sets = TokenizedData.load(folder).validation
    labels = np.array(sets.get(HALVES[half], next(iter(sets.values())))["label"])
    return len(labels), float(majority_accuracy(labels))


# ---- the committed files --------------------------------------------------------------------------------------------


def read_chosen() -> dict[str, float]:
    """chosen.json: setting -> the rate at which `devlin2019` scores best. Empty without the file."""
    path = HERE / "chosen.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def with_copies(runs: Sequence[Run]) -> list[Run]:
    """These runs, and for each arm with restarts the plain runs without an alarm that it did not run."""
    made = list(runs)
    for name, setting in SETTINGS.items():
        own = [run for run in runs if (run.part, run.setting) == ("confirm", name)]
        plain = [run for run in own if run.arm == PLAIN]
        for arm in (arm for arm in setting.arms if arm in RESTARTS):
            there, wanted = {run.seed for run in own if run.arm == arm}, seeds_of(arm, plain)
            if not wanted or set(wanted) - there:
                continue  # the arm is not complete, or the plain runs are not
            made += [replace(run, arm=arm, copied=True, seconds=0.0) for run in plain if run.seed not in there]
    return made


def known_runs() -> list[Run]:
    """The runs of `mosbach2021` on the bundled BERT that the study of all recipes has: its own best rate, the second half."""
    found = []
    with open(RECIPES_STUDY, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            task = row["part"].removeprefix("confirm ")
            if row["recipe"] == LONG and row["part"].startswith("confirm "):
                name = {"demo_pair": "bert_pair", "demo_cola": "bert_cola"}[task]
                status = "failed" if row["failed"] == "1" else "ok"
                scores = float(row["select"]), float(row["report"])
                numbers = *scores, 1, -1, 1, 1, 1, False, float(row["seconds"])
                rate, seed = float(row["learning_rate"]), int(row["seed"])
                found.append(Run("confirm", name, LONG, rate, seed, status, status == "failed", *numbers))
    return found


def key(run: Run) -> tuple:
    """A run's identity."""
    return run.part, run.setting, run.arm, run.rate, run.seed


def runs_csv(runs: Iterable[Run]) -> str:
    """The runs as CSV, sorted."""
    rows = []
    for run in sorted(
        runs, key=lambda run: (run.part, list(SETTINGS).index(run.setting), run.arm, run.rate, run.seed)
    ):
        row = asdict(run) | {"failed": int(run.failed), "copied": int(run.copied), "rate": rate_text(run.rate)}
        row |= {name: f"{row[name]:.6g}" for name in ("selects", "score")}
        rows.append(row)
    return records_csv(Run, rows)


def read_csv() -> list[Run]:
    """The runs in runs.csv; none without the file."""
    return read_records(HERE / "runs.csv", Run)


def collect(options: argparse.Namespace) -> None:
    """Part `collect`: write all finished runs to runs.csv. Runs that are there and not in OUTPUT_DIR stay."""
    found = {key(run): run for run in read_csv() if not run.copied}
    for part in ("choose", "confirm"):
        for name in SETTINGS:
            found |= {key(run): run for run in read_study(options.output_dir, part, name)}
    runs = with_copies(list(found.values()))
    write_text(HERE / "runs.csv", runs_csv(runs))
    print(f"{HERE / 'runs.csv'}: {len(runs)} runs, {sum(run.copied for run in runs)} of them copies of plain runs")


# ---- the plan -------------------------------------------------------------------------------------------------------


def plan_text(names: Sequence[str]) -> str:
    """Runs and core hours of each part: expected, and at most (all runs of the restart arms make three whole attempts)."""
    rows, total = [], np.zeros(2)
    for name in names:
        setting = SETTINGS[name]
        units = {"choose": np.zeros(2), "confirm": np.zeros(2)}
        if setting.best is None:
            units["choose"] += len(GRID) * len(CHOICE_SEEDS)
        for arm in setting.arms:
            if arm in RESTARTS:
                again = setting.alarmed * len(SEEDS) * 1.6 + CHECKED
                units["confirm"] += (again, len(SEEDS) * (MAX_RESTARTS + 1))
            else:
                units["confirm"] += len(LONG_SEEDS) * COST if arm == LONG else len(SEEDS)
        for part, own in units.items():
            if own.any():
                hours = own * setting.seconds / 3600
                total += hours
                rows.append([name, part, *(f"{value:.0f}" for value in own), *(f"{value:.2f}" for value in hours)])
    rows.append(["all", "", "", "", *(f"{value:.1f}" for value in total)])
    header = ["setting", "part", "runs of 3 epochs", "at most", "core hours", "at most"]
    return markdown_table(header, rows)


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["plan", "choose", "confirm", "collect", "report"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="in this order")
    parser.add_argument("--workers", type=int, help="runs at a time; default: one per core. 0: in this process")
    parser.add_argument("--output_dir", type=Path, default=Path("results/self_healing"), help="folder of the studies")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parsed(argv)
    if options.part == "plan":
        print(plan_text(options.settings))
        return 0
    if options.part == "report":
        from benchmarks import self_healing_report

        self_healing_report.write(read_csv(), read_chosen())
        return 0
    parts = {"choose": choose, "confirm": confirm, "collect": collect}
    return exit_code(lambda: parts[options.part](options))


if __name__ == "__main__":
    raise SystemExit(main())
