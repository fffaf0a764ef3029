"""Is memory flat over 200 runs? Tiny runs, once in one process and once in workers, with a sample of each process after every run.

    python benchmarks/memory.py                                     10 minutes on two idle cores; writes benchmarks/memory/
    python benchmarks/memory.py --runs 20 --output_dir quick        a quick look
    python benchmarks/memory.py --report_only                       the page and the plot again, from samples.csv

Each way is measured in a new process. A run is 4 update steps of the bundled demo model on 32 examples, with two evaluations, the
TensorBoard file and the picture that every run makes. The sample is taken when the executor tells that a run has finished, after a
garbage collection: resident memory (RSS), memory that no other process shares (USS), open file descriptors and threads.

Flat means: over the runs from the 20th on, RSS grows by less than 0.05 MB per run, with 95% confidence, and descriptors and threads
do not grow. Then 1000 runs add less than 50 MB to a process of 800 MB. The first 19 runs are left out: caches fill.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a clone, installed or not
HERE = Path(__file__).with_suffix("")
WAYS = ("in one process", "in workers")
WORKERS = 2
FIRST = 20  # the first run that counts
FLAT = 0.05  # MB per run, for the upper end of the 95% interval of the slope
FIELDS = ("rss_mb", "uss_mb", "descriptors", "threads")


# --- measure ---------------------------------------------------------------------------------------------------------


def sample(process: Any) -> dict[str, float]:
    """Memory in MB (10^6 bytes), descriptors (on Windows: handles) and threads of a psutil process."""
    memory = process.memory_full_info()
    descriptors = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
    return {
        "rss_mb": round(memory.rss / 1e6, 3),
        "uss_mb": round(memory.uss / 1e6, 3),
        "descriptors": descriptors,
        "threads": process.num_threads(),
    }


def tiny_jobs(folder: Path, runs: int) -> tuple[list, list[Path]]:
    """Jobs of 4 update steps on the bundled demo model, and their folders; the data is in the study's folder."""
    from hf_stability import plan_study
    from hf_stability.study.folder import run_folder

    plan = plan_study(
        task_name="demo_pair",
        recipes="devlin2019",
        seeds=runs,
        max_steps=4,
        max_train_samples=32,
        max_eval_samples=16,
        use_cpu=True,
        workers=0,
        output_dir=folder,
    )
    plan.tokens.save(plan.jobs[0].data_folder)
    return plan.jobs, [run_folder(folder, job) for job in plan.jobs]


class Sampler:
    """Listens to an executor, and writes a row per process after each run."""

    def __init__(self, way: str, path: Path) -> None:
        self.way, self.path, self.run = way, path, 0
        self.started = time.monotonic()

    def __call__(self, event: Any) -> None:
        import psutil

        from hf_stability.study.executors.workers import start_method

        if event.kind in ("progress", "looked"):
            return
        if event.kind != "finished":
            raise SystemExit(f"{event.job.name}: {event.kind}: {event.error}")
        self.run += 1
        gc.collect()
        samples = {"parent" if self.way == WAYS[1] else "process": sample(psutil.Process())}
        if self.way == WAYS[1]:
            if start_method() == "forkserver":
                from multiprocessing.forkserver import _forkserver

                samples["fork server"] = sample(psutil.Process(_forkserver._forkserver_pid))  # type: ignore[attr-defined]
            alive = []
            for child in multiprocessing.active_children():
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    alive.append(sample(psutil.Process(child.pid)))
            samples |= {"worker": max(alive, key=lambda values: values["rss_mb"])} if alive else {}
        with open(self.path, "a", encoding="utf-8") as file:
            for process, values in samples.items():
                file.write(",".join(map(str, (self.way, process, self.run, *values.values()))) + "\n")
        if self.run % 10 == 0:
            print(f"{self.way}: {self.run} runs, {time.monotonic() - self.started:.0f} s", flush=True)


def measure(way: str, runs: int, path: Path) -> None:
    """Make the runs one way, in this process, and append the samples to a file."""
    from hf_stability.study.execution import Execution

    with tempfile.TemporaryDirectory() as folder:
        jobs, folders = tiny_jobs(Path(folder), runs)
        Execution(workers=WORKERS if way == WAYS[1] else 0).execute(jobs, folders, Sampler(way, path))


# --- judge -----------------------------------------------------------------------------------------------------------


def slope(runs: Any, values: Any) -> tuple[float, float, float]:
    """Least squares: the growth per run, and its 95% interval by Student's t.

    The interval takes the deviations from the line as independent. Memory grows in steps, so the true interval is wider.

    Args:
        runs, values: `(n,)`, n at least 3.

    Returns:
        (slope, low, high), in the values' unit per run.
    """
    import numpy as np
    from scipy import stats

    x, y = np.asarray(runs, dtype=float) - np.mean(runs), np.asarray(values, dtype=float)
    fitted = (x @ y) / (x @ x)
    left = y - y.mean() - fitted * x
    half = stats.t.ppf(0.975, len(x) - 2) * np.sqrt(left @ left / (len(x) - 2) / (x @ x))
    return float(fitted), float(fitted - half), float(fitted + half)


