"""The jobs of a study: one `Job` per recipe and seed. A job's id is a hash of everything that changes its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError


JOB_SCHEMA = "hf_stability.job/1"

STAGE = "encoder"
"""`keep_model` of a job that is a stage: an intermediate training that keeps its encoder, see `stages.py`."""

KEEP_MODEL = ("none", "last", "failed_and_best")
"""`keep_model` of a run."""

# These do not change a result, so a job's id leaves them out. Everything else is in the id. That includes how often a run is
# evaluated (the evaluation loader draws from the global random state), threads (sums in another order), and processes.
# Versions of libraries can change last digits. They are in each run's config.json, but not in its id: a study may be
# finished after an upgrade.
IGNORED_FIELDS = ("model", "tokenizer", "data_folder", "keep_model", "sources", "until_look", "methods")
IGNORED_ARGS = (
    "output_dir", "run_name", "project", "disable_tqdm", "report_to", "log_level", "log_level_replica", "log_on_each_node",
    "logging_strategy", "logging_first_step", "logging_steps", "save_strategy", "save_steps", "save_total_limit",
    "save_only_model", "seed", "use_cpu", "diagnostics", "preflight",
)  # fmt: skip
ALARM_ARGS = ("on_alarm", "audit_alarms")
"""These change a result only where `on_alarm` is one of `ENDS_A_TRAINING`: `none`, `warn` and the default give the same run."""
RESTART_ARGS = ("max_restarts", "restart_with")
"""These change a result only with `on_alarm="restart"`."""
RESTART = "restart"
ENDS_A_TRAINING = ("stop", RESTART)
"""Values of `on_alarm` with which an alarm ends a training: the run, or an attempt of it."""
ADDED_FIELDS: dict[str, Any] = {
    "stages": [], "cell": None, "policy": None, "until_look": False, "dtype": "float32", "methods": [], "method_hashes": [],
}  # fmt: skip
"""Later fields. They are left out at these values, so that the jobs of earlier versions keep their ids."""
TUPLES = ("stages", "methods", "method_hashes")
"""Fields that JSON has as lists."""
STREAM_ARGS = ("init_seed", "data_seed", "dropout_seed")
"""Besides the cell, these differ between runs with two-way seeds."""


@dataclass(frozen=True)
class Job:
    """One run: everything a worker needs to know.

    Args:
        recipe: the recipe's name; for a stage, the name of its data.
        seed: the run's seed, from which its three random streams come.
        task: the task's name.
        args: training arguments that a recipe, the task or the command line sets, without `seed` and `output_dir`.
        model_config: values for the model's config (dropout ...).
        model_fingerprint: hash of the pretrained weights and config, before any stages.
        data_fingerprint: hash of the token ids and labels of all splits.
        threads: CPU threads of the run.
        processes: number of processes that train it together (`torchrun`, `accelerate launch`).
        device: "cpu" or "cuda".
        mixed_precision: "no", "bf16" or "fp16", from the arguments or `accelerate launch`.
        model, tokenizer: name or folder of the weights and of the tokenizer. After stages, the last one's encoder.
        data_folder: folder of the tokenised data.
        keep_model: "none", "last" or "failed_and_best"; `STAGE` for a stage.
        sources: where each value of `args` and `model_config` comes from, in words.
        stages: ids of the stages before it, in their order.
        cell: with two-way seeds, the numbers of initialisation, data order and replicate: `{"init": 2, "order": 1,
            "dropout": 1}`. `args` has their seeds. None for a plain seed.
        policy: with `--restarts`, the recipe's seeds, the fraction of update steps before the look, and the number of runs
            to finish: `{"seeds": [1, 2, 3], "look_at": 0.25, "finish": 1}`. None: every run is finished.
        until_look: train only until the look.
        dtype: precision in which weights are loaded and trained: "float32", "bfloat16" or "float16".
        methods: the user's own methods that are on, see `load_method`.
        method_hashes: the hash of each method's source.
    """

    recipe: str
    seed: int
    task: str
    args: dict[str, Any]
    model_config: dict[str, Any]
    model_fingerprint: str
    data_fingerprint: str
    threads: int = 1
    processes: int = 1
    device: str = "cpu"
    mixed_precision: str = "no"
    model: str = ""
    tokenizer: str = ""
    data_folder: str = ""
    keep_model: str = "none"
    sources: dict[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    cell: dict[str, int] | None = None
    policy: dict[str, Any] | None = None
    until_look: bool = False
    dtype: str = "float32"
    methods: tuple[str, ...] = ()
    method_hashes: tuple[str, ...] = ()
    schema: str = JOB_SCHEMA

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of a SHA-256 over everything that changes the result."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """Everything that changes the result, as JSON: the job without `IGNORED_FIELDS` and `IGNORED_ARGS`, and without
        `ALARM_ARGS` and `RESTART_ARGS` unless alarms stop or restart runs."""
        content = {key: value for key, value in self.to_dict().items() if key not in IGNORED_FIELDS}
        on_alarm = self.args.get("on_alarm")
        ignored: tuple[str, ...] = IGNORED_ARGS if on_alarm in ENDS_A_TRAINING else IGNORED_ARGS + ALARM_ARGS
        ignored += () if on_alarm == RESTART else RESTART_ARGS
        content["args"] = {key: value for key, value in self.args.items() if key not in ignored}
        return json.loads(json.dumps(content))

    def settings(self) -> dict[str, Any]:
        """The identity without seeds: all runs of a recipe have the same."""
        content = {**self.identity(), "seed": None}
        if self.cell is not None:
            content["cell"] = "two-way seeds"
            content["args"] = {key: value for key, value in content["args"].items() if key not in STREAM_ARGS}
        return content

    @property
    def name(self) -> str:
        """The run's folder below `runs/`, and its name in TensorBoard; see `run_name`. A stage is `mnli-ID`, below
        `stages/`."""
        return f"{self.recipe}-{self.id}" if self.is_stage else run_name(self.recipe, self.seed, self.cell)

    @property
    def is_stage(self) -> bool:
        """Whether this is an intermediate training before others."""
        return self.keep_model == STAGE

    def to_dict(self) -> dict[str, Any]:
        content = {**asdict(self), **{name: list(getattr(self, name)) for name in TUPLES}}
        return {key: value for key, value in content.items() if key not in ADDED_FIELDS or value != ADDED_FIELDS[key]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Job:
        """Raises InputError for another version's schema."""
        if content.get("schema") != JOB_SCHEMA:
            raise InputError(
                f"job schema {content.get('schema')!r}: this version of hf_stability reads only {JOB_SCHEMA}"
            )
        return cls(**{**content, **{name: tuple(content.get(name, ())) for name in TUPLES}})


