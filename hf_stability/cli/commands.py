"""The command line: `hf-stability`, and `run_glue_stable.py`, its twin for `accelerate launch`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from ..recipe import Recipe, load_recipes, recipe_names
from ..training_args import METHOD_ARGS, StableTrainingArguments


PROG = "hf-stability"

EXAMPLES = """
examples:
  # the bundled demo, offline: three recipes on a small entailment task, a few minutes on two cores
  accelerate launch run_glue_stable.py

  # the paper's comparison on RTE: 25 seeds of each recipe, on one GPU or as many as there are
  accelerate launch run_glue_stable.py --model_name_or_path bert-large-uncased --task_name rte \\
      --recipe transformers_default devlin2019 mosbach2021 --seeds 25 --output_dir rte

  # the same recipe with and without more on top; the rates and epochs that a .yaml file of your own lists under `grid:`
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe mosbach2021 mosbach2021+mine.yaml
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe grid.yaml --dry_run

  # your own model and data; what would be run, and where each value comes from
  hf-stability --model_name_or_path ./my-roberta --train_file train.csv --validation_file dev.csv --dry_run

  # one run of yours failed: what went wrong, and which remedy holds over three seeds
  hf-stability diagnose --help
  hf-stability rescue --help

  # a finished study: what restarts and stopping bad seeds early would have been worth
  hf-stability restarts --help

  # restarts that save compute: start 20 seeds, look at them after a quarter of training, finish the best 5
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --validation_half both \\
      --restarts 20 --look_at 0.25 --finish 5

  # is it the initialisation or the data order? 5 of the one x 5 of the other, each pair twice with other dropout
  hf-stability --model_name_or_path bert-large-uncased --task_name rte --recipe devlin2019 --two_way 5 5 2
  hf-stability two_way --help

A study can be interrupted: the same command goes on with what is missing, and more --seeds add to it. Every argument of
Hugging Face's Trainer can be given too, and goes over the recipe's: --learning_rate 3e-5, --num_train_epochs 10, --bf16
(--help_all lists them). Watch a study with: tensorboard --logdir OUTPUT_DIR/runs
"""

# The Trainer's arguments that --help shows; --help_all shows all of them.
COMMON_ARGS = (
    "output_dir", "learning_rate", "num_train_epochs", "max_steps", "total_train_batch_size", "gradient_accumulation_steps",
    "warmup_steps", "weight_decay", "max_grad_norm", "bias_correction", "lr_bias_correction", "optim", "eval_strategy", "bf16", "fp16", "use_cpu",
    "on_alarm", "audit_alarms", "diagnostics", *METHOD_ARGS,
)  # fmt: skip


# What is run where neither data nor a model is named. Seeds: as many as two cores do in less than five minutes.
DEMO = {"task_name": "demo_pair", "recipe": ["transformers_default", "devlin2019", "mosbach2021"], "seeds": ["4"]}
OF_FILES = ("text_column_names", "label_column_name")
NAMES_DATA = ("task_name", "data_dir", "train_file", "validation_file", *OF_FILES, "model_name_or_path")

TELL_TRUNCATED = 0.05  # share of truncated training examples from which on it is said


@dataclass
class ModelArguments:
    """The pretrained model."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder made by save_pretrained, or a name on the hub. Default: the demo's."}
    )
    tokenizer_name: str | None = field(default=None, metadata={"help": "The tokenizer, where it is not the model's."})


