"""Studies from Python: everything that the command `hf-stability` does, with its flags as keywords.

`plan_study` checks everything first and writes nothing. Its `StudyPlan` tells what would be run (`describe`), and runs
it (`run`). The same call continues a study that was interrupted. More seeds or recipes add to it.

With worker processes (`workers` above 0, the default) a script needs the usual `if __name__ == "__main__":` of multiprocessing.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from .capacity import plan_workers
from .describe import describe_study
from .execution import EXECUTORS, IN_PROCESS, PARALLEL, Execution
from .executors.claim import drop_claims
from .executors.joining import join, joined
from .executors.ranks import Ranks
from .executors.ray_connection import check_room, check_tasks, look_at_cluster
from .folder import check_folder, run_folder
from .given import (
    check_choice,
    check_main_guard,
    check_retries,
    check_whole,
    check_workers,
    names_of,
    path_of,
    policy_of,
    seeds_of,
    training_arguments,
)
from .job import KEEP_MODEL, Job, check_jobs
from .owner import hold_folder
from .policies.policy import Policy
from .records import RunRecord
from .report.pictures import draw_study
from .run import quiet as quiet_libraries
from .stages import StagePlan, plan_stages
from .stop import signals_noted, signals_wait
from .study import StageFailed, is_main_process, run_jobs


if TYPE_CHECKING:
    import pandas


logger = logging.getLogger(__name__)

Arms = Callable[[list[Job], TaskData, Any], list[Job]]
"""`arms(jobs, data, config)` returns the jobs to run instead of the planned ones. `data` is text, `config` the model's."""

TELL_TRUNCATED = 0.05  # a larger share of truncated training examples is reported


def run_study(*, quiet: bool = False, say: Callable[[str], None] | None = None, **settings: Any) -> StudyResult:
    """Plan a study and run it: `plan_study(**settings).run()`.

    The same call again runs only what is missing. More `seeds` or `recipes` add to the study.

    Args:
        quiet: print nothing: no live table, no lines, no warnings about the data.
        say: a function that takes each line, one per finished run and the table at the end. Default: print them. On a
            terminal the live table stays below them.
        **settings: the keywords of `plan_study`.

    Returns:
        The runs, the summary and the figures.

    Raises:
        InputError: a setting is wrong, or another command runs in the folder. No run was made.
        StageFailed: a recipe's stage crashed, or its verdict is not ok.
        FolderLost: another command took the folder with `steal_lock`, or the folder was moved or deleted.
        KeyboardInterrupt: Ctrl-C. Finished runs are kept, and the tables have them.

    Example:
        ```python
        from hf_stability import run_study

        if __name__ == "__main__":  # runs are worker processes
            result = run_study(task_name="demo_pair", recipes="mosbach2021", seeds=2, output_dir="out", max_steps=20)
            print(result.frame[["recipe", "seed", "status", "last"]])
        ```
    """
    plan = plan_study(**settings)
    if not quiet:
        for sentence in plan.doubts:
            logger.warning(sentence)
    return plan.run(quiet=quiet, say=say)


