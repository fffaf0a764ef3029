"""Run Hugging Face's own Trainer tests three times: with the stock Trainer, StableTrainer and StabilityCallback.

`python benchmarks/hf_trainer_tests.py PATH` runs `tests/trainer` of the transformers checkout in PATH:

- `stock`: as they are.
- `stable_trainer`: `transformers.Trainer` is StableTrainer, and `Seq2SeqTrainer` has StabilityMixin. The training arguments stay
  the stock ones.
- `callback`: the stock Trainer, with StabilityCallback added to the callbacks of each trainer.

Then it lists the tests with another outcome than with the stock Trainer. The exit code is 1 if a test differs and DIFFERENCES does
not list it with a reason. Tests that fail in the same way for all three, for example without a network, do not count.

The tests use the installed transformers. A checkout of the same version fits best (`git clone --branch v5.24.0`). Names that the
installed version lacks become placeholders. The tests need `pip install parameterized`, and some need datasets or optuna.
`tests/trainer/distributed` is left out: those tests start their own processes, where the replacement has no effect.

The callback writes to a temporary folder, because many tests count the files in `output_dir`. Results are kept per test in
`--output`, so the same command continues after an interrupt. With changed code, tests or flags it starts again.

    pip install -e ".[dev]" parameterized
    git clone --depth 1 https://github.com/huggingface/transformers
    python benchmarks/hf_trainer_tests.py transformers
    python benchmarks/hf_trainer_tests.py transformers -k "not compile"   # without torch.compile's tests, minutes each on a CPU
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import fnmatch
import functools
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytest


ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("stock", "stable_trainer", "callback")
CAUGHT = "is off for the rest of this training"  # in the callback's warning of an error of its own

# (variants, id of the test as a pattern of fnmatch, reason): tests that are right to have another outcome.
BOTH = ("stable_trainer", "callback")
LIST = "the test wants the exact list of callbacks, and ours are in it"
DIFFERENCES: list[tuple[tuple[str, ...], str, str]] = [
    (BOTH, "*::TrainerCallbackTest::test_default_callbacks_are_present", LIST),
    (BOTH, "*::TrainerCallbackTest::test_custom_callback_added_at_init", LIST),
    (BOTH, "*::TrainerCallbackTest::test_printer_callback_when_tqdm_disabled", LIST),
]


# ---- in a process of its own: one test file with one variant -----------------------------------------------------------


def replace_trainer(variant: str) -> None:
    """Replace `transformers.Trainer` for a variant. Call this before a test module imports it."""
    import transformers.trainer
    import transformers.trainer_seq2seq  # the first import of these makes the module `transformers` again

    if variant == "stock":
        return
    from hf_stability.callback import StabilityCallback
    from hf_stability.trainer import StabilityMixin, StableTrainer

    stock_init = transformers.trainer.Trainer.__init__
    signature = inspect.signature(stock_init)

    @functools.wraps(stock_init)
    def init(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs)
        metrics = given.arguments.get("compute_metrics") if variant == "callback" else None
        added = StabilityCallback(compute_metrics=metrics, output_dir=tempfile.mkdtemp(prefix="stability_"))
        given.arguments["callbacks"] = [*(given.arguments.get("callbacks") or ()), added]
        stock_init(*given.args, **given.kwargs)

    transformers.trainer.Trainer.__init__ = init
    if variant == "stable_trainer":

        class StableSeq2SeqTrainer(StabilityMixin, transformers.trainer_seq2seq.Seq2SeqTrainer):
            pass

        transformers.Trainer = transformers.trainer.Trainer = StableTrainer
        transformers.Seq2SeqTrainer = transformers.trainer_seq2seq.Seq2SeqTrainer = StableSeq2SeqTrainer


def add_placeholders(test_files: list[Path]) -> None:
    """Add placeholders for names that test modules import and transformers lacks: classes that raise when they are made."""
    import transformers

    nodes = [node for file in test_files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    for name in [alias.name for node in imports if node.module == "transformers" for alias in node.names]:
        if not hasattr(transformers, name):

            def refuse(self, *args, name=name, **kwargs):
                raise ImportError(f"transformers {transformers.__version__} has no {name}")

            setattr(transformers, name, type(name, (), {"__init__": refuse}))


class Results:
    """A pytest plugin that appends the outcome of each test to a file of JSON lines, and skips tests that have one there.

    Args:
        path: path of the file.
        timeout: seconds per test; after about twice as many the process ends.
    """

    def __init__(self, path: Path, timeout: float):
        self.path, self.timeout = path, timeout
        self.known = {test for test, result in read_results(path).items() if result["outcome"] != "started"}
        self.result: dict[str, Any] = {}
        self.caught: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: self.caught.append(record.getMessage())
        logging.getLogger("hf_stability").addHandler(handler)

    def pytest_collectreport(self, report):
        if report.failed:
            lines = [line for line in str(report.longrepr).splitlines() if line.startswith("E ")]
            append_result(
                self.path, report.nodeid, "failed", " ".join(lines[-1].split()[1:]) if lines else "collection failed"
            )

    def pytest_collection_modifyitems(self, config, items):
        done = [item for item in items if item.nodeid in self.known]
        items[:] = [item for item in items if item.nodeid not in self.known]
        config.hook.pytest_deselected(items=done)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        append_result(self.path, item.nodeid, "started")
        self.result = {"outcome": "passed", "error": ""}
        self.caught.clear()
        faulthandler.dump_traceback_later(2 * self.timeout + 60, exit=True)
        result = yield
        faulthandler.cancel_dump_traceback_later()
        caught = [message for message in self.caught if CAUGHT in message]
        append_result(self.path, item.nodeid, **self.result, caught=caught)
        return result

    def pytest_runtest_logreport(self, report):
        if report.outcome == "passed" or self.result["outcome"] == "failed":
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr)
        where = f" ({Path(crash.path).name}:{crash.lineno})" if crash else ""
        first = next((line for line in text.splitlines() if line.strip()), "")
        self.result = {"outcome": report.outcome, "error": first[:300] + where if report.failed else ""}


def run_here(variant: str, test_files: list[Path], results: Path, timeout: float, select: str) -> int:
    """Run the test files with a variant in this process."""
    sys.path[0] = str(
        ROOT
    )  # runs from a clone, installed or not; pytest puts the checkout, with its tests/, before it
    with tempfile.TemporaryDirectory(prefix="hf_trainer_tests_") as folder:
        tempfile.tempdir = folder  # so that the files of trainers are deleted with it
        replace_trainer(variant)
        add_placeholders(test_files)
        arguments = [*map(str, test_files), "-p", "no:cacheprovider", "-rN", *(["-k", select] if select else [])]
        arguments += ["--timeout", str(timeout), "-o", "timeout_func_only=true"]
        return pytest.main(arguments, plugins=[Results(results, timeout)])


# ---- the three runs --------------------------------------------------------------------------------------------------


def read_results(path: Path) -> dict[str, dict[str, str]]:
    """Id of a test -> its last line in a results file; the outcome is `started` if the test did not end."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:  # torn by an interrupt
            continue
        found[result["test"]] = result
    return found


