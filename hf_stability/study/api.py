"""A study from Python: everything that the command `hf-stability` does, with its flags as keywords.

    from hf_stability import run_study

    result = run_study(task_name="demo_pair", recipes=["devlin2019", "mosbach2021"], seeds=5, output_dir="out", max_steps=20)
    print(result.frame)  # pandas, a row per run
    result.summary       # summary.json as a dict

[`plan_study`] settles everything first and writes nothing. Its [`StudyPlan`] says what would be run (`describe`), and runs
it (`run`). A study can be interrupted: the same call continues it, and more seeds or recipes add to it.

With worker processes (`workers` above 0, the default) a script needs the usual `if __name__ == "__main__":` of multiprocessing.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..methods import Method, load_method, method_name
from ..recipe import Stage, load_recipes
from ..tasks.demo.data import demo_model_path
from ..tasks.load import (
    TokenizedData,
    data_fingerprint,
    half_of_validation,
    is_glue,
    load_task_data,
    subsample,
    tokenize,
)
from ..tasks.overview import doubts
from ..tasks.presets import task_preset
from ..tasks.task import TaskData
from . import prepare, pretrained
from .describe import describe_study
from .folder import check_folder
from .given import check_choice, check_whole, check_workers, names_of, path_of, policy_of, seeds_of, training_arguments
from .job import KEEP_MODEL, Job, check_jobs
from .policies.policy import Policy
from .records import RunRecord
from .run import quiet as quiet_libraries
from .stages import StagePlan, plan_stages
from .study import is_main_process, run_jobs


if TYPE_CHECKING:
    import pandas


logger = logging.getLogger(__name__)

Arms = Callable[[list[Job], TaskData, Any], list[Job]]
"""`arms(jobs, data, config)`: the jobs to run instead of those planned; the data as text, the pretrained model's config."""

TELL_TRUNCATED = 0.05  # share of truncated training examples from which on the user is told


def run_study(*, quiet: bool = False, say: Callable[[str], None] | None = None, **settings: Any) -> StudyResult:
    """Plan a study and run it: [`plan_study`] and [`StudyPlan.run`].

    Args:
        quiet: no progress bar, no lines, no warnings of the data.
        say: takes a line per finished run. Default: prints it above the progress bar.
        settings: the keywords of [`plan_study`].

    Raises:
        InputError: something given is wrong; nothing was written.
        StageFailed: a recipe's stage crashed, or its verdict is not ok.
    """
    plan = plan_study(**settings)
    if not quiet:
        for sentence in plan.doubts:
            logger.warning(sentence)
    return plan.run(quiet=quiet, say=say)


@dataclass(frozen=True)
class StudyPlan:
    """A study in which everything is settled and nothing is written; made by [`plan_study`].

    Args:
        folder: the study's folder.
        jobs: the runs, recipe by recipe, one or more.
        data, tokens: what is trained on, as text and as tokens.
        stages: the intermediate trainings that recipes with `stages` start from.
        policy: what the study does with seeds: two-way seeds, restarts with early stopping, or each one to its end.
        workers: runs at a time, each in a process of its own; 0: in this process.
        doubts: what looks wrong with the data, a sentence each.
    """

    folder: Path
    jobs: list[Job]
    data: TaskData
    tokens: TokenizedData
    stages: StagePlan
    policy: Policy = field(default_factory=Policy)
    workers: int = 0
    doubts: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """What would be run, and where each value comes from: the text of `--dry_run`."""
        return describe_study(self.jobs, self.data, self.stages)

    def run(
        self, workers: int | None = None, quiet: bool = False, say: Callable[[str], None] | None = None
    ) -> StudyResult:
        """Run what is missing in the folder, and write the tables and the figures.

        Args:
            workers: instead of the plan's.
            quiet, say: see [`run_study`].

        Raises:
            StageFailed: see [`run_study`].
            KeyboardInterrupt: Ctrl-C. Finished runs are kept, and are in the tables.
        """
        distributed = self.jobs[0].processes > 1
        workers = self.workers if workers is None or distributed else check_workers(workers)
        main = is_main_process(self.jobs)
        if main:
            self.tokens.save(self.jobs[0].data_folder)
            self.stages.save_data()
        with quiet_libraries(ours=False):
            runs = run_jobs(self.jobs, self.folder, workers, quiet, say, self.stages.jobs)
        pictures: list[Path] = []
        problem = conclusion = ""
        if main:
            pictures, problem = draw_study(self.folder)
            conclusion = self.policy.conclusion(self.folder, list(dict.fromkeys(run.recipe for run in runs)))
        if distributed:
            from accelerate import PartialState

            PartialState().wait_for_everyone()  # the main process has written the tables
        summary = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return StudyResult(self.folder, runs, summary, pictures, problem, conclusion)