@dataclass(frozen=True)
class StudyPlan:
    """A study that is checked and not yet run. `plan_study` makes it, and has written nothing.

    Attributes:
        folder: the study's folder.
        jobs: the runs, recipe by recipe; at least one.
        data: the training and development sets as text.
        tokens: the same sets as tokens.
        stages: the intermediate trainings that recipes with `stages` start from.
        policy: which seeds the study runs, and how far: each to its end, two-way seeds, restarts with early stopping, or only
            until the comparison is decided.
        execution: where the runs are executed, and how many at a time.
        doubts: sentences about what looks wrong with the data, and about memory and GPUs.
        refusal: why `run()` is refused: a run does not fit into memory; else empty. `run(workers=...)` tries it anyway.
        notes: lines about the recipes, for `describe()`.
    """

    folder: Path
    jobs: list[Job]
    data: TaskData
    tokens: TokenizedData
    stages: StagePlan
    policy: Policy = field(default_factory=Policy)
    execution: Execution = IN_PROCESS
    doubts: list[str] = field(default_factory=list)
    refusal: str = ""
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The text of `--dry_run`: the runs, and each setting with its source."""
        notes = [*self.policy.describe(self.jobs), *self.notes]
        return describe_study(self.jobs, self.data, self.stages, self.refusal, notes)

    def run(
        self, workers: int | None = None, quiet: bool = False, say: Callable[[str], None] | None = None
    ) -> StudyResult:
        """Run what is missing in the folder. Then write the tables and the figures.

        Args:
            workers: number of runs at a time, instead of the plan's.
            quiet: print nothing.
            say: a function that takes each line. Default: print it.

        Returns:
            The runs, the summary and the figures.

        Raises:
            InputError: another command runs in the folder, or a run does not fit into memory. Nothing was written.
            StageFailed: a recipe's stage crashed, or its verdict is not ok.
            FolderLost: another command took the folder with `steal_lock`, or the folder was moved or deleted.
            KeyboardInterrupt: Ctrl-C. Finished runs are kept, and the tables have them.
        """
        if workers is None and self.refusal:
            raise InputError(self.refusal)
        execution = self.execution
        if workers is not None and self.jobs[0].processes == 1:
            check_tasks(execution.executor, workers)
            execution = replace(execution, workers=check_workers(workers))
        ranks = joined()
        with contextlib.ExitStack() as held:
            held.enter_context(signals_noted())
            if ranks is not None and not ranks.is_main:
                return self._serve(ranks)
            told = {} if ranks is None else held.enter_context(ranks.leading([*self.stages.jobs, *self.jobs]))
            held.enter_context(hold_folder(self.folder, execution.steal_lock, self.jobs[0].processes))
            result = self._run(execution, quiet, say)
            told["summary"] = result.summary
            return result

    def _serve(self, ranks: Ranks) -> StudyResult:
        """`--parallel seeds`: run jobs of the main process until it ends the study."""
        jobs = [*self.stages.jobs, *self.jobs]
        with signals_wait():
            ended = ranks.serve(jobs, [run_folder(self.folder, job) for job in jobs])
        if ended["end"] == StageFailed.__name__:
            raise StageFailed(ended["message"])
        if ended["end"] != "done":  # the main process tells why
            raise SystemExit(1)
        return StudyResult(self.folder, [], ended["summary"])

    def _run(self, execution: Execution, quiet: bool, say: Callable[[str], None] | None) -> StudyResult:
        main = is_main_process(self.jobs)
        if main:
            self.tokens.save(self.jobs[0].data_folder)
            self.stages.save_data()
            drop_claims(self.folder)
        with quiet_libraries(ours=False), execution.session([run_folder(self.folder, job) for job in self.jobs]):
            runs = run_jobs(self.jobs, self.folder, execution, quiet, say, self.stages.jobs, self.policy)
        pictures: list[Path] = []
        problem = conclusion = ""
        if main:
            pictures, problem = draw_study(self.folder)
            conclusion = self.policy.conclusion(self.folder, list(dict.fromkeys(run.recipe for run in runs)))
        if self.jobs[0].processes > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()  # the main process has written the tables
        summary = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return StudyResult(self.folder, runs, summary, pictures, problem, conclusion)


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        folder: the study's folder.
        runs: the records of the planned runs, in the plan's order. A crashed run has the status `crashed`. Runs that `until`
            left out have none. Under a launcher with several processes, only the main process has them.
        summary: `summary.json` as a dict. It covers all runs in the folder.
        pictures: the PNG files of the figures.
        picture_error: why no figures were drawn, in one line; empty if they were.
        conclusion: with `two_way`, each source's share of the variance as a table; with `until`, the decision; else empty.
    """

    folder: Path
    runs: list[RunRecord]
    summary: dict[str, Any]
    pictures: list[Path] = field(default_factory=list)
    picture_error: str = ""
    conclusion: str = ""

    @property
    def frame(self) -> pandas.DataFrame:
        """All runs of the summary as a pandas frame, a row per run.

        The columns are the fields of `RunRecord` (`recipe`, `seed`, `status`, `last`, `best`, `sentence` ...) and the metrics of
        the last evaluation (`eval_accuracy` ...). With two-way seeds there are also `init`, `order` and `dropout`.
        """
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
    dataset_name: str | os.PathLike | None = None,
    dataset_config_name: str | None = None,
    train_split_name: str | None = None,
    validation_split_name: str | None = None,
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
    until: str | None = None,
    until_looks: Sequence[int] | None = None,
    workers: int | None = None,
    threads_per_run: int = 1,
    executor: str = "local",
    ray_address: str | None = None,
    runs_per_gpu: int = 1,
    parallel: str = "data",
    retry_crashed: int = 0,
    steal_lock: bool = False,
    dtype: str = "float32",
    keep_model: str = "none",
    output_dir: str | os.PathLike | None = None,
    methods: str | type[Method] | Sequence[str | type[Method]] = (),
    arms: Arms | None = None,
    **training: Any,
) -> StudyPlan:
    """Check a study's model, data, recipes and settings. Nothing is written.

    The keywords are the command's flags.

    Args:
        task_name: a GLUE task, or one of the bundled tasks `demo_pair`, `demo_cola`, `demo_nli`.
        data_dir: a folder with GLUE in its official layout (`RTE/train.tsv` ...); recipes' stages use it too. Default: the
            copy on the hub.
        train_file: your own training data (`.csv`, `.tsv`, `.json`, `.jsonl`, `.parquet`), instead of a task.
        validation_file: your own development data, as `train_file`.
        text_column_names: the one or two columns of text in your data. Default: `sentence`, or `sentence1` and
            `sentence2`, or else the first one or two columns of text.
        label_column_name: the column of labels in your data. Default: `label`.
        dataset_name: data that `datasets` reads, instead of a task or files: a name on the hub, or a local folder.
        dataset_config_name: its configuration, if it has several.
        train_split_name: its split to train on. Default: `train`.
        validation_split_name: its split to evaluate on. Default: `validation`.
        max_seq_length: longest example, in tokens; longer ones are truncated.
        pad_to_max_length: pad all examples to `max_seq_length`, instead of each batch to its longest example.
        max_train_samples: use only the first examples of the training set, this many.
        max_eval_samples: use only the first examples of each development set, this many.
        validation_half: evaluate on the `"first"` or `"second"` half of each development set, or on `"both"` halves.
        model_name_or_path: a folder made by `save_pretrained`, or a model's name on the hub. Default for a bundled task: the
            bundled model.
        tokenizer_name: the tokenizer, if it is not the model's.
        recipes: one or more recipes: packaged names, `.yaml` files, compositions (`"a+b"`), grids.
        seeds: a count (5 means seeds 1 to 5), a list (`[3, 7, 9]`), or words of the command line (`"1000-1019"`). Default: 5;
            with `restarts`, that number.
        two_way: `[I, J]` or `[I, J, R]`, instead of `seeds`: I initialisations x J data orders x R runs with other dropout.
        restarts: number of seeds to start per recipe. Give `look_at` and `finish` too.
        look_at: fraction of the update steps after which these runs are compared, between 0 and 1.
        finish: number of runs per recipe that go on after the look.
        until: stop the study when each pair of recipes is decided by `"failed_share"` or by `"score"`; see `docs/until.md`.
        until_looks: numbers of seeds per recipe after which this is tested. Default: quarters of the seeds, none below 4.
        workers: number of runs at a time, each in a process of its own. Default: `runs_per_gpu` on each GPU, else one per core;
            fewer if they do not fit into memory; on a Ray cluster, as many as it has room for. 0 runs them one after the other
            in this process.
        threads_per_run: CPU threads per run. Another number changes results in their last digits.
        executor: `"local"`: this machine. `"ray"`: a Ray cluster.
        ray_address: the cluster's address (`"auto"`, `"ray://HOST:10001"`). Default: start Ray on this machine.
        runs_per_gpu: number of runs that share a GPU; fewer if they do not fit into its memory.
        parallel: under a launcher with several processes, `"data"` trains each run with all of them. `"seeds"` gives each
            process its own runs.
        retry_crashed: how often a crashed run is run again in the same call.
        steal_lock: take the folder from another command that holds it.
        dtype: precision in which weights are loaded and trained: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` (as
            they were saved).
        keep_model: which models to keep in the runs' folders: `"none"`, `"last"`, `"failed_and_best"`.
        output_dir: the study's folder. Default: `results/TASK`.
        methods: your own methods for all recipes: classes, or names (`"my_module:Mine"`, `"file.py:Mine"`). Their arguments
            become training arguments. A recipe file can also name methods.
        arms: a function that replaces the planned jobs, see `Arms`. `hf-stability rescue` uses it.
        **training: training arguments, Hugging Face's and ours. They override the recipe's.

    Returns:
        The plan. `plan.describe()` is the text of `--dry_run`; `plan.run()` runs it.

    Raises:
        InputError: a value is wrong. The message names the command's flag, the value and the way out.
    """
    check_main_guard()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizer is used before worker processes start
    check_whole(max_seq_length=max_seq_length, max_train_samples=max_train_samples, max_eval_samples=max_eval_samples)
    check_whole(restarts=restarts, finish=finish, workers=workers, threads_per_run=threads_per_run)
    check_whole(runs_per_gpu=runs_per_gpu, retry_crashed=retry_crashed)
    check_retries(retry_crashed)
    if two_way is not None and seeds is not None:
        raise InputError(f"--two_way {' '.join(map(str, two_way))}: makes its own seeds; leave out --seeds")
    policy = policy_of(two_way, restarts, look_at, finish, until, until_looks)
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
    check_choice("executor", executor, EXECUTORS)
    check_choice("parallel", parallel, PARALLEL)
    join(parallel)
    nodes = look_at_cluster(executor, ray_address, workers)
    data_dir, dataset_name = path_of(data_dir), path_of(dataset_name)
    given = task_name, data_dir, path_of(train_file), path_of(validation_file), text_column_names, label_column_name
    data = load_task_data(*given, dataset_name, dataset_config_name, train_split_name, validation_split_name)
    data = half_of_validation(data, validation_half)
    data = subsample(data, max_train_samples, max_eval_samples)
    if data.task.is_one_class(data.train["label"]):
        raise InputError(f"--max_train_samples {max_train_samples}: all these examples are of one class; give more")
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
    if any(node.get("GPU") for node in nodes):
        shared["device"] = "cuda"  # the machine of this command may have none
    stages = plan_stages(loaded, model, config, load_stage, folder, training, method_names, **shared)
    data_folder = folder / "data" / data_fingerprint(data)[:16]
    jobs = prepare.make_jobs(settings, seeds, model, config, tokens, data_folder, keep_model=keep_model, **shared)
    jobs = policy.jobs(stages.attach(jobs))
    if arms is not None:
        jobs = arms(jobs, data, config)
    if not jobs:
        raise InputError("no run is planned: give at least one recipe and one seed")
    check_jobs(jobs)
    check_retries(retry_crashed, jobs[0].processes)
    policy.check_runs(jobs, finished := check_folder(jobs, folder, stages.jobs), folder)
    if nodes:
        check_room([*jobs, *stages.jobs], runs_per_gpu, nodes)
    room = plan_workers(jobs, {run.name for run in finished}, stages, config, tokens, workers, runs_per_gpu, executor)
    how = room.workers, executor, ray_address, runs_per_gpu, parallel, retry_crashed, steal_lock, room.gpus
    notes = prepare.common_values_notes(loaded, config.model_type)
    return StudyPlan(
        folder, jobs, data, tokens, stages, policy, Execution(*how), said + room.said, room.refusal, notes
    )