def run(variant: str, checkout: Path, folder: Path, timeout: float, select: str) -> dict[str, dict[str, str]]:
    """Results of the tests with a variant, by test. Tests with a result in the folder are not run again.

    A test that ends its process has the outcome `crashed`. The next process continues after it.
    """
    results, done = folder / "results.jsonl", folder / "done"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), str(checkout), "--child", variant]
    command += ["--timeout", str(timeout), "--output", str(results), *(["-k", select] if select else [])]
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    progress = Progress(variant, results)
    while not done.exists():
        with (folder / "pytest.log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=checkout)
            try:
                while process.poll() is None:
                    sleep(0.2)
                    progress.show()
            finally:
                process.kill()
        crashed = [test for test, result in read_results(results).items() if result["outcome"] == "started"]
        if not crashed:
            if process.returncode not in (0, 1, 2, 5):  # pytest's: passed, failed, errors of collection, no tests
                raise SystemExit(
                    f"{variant}: pytest ended with code {process.returncode}; see {folder / 'pytest.log'}"
                )
            done.touch()
        for test in crashed:
            append_result(results, test, "crashed", f"exit code {process.returncode}")
    progress.show(last=True)
    return read_results(results)


class Progress:
    """Print a line per finished test file."""

    def __init__(self, variant: str, results: Path):
        self.variant, self.results = variant, results
        self.start, self.shown, self.size = perf_counter(), set(), 0

    def show(self, last: bool = False) -> None:
        size = self.results.stat().st_size if self.results.is_file() else 0
        if size == self.size and not last:
            return
        self.size = size
        files: dict[str, Counter] = {}
        for test, result in read_results(self.results).items():
            files.setdefault(test.partition("::")[0], Counter())[result["outcome"]] += 1
        for name in list(files)[: None if last else -1]:
            if name not in self.shown:
                counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(files[name].items()))
                print(f"{perf_counter() - self.start:6.0f} s  {self.variant:15} {name:46} {counts}", flush=True)
                self.shown.add(name)