def judge(samples: Any, first: int = FIRST) -> list[dict[str, Any]]:
    """A row per way and process: growth of each quantity from run `first` on, and whether it is flat.

    Args:
        samples: a frame with the columns of `samples.csv`.
        first: the first run that counts.
    """
    rows = []
    for (way, process), part in samples.groupby(["way", "process"], sort=False):
        part = part[part["run"] >= first]
        row: dict[str, Any] = {"way": way, "process": process, "runs": len(part)}
        for field in FIELDS:
            row[field] = slope(part["run"], part[field])
        row["first_mb"], row["last_mb"] = (float(part["rss_mb"].iloc[i]) for i in (0, -1))
        quarter = max(1, len(part) // 4)
        ends = {name: (part[name].iloc[:quarter].max(), part[name].iloc[-quarter:].max()) for name in FIELDS[2:]}
        row["flat"] = bool(row["rss_mb"][2] < FLAT and all(last <= before for before, last in ends.values()))
        rows.append(row)
    return rows


def page(rows: list[dict[str, Any]], about: dict[str, Any], runs: int) -> str:
    """The results as Markdown."""
    from hf_stability.utils.text import markdown_table

    head = [
        "way",
        "process",
        "runs that count",
        "RSS at first and last, MB",
        "RSS, MB per run",
        "USS, MB per run",
        "flat",
    ]
    cells = [
        [
            row["way"],
            row["process"],
            str(row["runs"]),
            f"{row['first_mb']:.0f}, {row['last_mb']:.0f}",
            interval_text(row["rss_mb"]),
            interval_text(row["uss_mb"]),
            "yes" if row["flat"] else "no",
        ]
        for row in rows
    ]
    machine = ", ".join(f"{name} {value}" for name, value in about.items())
    return f"""# Memory over many runs

- `python benchmarks/memory.py --runs {runs}` made this page. The protocol and the criterion are in the script's first lines.
- Growth is the slope of a regression line over the runs from the {FIRST}th on, with its 95% interval. A process is flat if the upper
  end for RSS is below {FLAT} MB per run, and file descriptors and threads do not grow.
- A worker lives for one run. Its row is the largest worker at the end of a run. It tells whether later workers are larger.
- {machine}

{markdown_table(head, cells)}

![memory after each run](memory.png)
"""


def interval_text(values: tuple[float, float, float]) -> str:
    """`0.012 (0.010 to 0.014)`."""
    return "{:.4f} ({:.4f} to {:.4f})".format(*values)


def draw(samples: Any) -> Any:
    """RSS and USS after each run, a panel per process."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(samples.groupby(["way", "process"], sort=False))
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, ((way, process), part) in zip(figure.subplots(2, 2).flat, groups, strict=False):
        ax.plot(part["run"], part["rss_mb"], label="RSS")
        ax.plot(part["run"], part["uss_mb"], label="USS")
        ax.set_ylim(0, part["rss_mb"].max() * 1.15)
        ax.set_title(f"{way}: {process}" if process != "process" else way)
        ax.set_xlabel("run")
        ax.set_ylabel("MB")
        ax.legend(loc="lower right")
    return figure


# --- command ---------------------------------------------------------------------------------------------------------


def main() -> int:
    """See the module's docstring. Ends with 1 if memory is not flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help=f"runs each way, at least {FIRST + 10} (default: 200)")
    parser.add_argument("--output_dir", type=Path, default=HERE, help="default: benchmarks/memory")
    parser.add_argument("--report_only", action="store_true", help="measure nothing; read samples.csv")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # one way, in the process started for it
    options = parser.parse_args()
    path = options.output_dir / "samples.csv"
    if options.way:
        measure(options.way, options.runs, path)
        return 0
    if options.runs < FIRST + 10:
        parser.error(f"--runs {options.runs}: give {FIRST + 10} or more")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if not options.report_only:
        path.write_text(",".join(("way", "process", "run", *FIELDS)) + "\n", encoding="utf-8")
        for way in WAYS:
            flags = ["--way", way, "--runs", str(options.runs), "--output_dir", str(options.output_dir)]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
            subprocess.run([sys.executable, __file__, *flags], check=True, env=env)
    report(path)
    return 0 if all(row["flat"] for row in json.loads((path.parent / "results.json").read_text())["processes"]) else 1


def report(path: Path) -> None:
    """Write `results.json`, `results.md` and `memory.png` beside the samples."""
    import pandas
    import transformers

    from benchmarks.timing import machine

    samples = pandas.read_csv(path)
    rows, runs = judge(samples), int(samples["run"].max())
    about = {key: value for key, value in machine().items() if key != "threads"}
    about["transformers"] = transformers.__version__
    content = {"machine": about, "runs": runs, "first": FIRST, "flat_mb_per_run": FLAT, "processes": rows}
    (path.parent / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = page(rows, about, runs)
    (path.parent / "results.md").write_text(text, encoding="utf-8")
    draw(samples).savefig(path.parent / "memory.png", dpi=100, facecolor="white", metadata={"Software": None})
    print(text)


if __name__ == "__main__":
    sys.exit(main())