@dataclass
class DataArguments:
    """The task."""

    task_name: str | None = field(
        default=None,
        metadata={
            "help": "cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli, or the bundled demo_pair, demo_cola, demo_nli."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "GLUE in its official layout (RTE/train.tsv ...), for stages too. Default: the hub's nyu-mll/glue."
        },
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Your own data (.csv, .tsv, .json, .jsonl): a column `label` (whole numbers from 0 on and words are classes, other "
            "numbers a regression), and `sentence`, or `sentence1` and `sentence2`, or else the first one or two of text."
        },
    )
    validation_file: str | None = field(default=None, metadata={"help": "Its development set, with the same columns."})
    text_column_names: list[str] | None = field(
        default=None, metadata={"help": "The files' column of text, or two for a pair, instead of those above."}
    )
    label_column_name: str | None = field(
        default=None, metadata={"help": "The files' column of labels. Default: label."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Tokens; longer examples are truncated."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad all to max_seq_length, not each batch to its longest (slower on a CPU)."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Only the first examples of the training set."}
    )
    validation_half: str | None = field(
        default=None,
        metadata={
            "help": "Only this half of each development set: choose settings on the first, report on the second. both: two "
            "development sets; the first counts (verdicts, tables, the best run), the second is evaluated beside it.",
            "choices": ["first", "second", "both"],
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Only the first examples of the development sets."}
    )


@dataclass
class StudyArguments:
    """The study: recipes, seeds, and how they are run."""

    recipe: list[str] = field(
        default_factory=lambda: ["mosbach2021"],
        metadata={
            "help": f"One or more, to compare: {', '.join(recipe_names())}; .yaml files; parts composed (a+b); a grid "
            "(all its recipes) or some of it (a,learning_rate=2e-05). Default: mosbach2021; without data and model the demo's three."
        },
    )
    seeds: list[str] = field(
        default_factory=lambda: ["5"],
        metadata={
            "help": "A count (25: seeds 1 to 25), seeds (3 7 9), or ranges (1000-1019). Default: 5; without data and model 4."
        },
    )
    workers: int | None = field(
        default=None,
        metadata={
            "help": "Runs at a time, each in a process of its own. Default: one a GPU, else one a core. 0: in this process."
        },
    )
    threads_per_run: int = field(
        default=1, metadata={"help": "CPU threads of a run; changes results in the last digits."}
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "What the weights are loaded and trained in; auto: as the checkpoint was saved. Half precision often fails: "
            "for mixed precision give --bf16 or --fp16 instead.",
            "choices": ["float32", "bfloat16", "float16", "auto"],
        },
    )
    keep_model: str = field(
        default="none",
        metadata={
            "help": "Which models to keep in the runs' folders.",
            "choices": ["none", "last", "failed_and_best"],
        },
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print what would be run and where each value comes from; write nothing."}
    )


@dataclass
class PolicyArguments:
    """What a study does with seeds, other than to run a recipe's one after the other."""

    two_way: list[int] | None = field(
        default=None,
        metadata={
            "help": "I J [R], instead of --seeds: I initialisations x J data orders x R runs with other dropout (default: 2), and "
            "how much of the scores' variance comes from each (two_way.md). More of each can be added later."
        },
    )
    restarts: int | None = field(
        default=None,
        metadata={
            "help": "Start so many seeds of each recipe, finish only the best of them; with --look_at and --finish. Which seeds: "
            "1 to this, or --seeds. See also: hf-stability restarts --help."
        },
    )
    look_at: float | None = field(
        default=None,
        metadata={
            "help": "With --restarts: the fraction of training after which the seeds are looked at, for example .25."
        },
    )
    finish: int | None = field(
        default=None,
        metadata={"help": "With --restarts: how many go on, those with the best score at the look."},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study.

    Returns:
        the exit code: 0; 1 where a run crashed; 2 for bad input (one line on standard error, nothing written);
        130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    in_main_thread = threading.current_thread() is threading.main_thread()  # no other may set this
    before = signal.signal(signal.SIGTERM, _interrupt) if in_main_thread else None  # a batch system's kill: as Ctrl-C
    try:
        return _main(argv)
    except InputError as error:
        if _is_first_process():
            print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"\n{PROG}: interrupted. Finished runs are kept; the same command goes on with what is missing.",
            file=sys.stderr,
        )
        return 130
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _is_first_process() -> bool:
    """Before the runs are planned, when nobody knows yet whether several processes belong together."""
    return os.environ.get("RANK", "0") == "0"


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def _main(argv: list[str]) -> int:
    commands = {"diagnose": _diagnose, "rescue": _rescue, "restarts": _restarts, "two_way": _two_way}
    command = commands.get(argv[0]) if argv else None
    return _study(argv) if command is None else command(argv[1:])


def _study(argv: list[str]) -> int:
    known = parser("--help_all" in argv, (StudyArguments, PolicyArguments))
    given = parse(known, argv)
    (policy,) = _taken(given, PolicyArguments)
    if policy.two_way is not None and "seeds" in given:
        raise InputError(f"--two_way {' '.join(map(str, policy.two_way))}: makes its own seeds; leave --seeds out")
    policy_flags = policy.restarts, policy.look_at, policy.finish
    if any(value is not None for value in policy_flags):
        _check_restarts(policy, given)
        given.setdefault("seeds", [str(policy.restarts)])
    if not set(NAMES_DATA) & set(given):
        given = {**DEMO, **given}
        if _is_first_process():
            print(f"No data and no model named: the bundled demo, {DEMO['task_name']}", file=sys.stderr)
    own = _taken(given, ModelArguments, DataArguments, StudyArguments)
    if policy.restarts is not None:
        from ..study.policies.early_stopping import policy_jobs

        return run_study(*own, given, lambda jobs, data: policy_jobs(jobs, policy.look_at, policy.finish))
    if policy.two_way is None:
        return run_study(*own, given)
    from ..study.policies import two_way as two_way_report

    sizes = two_way_report.check_sizes(policy.two_way)
    own[2].seeds = ["1"]
    return run_study(
        *own,
        given,
        lambda jobs, data: two_way_report.two_way_jobs(jobs, *sizes),
        lambda runs, folder: two_way_report.conclusion(folder, list(dict.fromkeys(run.recipe for run in runs))),
    )


def _check_restarts(policy: PolicyArguments, given: Mapping[str, Any]) -> None:
    from ..study.policies.early_stopping import check_policy
    from ..study.prepare import parse_seeds

    check_policy(policy.restarts, policy.look_at, policy.finish)
    if policy.two_way is not None:
        raise InputError(f"--restarts {policy.restarts} with --two_way: give one of them")
    seeds = parse_seeds(given.get("seeds", [str(policy.restarts)]))
    if len(seeds) != policy.restarts:
        raise InputError(
            f"--restarts {policy.restarts}: --seeds {' '.join(given['seeds'])} are {len(seeds)}; give as many, or no --seeds"
        )


def _taken(given: dict[str, Any], *classes: type) -> list[Any]:
    """What was given, taken out of it into these dataclasses."""
    return [cls(**{f.name: given.pop(f.name) for f in fields(cls) if f.name in given}) for cls in classes]


def _diagnose(argv: list[str]) -> int:
    """`hf-stability diagnose`: see diagnose.py."""
    from ..diagnose import report as diagnose
    from ..utils.files import write_json

    texts = {"usage": diagnose.USAGE, "description": diagnose.DESCRIPTION, "epilog": diagnose.EXAMPLES}
    hidden = {*diagnose.NOT_TAKEN, *OF_FILES, *COMMON_ARGS} - set(diagnose.TRAINING_FLAGS)
    helps = dict.fromkeys(hidden, argparse.SUPPRESS)
    known = parser("--help_all" in argv, (diagnose.DiagnoseArguments,), texts, helps)
    known.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    given = parse(known, argv)
    path = given.pop("path", None)
    if path is None:
        raise InputError(
            "diagnose: give the run's path first (a trainer_state.json, a steps.rec, or its folder); see --help"
        )
    for name in OF_FILES:
        if name in given:
            raise InputError(
                f"--{name}: not for diagnose, which finds columns by their usual names; rename those of the files"
            )
    for name in diagnose.NOT_TAKEN:
        if name in given:
            raise InputError(f"--{name} {given[name]}: not for diagnose, which looks at whole sets; leave it out")
    model, data, own = _taken(given, ModelArguments, DataArguments, diagnose.DiagnoseArguments)
    target = Path(own.json) if own.json else None
    if target is not None and (target.is_dir() or not target.absolute().parent.is_dir()):
        raise InputError(f"--json {target}: no file can be written there; give another")
    report = diagnose.diagnose(
        path,
        model_name_or_path=model.model_name_or_path,
        tokenizer_name=model.tokenizer_name,
        task_name=data.task_name,
        data_dir=data.data_dir,
        train_file=data.train_file,
        validation_file=data.validation_file,
        max_seq_length=data.max_seq_length,
        training=given,
        memorize=own.memorize,
        memorize_rate=own.memorize_rate,
        show=True,
    )
    print(report.to_text())
    if target is not None:
        write_json(target, report.to_dict())
    return 0


def _rescue(argv: list[str]) -> int:
    """`hf-stability rescue`: a study whose arms are remedies; see rescue.py."""
    from ..diagnose import rescue
    from ..study.prepare import load_config

    texts = {"usage": rescue.USAGE, "description": rescue.DESCRIPTION, "epilog": rescue.EXAMPLES}
    known = parser("--help_all" in argv, (StudyArguments, rescue.RescueArguments), texts, rescue.HELPS)
    given = {**rescue.DEFAULTS, **parse(known, argv)}
    own = _taken(given, ModelArguments, DataArguments, StudyArguments, rescue.RescueArguments)
    given.setdefault("output_dir", f"results/rescue_{own[1].task_name or 'custom'}")
    notes: list[str] = []

    def arms(jobs: list, data) -> list:
        config = load_config(own[0].model_name_or_path or _demo_model())  # a job's own may be a stage's, not there yet
        remedies, left_out = rescue.rescue_jobs(jobs, len(data.train), config, own[3].min_steps)
        notes.extend(left_out)
        if _is_first_process():
            print(*left_out, sep="\n", end="\n" * bool(left_out), file=sys.stderr)
        return remedies

    return run_study(*own[:3], given, arms, lambda runs, folder: rescue.conclusion(runs, notes))


def _restarts(argv: list[str]) -> int:
    """`hf-stability restarts`: see study/restarts_report.py."""
    from ..study.report import restarts_page as restarts_report

    known = _folder_parser("restarts", restarts_report)
    known.add_argument("--budget", type=float, help="Of the table of early stopping, in runs. Default: 10, or all.")
    given = parse(known, argv)
    folder = _study_folder("restarts", given)
    print(restarts_report.write_restarts(folder, given.get("recipe"), given.get("budget")))
    print(f"{folder}: restarts.md; restarts.png in figures/, and as .svg")
    return 0


def _two_way(argv: list[str]) -> int:
    """`hf-stability two_way`: see study/two_way_report.py."""
    from ..study.report import two_way_page as two_way_report

    given = parse(_folder_parser("two_way", two_way_report), argv)
    folder = _study_folder("two_way", given)
    print(two_way_report.write_two_way(folder, given.get("recipe")))
    print(f"{folder}: two_way.md")
    return 0


def _study_folder(command: str, given: Mapping[str, Any]) -> Path:
    if given.get("study_folder") is None:
        raise InputError(f"{command}: give the study's folder first; see --help")
    return Path(given["study_folder"])


def _folder_parser(command: str, module):
    """The parser of a command that reads a study's folder; `module` has its texts."""

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise InputError(message)

    built = Parser(
        prog=f"{PROG} {command}",
        usage=module.USAGE,
        description=module.DESCRIPTION,
        epilog=module.EXAMPLES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    built.add_argument("study_folder", nargs="?", help="The study's folder, its --output_dir.")
    built.add_argument("--recipe", nargs="+", help="Only these, in this order. Default: all of the study.")
    return built


# ---- the study ---------------------------------------------------------------------------------------------------------


def run_study(
    model_args: ModelArguments,
    data_args: DataArguments,
    study_args: StudyArguments,
    given: dict[str, Any],
    arms: Callable[[list, Any], list] | None = None,
    conclude: Callable[[Sequence, Path], str] | None = None,
) -> int:
    """Everything is looked at before anything is written; then the runs.

    Args:
        given: the training arguments given.
        arms: makes the jobs to run of those planned and the data.
        conclude: makes a last paragraph of the runs and the study's folder.

    Returns:
        the exit code.
    """
    from ..study.run import quiet
    from ..study.study import StageFailed, is_main_process, run_jobs
    from ..tasks.overview import columns_and_classes

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes are forked after it was used
    with quiet(ours=False):
        jobs, data, tokens, folder, stages = plan_study(model_args, data_args, study_args, given, arms)
        if study_args.dry_run:
            print(describe(jobs, data, stages))
            return 0
        is_main = is_main_process(jobs)
        if is_main:
            print(columns_and_classes(data), flush=True)
            tokens.save(jobs[0].data_folder)
            stages.save_data()
        workers = _workers(study_args, jobs[0].processes, jobs[0].device)
        try:
            runs, code = run_jobs(jobs, folder, workers, stages=stages.jobs), 0
        except StageFailed as error:
            runs, code = [], 1
            if is_main:
                print(f"{PROG}: {error}", file=sys.stderr)
    if is_main and code == 0:
        code = _end(runs, folder)
        if conclude is not None:
            print(f"\n{conclude(runs, folder)}")
    if jobs[0].processes > 1:  # a process that leaves early may take the others with it
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()
    return code


def _end(runs: Sequence, folder: Path) -> int:
    """Say what came of a study; the exit code."""
    crashed = [run.name for run in runs if run.status == "crashed"]
    if crashed:
        error = folder / "runs" / crashed[0] / "error.txt"
        see = f": see {error}" if error.is_file() else f", first {crashed[0]}"
        print(f"{PROG}: {len(crashed)} run(s) crashed{see}", file=sys.stderr)
    stopped = [run for run in runs if run.status == "stopped"]
    if stopped:
        saved = sum(run.planned_steps - run.steps for run in stopped)
        print(
            f"\n{len(stopped)} run(s) were stopped by an alarm: censored, not failed. {saved} update steps were saved."
        )
    early = [run for run in runs if run.ended_at_look]
    if early:
        gone = sum(run.status == "diverged" for run in early)
        but = f", but for {gone} that had diverged" if gone else ""
        print(f"\n{len(early)} run(s) were stopped early, others looked better: censored, not failed{but}.")
    waiting = sum(run.status == "waiting" for run in runs)
    if waiting:
        print(f"\n{waiting} run(s) wait at their look for the crashed: the same command goes on with all of them.")
    print(f"\n{folder}: the table in summary.md, .csv and .json; a folder for each run in runs/")
    show_study(folder)
    return 1 if crashed else 0


def show_study(folder: Path) -> None:
    """Draw a study's figures, put them and its table into TensorBoard, and say where they are."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    recipes = [figures["recipe"] for figures in summary["recipes"] if figures["runs"]]  # in the table's order
    try:
        from ..study.report.figures import draw_figures
        from ..study.report.tensorboard import write_study_events

        pictures = [path for path in draw_figures(folder, recipes) if path.suffix == ".png"] if recipes else []
        write_study_events(folder / "runs", pictures, (folder / "summary.md").read_text("utf-8"))
    except Exception as error:  # the runs and the table are there: a picture must not hide them
        print(f"{PROG}: no figures: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        pictures = []
    if pictures:
        print(f"{folder / 'figures'}: {', '.join(path.name for path in pictures)}, and as .svg")
    print(f"To watch: tensorboard --logdir {folder / 'runs'}")


def plan_study(
    model_args: ModelArguments,
    data_args: DataArguments,
    study_args: StudyArguments,
    given: dict[str, Any],
    arms: Callable[[list, Any], list] | None = None,
) -> tuple[list, Any, Any, Path, Any]:
    """The study's jobs, its data as text and as tokens, its folder, and its stages; nothing is written.

    Args:
        given: the training arguments given.
        arms: see [`run_study`].

    Raises:
        InputError: anything is wrong with any argument.
    """
    from ..study import prepare
    from ..study.folder import check_folder, read_runs
    from ..study.job import check_jobs
    from ..study.policies.two_way import check_growth
    from ..study.stages import plan_stages
    from ..tasks.load import data_fingerprint, half_of_validation, is_glue, load_task_data, subsample, tokenize
    from ..tasks.overview import doubts
    from ..tasks.presets import task_preset

    prepare.check_given(given)
    seeds = prepare.parse_seeds(study_args.seeds)
    recipes = [recipe for name in study_args.recipe for recipe in load_recipes(name)]
    if study_args.threads_per_run < 1:
        raise InputError(f"--threads_per_run {study_args.threads_per_run}: give 1 or more")
    if study_args.workers is not None and study_args.workers < 0:
        raise InputError(f"--workers {study_args.workers}: give 0 (in this process) or more")
    data = load_task_data(
        data_args.task_name,
        data_args.data_dir,
        data_args.train_file,
        data_args.validation_file,
        data_args.text_column_names,
        data_args.label_column_name,
    )
    data = half_of_validation(data, data_args.validation_half)
    data = subsample(data, data_args.max_train_samples, data_args.max_eval_samples)
    if not data.task.is_regression and len(set(data.train["label"])) < 2:
        raise InputError(
            f"--max_train_samples {data_args.max_train_samples}: these examples are all of one class; give more"
        )
    for sentence in doubts(data) if _is_first_process() else ():
        print(sentence, file=sys.stderr)
    preset = task_preset(data.task.name)
    given = dict(given)
    folder = Path(given.pop("output_dir", None) or f"results/{data.task.name}")
    model = model_args.model_name_or_path or (_demo_model() if data.task.name.startswith("demo_") else None)
    if model is None:
        raise InputError(
            "--model_name_or_path is missing: give a folder made by save_pretrained, or a name on the hub"
        )
    config = prepare.load_config(model)
    processes, device, precision = _processes_and_device(recipes, config.model_type, preset, given)
    dtype = prepare.weights_dtype(study_args.dtype, model, config, list(precision.values()))
    tokenizer_name = model_args.tokenizer_name or model
    tokenizer = prepare.load_tokenizer(tokenizer_name)

    def tokens_of(texts, whose: str = ""):
        tokens = tokenize(texts, tokenizer, data_args.max_seq_length, data_args.pad_to_max_length)
        if tokens.truncated_share > TELL_TRUNCATED:
            share = f"{tokens.truncated_share:.0%} of the training examples{whose}"
            print(f"{share} are longer than --max_seq_length {data_args.max_seq_length}", file=sys.stderr)
        return tokens

    tokens = tokens_of(data)

    @cache
    def stage_data(task_name, data_dir, train_file, validation_file):
        texts = load_task_data(task_name, data_dir, train_file, validation_file)
        return texts, tokens_of(texts, f" of stage {train_file or task_name}")

    def load_stage(stage):
        data_dir = stage.data_dir or (data_args.data_dir if is_glue(stage.task_name) else None)
        return stage_data(stage.task_name, data_dir, stage.train_file, stage.validation_file)

    stages = plan_stages(
        recipes,
        model,
        config,
        load_stage,
        folder,
        given,
        tokenizer=tokenizer_name,
        threads=study_args.threads_per_run,
        dtype=dtype,
    )
    jobs = prepare.make_jobs(
        recipes,
        seeds,
        model,
        config,
        tokens,
        folder / "data" / data_fingerprint(data)[:16],
        preset,
        given,
        tokenizer=tokenizer_name,
        keep_model=study_args.keep_model,
        threads=study_args.threads_per_run,
        processes=processes,
        device=device,
        precision=precision,
        dtype=dtype,
    )
    jobs = stages.attach(jobs)
    if arms is not None:
        jobs = arms(jobs, data)
    check_jobs(jobs)
    check_folder(jobs, folder, stages.jobs)
    if jobs[0].cell is not None:
        check_growth(jobs, read_runs(folder))
    return jobs, data, tokens, folder, stages


def _processes_and_device(
    recipes: Sequence[Recipe], model_type: str, preset: dict, given: dict
) -> tuple[int, str, dict[str, str]]:
    """Build each recipe's training arguments once, so that what they refuse is said now.

    Returns:
        number of processes, device, and by recipe the precision (which `accelerate launch` can set too).
    """
    from ..study.prepare import made_arguments, resolved_settings

    precision = {}
    for recipe in recipes:
        settings, _ = resolved_settings(recipe, model_type, preset, given)
        args = made_arguments(settings, f"--recipe {recipe.name}: ")
        precision[recipe.name] = args.mixed_precision
    return args.world_size, args.device.type, precision


def _workers(study_args: StudyArguments, processes: int, device: str) -> int:
    if processes > 1:
        return 0  # the processes of a distributed run train every run together
    if study_args.workers is not None:
        return study_args.workers
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // study_args.threads_per_run)


def _demo_model() -> str:
    from ..tasks.demo.data import demo_model_path

    return str(demo_model_path())


def describe(jobs: Sequence, data, stages) -> str:
    """What `--dry_run` prints: data, then for each stage, and each recipe with its runs, every value that is set, with
    its source."""
    from ..study.policies.early_stopping import policy_sentence
    from ..study.run import settings_table
    from ..study.stages import describe_stage
    from ..tasks.overview import columns_and_classes

    splits = ", ".join(f"{name} {len(rows)}" for name, rows in data.validation.items())
    lines = [
        f"task {data.task.name}: train {len(data.train)}, {splits} examples, from {data.source}; headline metric {data.task.headline}",
        columns_and_classes(data),
        f"model {stages.model}, weights in {jobs[0].dtype}; {jobs[0].device}, {jobs[0].processes} process(es), {jobs[0].threads} thread(s) a run",
    ]
    recipes = dict.fromkeys(job.recipe for job in jobs)
    lines += [f"{len(recipes)} recipe(s), {len(jobs)} run(s)"]
    for stage in stages.jobs:
        lines += ["", describe_stage(stage, stages), settings_table(stage), *layerwise_rates(stage, stages.model)]
    names = {stage.id: f"stages/{stage.name}" for stage in stages.jobs}
    for recipe in recipes:
        runs = [job for job in jobs if job.recipe == recipe]
        seeds = ", ".join(str(job.seed) if job.cell is None else job.name.split("/")[-1] for job in runs)
        lines += ["", f"{recipe}: {len(runs)} run(s), seeds {seeds}"]
        if runs[0].stages:
            lines[-1] += f"; after {', '.join(names[id] for id in runs[0].stages)}"
        lines += [policy_sentence(runs)] if runs[0].policy else []
        lines += [settings_table(runs[0])]
        lines += layerwise_rates(runs[0], stages.model)
        lines += [f"ids: {', '.join(job.id for job in runs)}"]
    lines += ["", "Every other argument keeps the Trainer's default. Nothing was written."]
    return "\n".join(lines)


def layerwise_rates(job, model: str) -> list[str]:
    """`learning rates: classifier 2e-05, pooler 2e-05, layer_11 1.9e-05, ..., embeddings 1.08e-05`, of a pretrained model:
    a line, or none where there is one rate for all."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from ..methods.layerwise_lr import layer_rates
    from ..study.prepare import load_config
    from ..utils.layers import layers_of

    args = StableTrainingArguments
    decay, rate = (job.args.get(name, getattr(args, name)) for name in ("layerwise_lr_decay", "learning_rate"))
    if decay == 1:
        return []
    with torch.device("meta"):
        built = AutoModelForSequenceClassification.from_config(load_config(model))
    rates = layer_rates(list(layers_of(built)), rate, decay)
    return ["learning rates: " + ", ".join(f"{name} {rates[name]:.3g}" for name in reversed(rates))]


# ---- parsing -----------------------------------------------------------------------------------------------------------


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows `--max_steps X` once, not beside `--max-steps X` too."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=34, width=119)

    def _format_action_invocation(self, action):
        if not action.option_strings or action.dest == "help":
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return action.option_strings[0] + values


def parser(
    all_help: bool = False,
    own: Sequence[type] = (StudyArguments,),
    texts: Mapping[str, str] | None = None,
    helps: Mapping[str, str] | None = None,
):
    """The parser of every flag: ours, and all of the Trainer's; `--help` shows ours and the common ones.

    Args:
        all_help: show all of the Trainer's too.
        own: the command's own dataclasses, beside model, data and training.
        texts: usage, description and epilog, instead of the study's.
        helps: help by flag, instead of the study's.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message):
            raise InputError(message)

    study_texts = {
        "description": "Fine-tune a BERT-like model over many seeds with one or more recipes: scores, a verdict\n"
        "on every run, and the gradients of every layer on record.",
        "epilog": EXAMPLES,
        "usage": f"{PROG} [--model_name_or_path M] [--task_name T | --train_file F --validation_file F]\n"
        "       [--recipe R ...] [--seeds N] [--output_dir D] [any argument of the Trainer]",
    }
    classes = (ModelArguments, DataArguments, *own)
    built = Parser(
        (*classes, StableTrainingArguments),
        prog=PROG,
        **(texts or study_texts),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    ours = {f.name for cls in classes for f in fields(cls)}
    for action in built._actions:
        action.help = (helps or {}).get(action.dest, action.help)
        if action.dest not in ("help", *ours, *COMMON_ARGS) and not all_help:
            action.help = argparse.SUPPRESS
        if action.nargs != 0 and (action.choices is None or len(action.choices) > 5):
            action.metavar = "X"
    built.add_argument("--help_all", action="help", help="show every argument of the Trainer too")
    return built


def parse(known, argv: list[str]) -> dict[str, Any]:
    """The flags that were given, by field name.

    Raises:
        InputError: an unknown flag (with the nearest one), a value of the wrong type, or a stray word.
    """
    for action in known._actions:
        action.default = argparse.SUPPRESS
    namespace, unknown = known.parse_known_args(argv)
    if unknown:
        flags = [option for action in known._actions for option in action.option_strings]
        name = unknown[0].split("=")[0]
        hint = nearest(name, flags) if name.startswith("-") else "; a flag begins with --"
        raise InputError(
            f"{name}: no such argument{hint}. --help shows what there is; recipes: {', '.join(recipe_names())}"
        )
    return vars(namespace)