def append_result(path: Path, test: str, outcome: str, error: str = "", caught: Sequence[str] = ()) -> None:
    """Add a line to a results file.

    Args:
        path: path of the file.
        test: id of the test.
        outcome: passed, failed, skipped, crashed, or started.
        error: first line of the error, and its place.
        caught: warnings of errors that the callback caught in this test.
    """
    with path.open("a", encoding="utf-8") as file:
        line = {"test": test, "outcome": outcome, "error": error, "caught": list(caught)}
        file.write(json.dumps(line) + "\n")


def fingerprint(variant: str, test_files: list[Path], *settings: Any) -> str:
    """A hash of everything that the results depend on."""
    versions = [importlib.metadata.version(name) for name in ("transformers", "torch", "accelerate")]
    content = hashlib.sha256(json.dumps([versions, *map(str, settings)]).encode())
    ours = sorted((ROOT / "hf_stability").rglob("*.py")) if variant != "stock" else []
    for path in [*sorted(test_files[0].parent.glob("*.py")), *ours]:
        content.update(path.read_bytes())
    for part in (replace_trainer, add_placeholders, Results):
        content.update(inspect.getsource(part).encode())
    return content.hexdigest()[:8]


def reason_for(variant: str, test: str) -> str | None:
    """The listed reason why a test may differ; None if it is not listed."""
    return next(
        (why for names, pattern, why in DIFFERENCES if variant in names and fnmatch.fnmatch(test, pattern)), None
    )


def report(results: dict[str, dict[str, dict[str, str]]]) -> int:
    """Print the counts and the tests that differ; returns the number of differences that are not listed.

    Args:
        results: variant -> id of a test -> its outcome and error.
    """
    outcomes = ("passed", "failed", "skipped", "crashed")
    print("\n| run | " + " | ".join(outcomes) + " |\n|---|" + "---:|" * len(outcomes))
    for variant, found in results.items():
        counts = Counter(result["outcome"] for result in found.values())
        print(f"| {variant} | " + " | ".join(str(counts[outcome]) for outcome in outcomes) + " |")
    stock = results["stock"]
    for test, result in stock.items():
        if "::" not in test:
            print(f"\n{test} was not run: {result['error']}")
    none, unlisted = {"outcome": "not there", "error": ""}, 0
    for variant in VARIANTS[1:]:
        pairs = {
            test: (stock.get(test, none), results[variant].get(test, none)) for test in {**stock, **results[variant]}
        }
        different = {test: pair for test, pair in pairs.items() if pair[0]["outcome"] != pair[1]["outcome"]}
        reasons = {test: reason_for(variant, test) for test in different}
        unlisted += sum(reason is None for reason in reasons.values())
        print(f"\n{variant}: {len(different)} of {len(pairs)} tests differ from the stock Trainer's outcome")
        for test, (before, after) in different.items():
            print(f"  {test}: {before['outcome']} -> {after['outcome']}")
            print(f"      {after['error'] or before['error']}")
            print(f"      listed: {reasons[test]}" if reasons[test] else "      NOT LISTED")
        caught = {message: test for test, result in results[variant].items() for message in result.get("caught", ())}
        for message, test in caught.items():
            print(f"  caught by the callback in {test}: {message}")
    print(
        f"\n{unlisted} differences are not listed. Mend them, or list them in DIFFERENCES with a reason."
        if unlisted
        else "\nEvery difference is listed with its reason."
    )
    return unlisted


def main(arguments: list[str] | None = None) -> int:
    """Run the missing tests and report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of a transformers checkout")
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="run only matching tests, as with pytest -k")
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="time limit per test (default: 300)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("hf_trainer_tests"), metavar="FOLDER",
        help="folder for the results per test and the logs of pytest (default: hf_trainer_tests)",
    )  # fmt: skip
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    checkout = args.path.resolve()
    test_files = sorted((checkout / "tests" / "trainer").glob("test_*.py"))
    if args.child:
        return run_here(args.child, test_files, args.output, args.timeout, args.k)
    if not test_files:
        print(f"{args.path}: no tests/trainer/test_*.py; give the folder of a transformers checkout.", file=sys.stderr)
        return 2
    if args.timeout <= 0:
        print(f"--timeout {args.timeout:g}: must be more than 0 seconds.", file=sys.stderr)
        return 2
    results = {}
    for variant in VARIANTS:
        folder = args.output.resolve() / f"{variant}-{fingerprint(variant, test_files, args.k, args.timeout)}"
        results[variant] = run(variant, checkout, folder, args.timeout, args.k)
    if not any(result["outcome"] == "passed" for result in results["stock"].values()):
        errors = [result["error"] for result in results["stock"].values() if result["error"]]
        print(f"No test passed with the stock Trainer. {errors[0] if errors else '-k matches none.'}", file=sys.stderr)
        return 2
    return int(report(results) > 0)


if __name__ == "__main__":
    sys.exit(main())
