"""A run's files: `trainer_state.json`, `steps.rec`, `verdict.json`, `training_args.bin`, a study's `config.json`."""

from __future__ import annotations

import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..diagnostics.attempt import Attempt
from ..diagnostics.attempt_log import read_attempts
from ..diagnostics.step_record import read_steps
from ..errors import InputError
from ..study.job import Job
from ..utils.trainer_files import last_state, read_object
from ..verdicts.verdict import Verdict


@dataclass
class Run:
    """One training run, from its files or a live Trainer. Unknown values are empty or None.

    Args:
        source: a description of what was read.
        args: the known training arguments, by name.
        history: the Trainer's log.
        record: the callback's record, as `read_steps` returns it.
        verdict: the run's own verdict.
        step, total_steps: update steps done, and planned.
        job: the job, if the run is a study's.
        folder: the run's folder.
        saved_model: folder of the fine-tuned model that the run saved.
        adapter: content of PEFT's adapter_config.json, if the run saved adapters.
        certain: names in `args` that need no check against the log. The user gave them, or a live optimizer has them.
        group_rates: the optimizer's peak learning rates, one per parameter group, if known.
        versions: library versions that the run was made with, if it is a study's.
        is_card: whether all this is from a model card.
    """

    source: str
    args: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] | None = None
    verdict: Verdict | None = None
    step: int | None = None
    total_steps: int | None = None
    job: Job | None = None
    folder: Path | None = None
    saved_model: Path | None = None
    adapter: dict[str, Any] = field(default_factory=dict)
    certain: set[str] = field(default_factory=set)
    group_rates: list[float] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    is_card: bool = False


def read_run_files(path: str | os.PathLike) -> Run:
    """Read a run from a `trainer_state.json`, a `steps.rec`, a checkpoint, an output folder, or a run's folder in a study.

    The run's other files are found from there and read, too.

    Raises:
        InputError: there is no file of a run, or one cannot be read; the run crashed; it is a whole study's folder.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a trainer_state.json, a steps.rec, or a run's folder")
    folder = (path if path.is_dir() else path.parent).absolute()
    folder = folder.parent if folder.name == "stability" else folder  # the callback's
    # the Trainer's output folder, or the run's in a study
    output = folder.parent if folder.name.startswith("checkpoint-") else folder
    _refuse_crash(path, output)
    run = Run(str(path), folder=output)
    found = []
    checkpoint = last_state(output)
    state_file = path if _may_be_a_state(path) else _first_file(folder / "trainer_state.json") or checkpoint
    if state_file is not None:
        _read_state(run, state_file)
        found.append(state_file)
    is_record = path.is_file() and path.suffix != ".json"
    record_file = path if is_record else _first_file(output / "steps.rec", output / "stability" / "steps.rec")
    if record_file is not None:
        record = read_steps(record_file)
        run.record = record if len(record["step"]) else None
        found.append(record_file)
        verdict_file = record_file.with_name("verdict.json")
        if verdict_file.is_file():
            run.verdict = Verdict.from_dict(read_object(verdict_file))
            found.append(verdict_file)
    config_file = output / "config.json"
    config = read_object(config_file) if config_file.is_file() else {}
    if not all(isinstance(config.get(key) or {}, dict) for key in ("job", "versions", "args")):
        raise InputError(f"{config_file}: not a run's config.json; give another path, or move this file away")
    if "job" in config:
        run.job, run.args = Job.from_dict(config["job"]), dict(config.get("args", {}))
        run.args |= _settings_of_last_attempt(output)
        run.args["mixed_precision"] = run.job.mixed_precision
        run.versions = dict(config.get("versions") or {})
        found.append(config_file)
    places = [folder, output, output / "model", *([checkpoint.parent] if checkpoint else [])]
    if state_file is not None:
        places.insert(0, state_file.parent)
    arguments_file = _first_file(*(place / "training_args.bin" for place in places))
    if not run.args and arguments_file is not None:
        run.args = read_training_args(arguments_file)
        found.append(arguments_file)
    run.saved_model = next((place for place in places if _is_model(place)), None)
    adapter_file = _first_file(*(place / "adapter_config.json" for place in places))
    if adapter_file is not None:
        run.adapter = read_object(adapter_file)
        found.append(adapter_file)
    if run.record is None and state_file is None:
        _nothing_there(path, output)
    names = [os.path.relpath(file, path if path.is_dir() else path.parent) for file in found]
    run.source = f"{path} ({', '.join(names)})"
    return run


def _settings_of_last_attempt(folder: Path) -> dict[str, Any]:
    """The arguments that the last attempt of a run with restarts changed. Empty for other runs, and before the last attempt's end."""
    attempts = (read_attempts(folder) or {}).get("attempts")
    last = Attempt.from_dict(attempts[-1]) if attempts else None
    return {} if last is None or last.was_abandoned else last.settings


def _first_file(*files: Path) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _may_be_a_state(path: Path) -> bool:
    """Whether to read this file as a trainer_state.json: any JSON file except a run's other ones."""
    return path.is_file() and path.suffix == ".json" and path.name not in ("verdict.json", "config.json", "run.json")


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and "model_type" in read_object(folder / "config.json")


def _read_state(run: Run, file: Path) -> None:
    content = read_object(file)
    if "log_history" not in content:
        raise InputError(f"{file}: not a trainer_state.json (it has no log_history)")
    run.history = [entry for entry in content["log_history"] if isinstance(entry, dict)]
    run.step, run.total_steps = content.get("global_step"), content.get("max_steps")


def _refuse_crash(path: Path, folder: Path) -> None:
    error = folder / "error.txt"  # written by a study
    if error.is_file() and not (folder / "run.json").is_file():
        lines = error.read_text(encoding="utf-8").strip().splitlines()
        last = lines[-1] if lines else "it left no traceback"
        raise InputError(f"{path}: this run crashed, which is not instability: {last} (read {error})")


def _nothing_there(path: Path, folder: Path) -> None:
    if (folder / "runs").is_dir():
        from ..study.folder import read_runs

        runs = sorted(read_runs(folder), key=lambda run: run.status == "ok")
        some = ", ".join(f"{folder / 'runs' / run.name} ({run.status})" for run in runs[:3])
        raise InputError(f"{path}: this is a study's folder; give the folder of one run: {some or 'none is finished'}")
    raise InputError(
        f"{path}: no run found there (looked for trainer_state.json, checkpoint-*/trainer_state.json, steps.rec, "
        "stability/steps.rec)"
    )


class _Inert:
    """Replaces every class in a pickle. It keeps the arguments and the state, and runs no code."""

    args: tuple[Any, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = object.__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> Any:
        return None


def read_training_args(file: Path) -> dict[str, Any]:
    """The training arguments in a `training_args.bin`: plain values by name. No code in the file is run.

    `devices` is the number of processes times the GPUs of each. A damaged file, or another kind of pickle, gives an
    empty dict.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as data:
                state = getattr(_InertReader(data).load(), "state", None)
    except Exception:  # a damaged file can raise anything
        return {}
    if not isinstance(state, dict):
        return {}
    values = {}
    for key, value in state.items():
        value = value.args[0] if isinstance(value, _Inert) and value.args else value  # an enum's value
        if _is_plain(value):
            values[key] = value
    processes = getattr(state.get("distributed_state"), "state", None)
    if isinstance(processes, dict) and isinstance(processes.get("num_processes"), int):
        values["devices"] = processes["num_processes"] * max(1, values.get("_n_gpu") or 1)
    return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