@dataclass(frozen=True)
class StudyResult:
    """What came of a study.

    Args:
        folder: the study's folder.
        runs: the records of the plan's runs, in its order; crashed ones have the status `crashed`. Empty in all but the main
            one of several processes that train each run together.
        summary: `summary.json` as a dict; of all runs in the folder.
        pictures: the PNG files that were drawn.
        picture_error: why there are none, in a line.
        conclusion: the policy's last words: with `two_way` the text of `two_way.md`. Empty for a plain study.
    """

    folder: Path
    runs: list[RunRecord]
    summary: dict[str, Any]
    pictures: list[Path] = field(default_factory=list)
    picture_error: str = ""
    conclusion: str = ""

    @property
    def frame(self) -> pandas.DataFrame:
        """The runs of the summary as a pandas frame, a row per run: the fields of [`RunRecord`], then `init`, `order` and
        `dropout` of two-way seeds, then the last evaluation's metrics (`eval_accuracy` ...)."""
        import pandas

        rows = [dict(run) for run in self.summary["runs"]]
        for row in rows:
            row.pop("schema")
            metrics, cell = row.pop("metrics"), row.pop("cell")
            row.update({**(cell or {}), **metrics})
        return pandas.DataFrame(rows)


@quiet_libraries(ours=False)
def plan_study(
    *,
    task_name: str | None = None,
    data_dir: str | os.PathLike | None = None,
    train_file: str | os.PathLike | None = None,
    validation_file: str | os.PathLike | None = None,
    text_column_names: list[str] | None = None,
    label_column_name: str | None = None,
    max_seq_length: int = 128,
    pad_to_max_length: bool = False,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    validation_half: str | None = None,
    model_name_or_path: str | os.PathLike | None = None,
    tokenizer_name: str | os.PathLike | None = None,
    recipes: str | Sequence[str] = "mosbach2021",
    seeds: int | str | Sequence[int | str] | None = None,
    two_way: Sequence[int] | None = None,
    restarts: int | None = None,
    look_at: float | None = None,
    finish: int | None = None,
    workers: int | None = None,
    threads_per_run: int = 1,
    dtype: str = "float32",
    keep_model: str = "none",
    output_dir: str | os.PathLike | None = None,
    methods: str | type[Method] | Sequence[str | type[Method]] = (),
    arms: Arms | None = None,
    **training: Any,
) -> StudyPlan:
    """Settle a study: look at the model, data and recipes, and check every setting. Nothing is written.

    Args:
        task_name: a GLUE task, or the bundled `demo_pair`, `demo_cola`, `demo_nli`.
        data_dir: GLUE in its official layout (`RTE/train.tsv` ...), for stages too. Default: the hub's copy.
        train_file, validation_file: your own data (`.csv`, `.tsv`, `.json`, `.jsonl`), instead of a task.
        text_column_names, label_column_name: the files' one or two columns of text, and their column of labels.
        max_seq_length: tokens; longer examples are truncated.
        pad_to_max_length: pad all examples to this length, not each batch to its longest.
        max_train_samples, max_eval_samples: only the first examples of the training and the development sets.
        validation_half: `"first"`, `"second"` or `"both"` halves of each development set.
        model_name_or_path: a folder made by `save_pretrained`, or a name on the hub. Default for a demo task: the bundled one.
        tokenizer_name: the tokenizer, where it is not the model's.
        recipes: one or more: packaged names, `.yaml` files, parts composed (`"a+b"`), grids.
        seeds: a count (5: seeds 1 to 5), a list (`[3, 7, 9]`), or words of the command line (`"1000-1019"`). Default: 5;
            with `restarts` as many as these.
        two_way: `[I, J]` or `[I, J, R]`, instead of seeds: I initialisations x J data orders x R runs with other dropout.
        restarts, look_at, finish: start so many seeds per recipe, look at them after this fraction of training, finish so many.
        workers: runs at a time, each in a process of its own. Default: one per GPU, else one per core. 0: in this process.
        threads_per_run: CPU threads of a run; changes results in the last digits.
        dtype: what weights are loaded and trained in: `"float32"`, `"bfloat16"`, `"float16"`, `"auto"` (as saved).
        keep_model: which models to keep in the runs' folders: `"none"`, `"last"`, `"failed_and_best"`.
        output_dir: the study's folder. Default: `results/TASK`.
        methods: your own methods, for all recipes: classes, or names (`"my_module:Mine"`, `"file.py:Mine"`). Their arguments are
            training arguments like ours. A recipe file can name methods of its own, too.
        arms: makes the jobs to run of those planned (see [`Arms`]); `hf-stability rescue` is such a function.
        training: training arguments, Hugging Face's and ours; they go over the recipe's.

    Raises:
        InputError: anything is wrong with any of these. The message names the command's flag, the value and the way out.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # worker processes start after it was used
    check_whole(max_seq_length=max_seq_length, max_train_samples=max_train_samples, max_eval_samples=max_eval_samples)
    check_whole(restarts=restarts, finish=finish, workers=workers, threads_per_run=threads_per_run)
    if two_way is not None and seeds is not None:
        raise InputError(f"--two_way {' '.join(map(str, two_way))}: makes its own seeds; leave out --seeds")
    policy = policy_of(two_way, restarts, look_at, finish)
    seeds = seeds_of(seeds, policy)
    loaded = [recipe for name in names_of(recipes, "recipes") for recipe in load_recipes(name)]
    method_names = [method_name(method) for method in names_of(methods, "methods")]
    named = [*method_names, *(name for recipe in loaded for name in recipe.methods)]
    own = tuple(dict.fromkeys(map(load_method, named)))
    training = training_arguments(training, own, inspect.signature(plan_study).parameters)
    prepare.check_given(training)
    if threads_per_run is None or threads_per_run < 1:
        raise InputError(f"--threads_per_run {threads_per_run}: give 1 or more")
    if workers is not None:
        check_workers(workers)
    check_choice("dtype", dtype, (*pretrained.DTYPES, "auto"))
    check_choice("keep_model", keep_model, KEEP_MODEL)
    data_dir, train_file, validation_file = map(path_of, (data_dir, train_file, validation_file))
    columns = text_column_names, label_column_name
    data = load_task_data(task_name, data_dir, train_file, validation_file, *columns)
    data = half_of_validation(data, validation_half)
    data = subsample(data, max_train_samples, max_eval_samples)
    if not data.task.is_regression and len(set(data.train["label"])) < 2:
        raise InputError(
            f"--max_train_samples {max_train_samples}: all these examples are of one class; give a larger number"
        )
    said = doubts(data)
    preset = task_preset(data.task.name)
    folder = Path(path_of(output_dir) or f"results/{data.task.name}")
    model = path_of(model_name_or_path) or (str(demo_model_path()) if data.task.name.startswith("demo_") else None)
    if model is None:
        raise InputError(
            "--model_name_or_path is missing: give a folder made by save_pretrained, or a model's name on the hub"
        )
    config = pretrained.load_config(model)
    settings = [
        prepare.resolved_settings(recipe, config.model_type, preset, training, method_names) for recipe in loaded
    ]
    dtype = pretrained.weights_dtype(dtype, model, config, [own.mixed_precision for own in settings])
    tokenizer_name = path_of(tokenizer_name) or model
    tokenizer = pretrained.load_tokenizer(tokenizer_name)

    def tokens_of(texts: TaskData, whose: str = "") -> TokenizedData:
        tokens = tokenize(texts, tokenizer, max_seq_length, pad_to_max_length)
        if tokens.truncated_share > TELL_TRUNCATED:
            share = f"{tokens.truncated_share:.0%} of the training examples{whose}"
            said.append(f"{share} are longer than --max_seq_length {max_seq_length}")
        return tokens

    @cache
    def stage_data(*where: str | None) -> tuple[TaskData, TokenizedData]:
        texts = load_task_data(*where)
        return texts, tokens_of(texts, f" of stage {where[2] or where[0]}")

    def load_stage(stage: Stage) -> tuple[TaskData, TokenizedData]:
        own_dir = stage.data_dir or (data_dir if is_glue(stage.task_name) else None)
        return stage_data(stage.task_name, own_dir, stage.train_file, stage.validation_file)

    tokens = tokens_of(data)
    shared: dict[str, Any] = {"tokenizer": tokenizer_name, "threads": threads_per_run, "dtype": dtype}
    stages = plan_stages(loaded, model, config, load_stage, folder, training, method_names, **shared)
    data_folder = folder / "data" / data_fingerprint(data)[:16]
    jobs = prepare.make_jobs(settings, seeds, model, config, tokens, data_folder, keep_model=keep_model, **shared)
    jobs = policy.jobs(stages.attach(jobs))
    if arms is not None:
        jobs = arms(jobs, data, config)
    if not jobs:
        raise InputError("no run is planned: give at least one recipe and one seed")
    check_jobs(jobs)
    policy.check_runs(jobs, check_folder(jobs, folder, stages.jobs))
    if workers is None or jobs[0].processes > 1:
        workers = _default_workers(jobs[0])
    return StudyPlan(folder, jobs, data, tokens, stages, policy, workers, said)


def draw_study(folder: Path) -> tuple[list[Path], str]:
    """Draw a study's figures, and put them and its table into TensorBoard.

    Returns:
        the PNG files; why there are none, in a line: the runs and the table are there, and a picture must not hide them.
    """
    try:
        from .report.figures import draw_figures
        from .report.tensorboard import write_study_events

        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        recipes = [figures["recipe"] for figures in summary["recipes"] if figures["runs"]]  # in the table's order
        pictures = [path for path in draw_figures(folder, recipes) if path.suffix == ".png"] if recipes else []
        write_study_events(folder / "runs", pictures, (folder / "summary.md").read_text("utf-8"))
    except Exception as error:
        return [], f"{type(error).__name__}: {' '.join(str(error).split())}"
    return pictures, ""


def _default_workers(job: Job) -> int:
    """As many as there are GPUs, else cores."""
    if job.processes > 1:
        return 0  # the processes of a distributed run train every run together
    if job.device == "cuda":
        import torch

        return torch.cuda.device_count()
    if job.device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // job.threads)