def run_name(recipe: str, seed: int, cell: Mapping[str, int] | None = None) -> str:
    """`recipe/seed-003`, with two-way seeds `recipe/init-02_order-01_dropout-1`, without a known seed
    `recipe/seed-unknown-2`."""
    if cell is None and seed < 0:
        return f"{recipe}/seed-unknown-{-seed}"
    if cell is None:
        return f"{recipe}/seed-{seed:03d}"
    return f"{recipe}/init-{cell['init']:02d}_order-{cell['order']:02d}_dropout-{cell['dropout']}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Differences between two identities, one per line: `args.learning_rate: 2e-05 -> 3e-05`."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key, "(not set)"), new.get(key, "(not set)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


def check_jobs(jobs: Iterable[Job]) -> None:
    """Refuse jobs that cannot be in one study.

    Raises:
        InputError: two jobs would write to one folder (a recipe or seed given twice), or two recipes differ in their precision.
    """
    seen: set[str] = set()
    recipes: dict[str, str] = {}  # by their precision
    for job in jobs:
        if job.name in seen:
            raise InputError(f"{job.name} is planned twice; give each recipe and each seed once")
        seen.add(job.name)
        if not job.is_stage:
            recipes.setdefault(job.mixed_precision, job.recipe)
    if len(recipes) > 1:
        found = " and ".join(f"{recipe} has {precision}" for precision, recipe in recipes.items())
        raise InputError(
            f"--recipe: {found} as mixed precision, but all runs of a study have the same; give --bf16 true or false for all, "
            "or make a study of each"
        )
