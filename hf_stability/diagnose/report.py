"""What went wrong with one run? Every known cause is looked at, and said in order of likelihood, with its remedy.

The causes are in `diagnostics/causes.py`, each a pure function of plain values. [`diagnose`] takes these values from a
run's files or from a live Trainer, and from the data and the model, and says what it could not look at and what would
allow it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import math
import os
import pickle
import re
import shlex
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizer, PreTrainedTokenizerFast, Trainer

from ..callback import StabilityCallback
from ..diagnostics.early_warning import find_alarm
from ..diagnostics.step_record import read_steps
from ..errors import InputError
from ..methods.adamw import effective_step_factor
from ..recipe import load_recipe
from ..recipe.arguments import argument_types
from ..recipe.schema import coerce
from ..study.job import ALARM_ARGS, Job
from ..study.model import load_model, model_config
from ..study.report.statistics import wilson_interval
from ..study.run import quiet
from ..training_args import METHOD_ARGS, StableTrainingArguments
from ..utils.batches import total_batch_size
from ..utils.files import finite
from ..utils.layers import base_model, parameters_with_layers
from ..utils.optimizers import encoder_group, inner_optimizer
from ..verdicts.constants import IGNORED_LABEL, at_or_below
from ..verdicts.verdict import Verdict, judge
from .causes import BUGS, DATA, LIKELIHOODS, Finding, run_checks
from .memorize import memorize as memorize_examples
from .memorize import own_random_state, pick_examples


SCHEMA = "hf_stability.diagnosis/1"

MAX_SEQ_LENGTH = 128  # the study's default

LOOK_AT = 10_000  # examples whose tokens are looked at

CLS_IS_BOS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "albert")
"""Model types whose config calls the tokenizer's cls and sep `bos` and `eos`."""

ANY_MODELS = (PreTrainedTokenizer, PreTrainedTokenizerFast)
"""Tokenizer classes that serve any model, and so say nothing of it."""


# ---- what there is of a run -----------------------------------------------------------------------------------------


@dataclass
class Run:
    """What a run's files, or a live Trainer, say of its training; what they do not say is empty or None.

    Args:
        source: in words.
        args: training arguments by name, as far as they are known.
        history: the Trainer's log.
        record: as [`read_steps`] gives it.
        verdict: as the run left it.
        step, total_steps: update steps done, and in all.
        job: of a study's run.
        folder: the run's.
        saved_model: folder of a model that the run saved, fine-tuned.
        adapter: the config of the adapters that the run saved (PEFT's adapter_config.json).
        certain: names of `args` that the log does not contradict: given by the user, or seen in a live optimizer.
        group_rates: the optimizer's peak rates, one for each parameter group, where they were seen.
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


def read_run_files(path: str | os.PathLike) -> Run:
    """A run from a `trainer_state.json`, a `steps.rec`, a checkpoint, an output folder, or a run's folder in a study.

    Whatever else of the run lies beside it is read too.

    Raises:
        InputError: there is nothing of a run there, or it cannot be read.
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
    checkpoint = _last_checkpoint(output)
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
            run.verdict = Verdict.from_dict(_read_json(verdict_file))
            found.append(verdict_file)
    config_file = output / "config.json"
    config = _read_json(config_file) if config_file.is_file() else {}
    if "job" in config:
        run.job, run.args = Job.from_dict(config["job"]), dict(config.get("args", {}))
        run.args["mixed_precision"] = run.job.mixed_precision
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
        run.adapter = _read_json(adapter_file)
        found.append(adapter_file)
    if run.record is None and state_file is None:
        _nothing_there(path, output)
    names = [os.path.relpath(file, path if path.is_dir() else path.parent) for file in found]
    run.source = f"{path} ({', '.join(names)})"
    return run


def _first_file(*files: Path) -> Path | None:
    return next((file for file in files if file.is_file()), None)


def _may_be_a_state(path: Path) -> bool:
    """Whatever it is called; but not what else a run has by this ending."""
    return path.is_file() and path.suffix == ".json" and path.name not in ("verdict.json", "config.json", "run.json")


def _last_checkpoint(output: Path) -> Path | None:
    """The `trainer_state.json` of the furthest checkpoint of the latest run.

    The highest number alone may be another run's: a shorter one in the same folder leaves an earlier one's checkpoints
    beside its own. Of the latest run are those whose log goes on where that of the file written last ends.
    """
    states = {}
    for file in output.glob("checkpoint-*/trainer_state.json"):
        number = file.parent.name.removeprefix("checkpoint-")
        if number.isdigit():
            states[file] = int(number)
    contents = {}
    for file in states:
        with contextlib.suppress(InputError):  # a run that was killed while it wrote
            contents[file] = _read_json(file)
    if not contents:
        return max(states, key=states.get, default=None)
    latest = contents[max(contents, key=lambda file: (file.stat().st_mtime, states[file]))]
    log, total = latest.get("log_history") or [], latest.get("max_steps")
    same_run = [
        file
        for file, content in contents.items()
        if content.get("max_steps") == total and (content.get("log_history") or [])[: len(log)] == log
    ]
    return max(same_run, key=states.get)


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and "model_type" in _read_json(folder / "config.json")


def _read_state(run: Run, file: Path) -> None:
    content = _read_json(file)
    if "log_history" not in content:
        raise InputError(f"{file}: not a trainer_state.json (it has no log_history)")
    run.history = [entry for entry in content["log_history"] if isinstance(entry, dict)]
    run.step, run.total_steps = content.get("global_step"), content.get("max_steps")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected an object, as the Trainer writes one")
    return content


def _refuse_crash(path: Path, folder: Path) -> None:
    error = folder / "error.txt"  # a study's
    if error.is_file() and not (folder / "run.json").is_file():
        lines = error.read_text(encoding="utf-8").strip().splitlines()
        last = lines[-1] if lines else "it left no traceback"
        raise InputError(f"{path}: this run crashed, which is no instability: {last} (see {error})")


def _nothing_there(path: Path, folder: Path) -> None:
    if (folder / "runs").is_dir():
        from ..study.folder import read_runs

        runs = sorted(read_runs(folder), key=lambda run: run.status == "ok")
        some = ", ".join(f"{folder / 'runs' / run.name} ({run.status})" for run in runs[:3])
        raise InputError(f"{path}: this is a study's folder; give one run's: {some or 'none is finished'}")
    raise InputError(
        f"{path}: nothing of a run there (looked for trainer_state.json, checkpoint-*/trainer_state.json, steps.rec, "
        "stability/steps.rec)"
    )


class _Inert:
    """Stands in for every class in a pickle: holds what it was made with, and runs nothing."""

    def __new__(cls, *args, **kwargs):
        made = object.__new__(cls)
        made.args = args
        return made

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        self.state = state


class _InertReader(pickle.Unpickler):
    def find_class(self, module, name):
        return type(name, (_Inert,), {})

    def persistent_load(self, pid):
        return None


def read_training_args(file: Path) -> dict[str, Any]:
    """The training arguments in a `training_args.bin`, plain values by name; no code in the file is run.

    `devices` is the number of processes, times the GPUs of each. Empty where it is none: a pickle of another kind, or
    damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as data:
                state = getattr(_InertReader(data).load(), "state", None)
    except Exception:  # whatever is in the file, its reader raises as it likes
        return {}
    if not isinstance(state, dict):
        return {}
    values = {}
    for key, value in state.items():
        value = value.args[0] if isinstance(value, _Inert) and value.args else value  # an enum, by its value
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


def read_trainer(trainer: Trainer) -> Run:
    """A run from a live Trainer; its StabilityCallback's record is taken where there is one."""
    run = Run(f"a live {type(trainer).__name__}")
    run.args = {**trainer.args.to_dict(), "mixed_precision": getattr(trainer.args, "mixed_precision", "no")}
    run.args["devices"] = trainer.args.world_size * max(1, trainer.args.n_gpu)
    optimizer = inner_optimizer(trainer.optimizer)
    if optimizer is not None:
        run.args["bias_correction"] = all(group.get("bias_correction", True) for group in optimizer.param_groups)
        run.args["optimizer"] = type(optimizer).__name__.lower()  # it may have been passed in
        _read_rates(run, optimizer, trainer.model)
    run.history = list(trainer.state.log_history)
    run.step, run.total_steps = trainer.state.global_step or None, max(trainer.state.max_steps, 0) or None
    callback = next((c for c in trainer.callback_handler.callbacks if isinstance(c, StabilityCallback)), None)
    if callback is not None:
        run.verdict = callback.verdict
        try:
            record = callback.record
        except RuntimeError:  # it has not trained
            record = None
        run.record = record if record is not None and len(record["step"]) else None
    return run


def _read_rates(run: Run, optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """The peak rate of the parameter group that holds most of the encoder, which is not always the arguments' rate."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if not all(isinstance(rate, (int, float)) for rate in rates) or not any(rates):
        return
    run.group_rates = [float(rate) for rate in rates]
    run.args["learning_rate"] = run.group_rates[encoder_group(optimizer.param_groups, model)]
    run.certain.add("learning_rate")


# ---- from a run to the checks' values -------------------------------------------------------------------------------


def training_values(run: Run) -> dict[str, Any]:
    """The values of the module's table that the training itself gives."""
    args, record = run.args, run.record
    info = record["info"] if record else {}
    total = run.total_steps or info.get("max_steps")
    warmup = info.get("warmup_steps")
    warmup = _warmup_steps(run, total) if warmup is None else warmup
    rate_steps, rates = _rates(run, total, warmup)
    evaluated = [entry["eval_loss"] for entry in run.history if "eval_loss" in entry]
    values = {
        "step": max(run.step or 0, int(record["step"][-1]) if record else 0) or None,
        "total_steps": total,
        "warmup_steps": warmup,
        "rates": rates,
        "rate_steps": rate_steps,
        "rate_note": _rate_note(run),
        "optimizer": args.get("optimizer", args.get("optim")),
        "bias_correction": args.get("bias_correction"),
        "corrected_rates": _as_corrected(run, rate_steps, rates),
        "precision": next((name for name in ("fp16", "bf16") if args.get(name)), args.get("mixed_precision")),
        "nan_filter": args.get("logging_nan_inf_filter"),
        "logged_losses": [entry["loss"] for entry in run.history if "loss" in entry] + evaluated,
        "logged_norms": [entry["grad_norm"] for entry in run.history if "grad_norm" in entry],
    }
    if record:
        # no loss, but gradients: a model that returns none; neither: a run that was NaN from its first step
        returns_none = not np.isfinite(record["loss"]).any() and np.isfinite(record["grad_norm"]).any()
        values |= {
            "steps": record["step"],
            "losses": None if returns_none else record["loss"],
            "grad_norms": record["grad_norm"],
            "layers": record["layers"],
            "layer_norms": record["layer_norms"],
        }
    return values


def _warmup_steps(run: Run, total: int | None) -> int | None:
    """From the arguments, else from the logged rates: where the highest is. None where neither says it."""
    if "warmup_steps" in run.args and total:
        given = run.args["warmup_steps"] or run.args.get("warmup_ratio") or 0  # the latter: of an older Trainer
        return int(given) if given >= 1 else math.ceil(given * total)
    logged = [(entry["step"], entry["learning_rate"]) for entry in run.history if "learning_rate" in entry]
    if len(logged) < 2 or not total:
        return None
    top = max(range(len(logged)), key=lambda i: logged[i][1])
    if top:
        return int(logged[top][0])
    return 0 if logged[0][0] <= 0.02 * total else None


def _rates(run: Run, total: int | None, warmup: int | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Update steps and the rate at each: of the record, else of the Trainer's linear schedule."""
    if run.record:
        return run.record["step"].astype(int), run.record["learning_rate"]
    peak = _logged_peak(run) or run.args.get("learning_rate")
    if peak is None or not total:
        return None, None
    steps, warmup = np.arange(1, total + 1), warmup or 0
    rates = peak * np.minimum((steps - 1) / max(1, warmup), (total - steps + 1) / max(1, total - warmup))
    if not warmup:
        rates = peak * (total - steps + 1) / total
    if run.args.get("lr_bias_correction"):
        rates = rates * effective_step_factor(steps, *_betas(run))
    return steps, rates


def _logged_peak(run: Run) -> float | None:
    """The highest rate in the log, where it tells more than the arguments: an optimizer of one's own has its own rates."""
    logged = max((entry["learning_rate"] for entry in run.history if "learning_rate" in entry), default=None)
    given = run.args.get("learning_rate")
    if logged is None or "learning_rate" in run.certain or (given and logged <= 1.01 * given):
        return None
    return logged


def _rate_note(run: Run) -> str | None:
    """Which parameter group's the rates are, where there is a doubt."""
    groups = run.group_rates
    if run.record is not None:
        columns = run.record.get("learning_rates", np.zeros((0, 0)))
        groups = [float(np.nanmax(column)) for column in columns.T if np.isfinite(column).any()] or groups
    if groups and min(groups) < max(groups):
        return f"this is the encoder's rate, the parameter groups have {min(groups):.2g} to {max(groups):.2g}"
    if run.record is None and _logged_peak(run) is not None:
        return "this is from the log, which shows the first parameter group's rate only"
    return None


def _as_corrected(run: Run, steps: np.ndarray | None, rates: np.ndarray | None) -> np.ndarray | None:
    """The rates at which AdamW with bias correction would make the same steps."""
    if rates is None or run.args.get("bias_correction", True):
        return rates
    return np.asarray(rates, float) / effective_step_factor(steps, *_betas(run))


def _betas(run: Run) -> tuple[float, float]:
    return run.args.get("adam_beta1", 0.9), run.args.get("adam_beta2", 0.999)


def judge_run(run: Run, values: Mapping[str, Any]) -> Verdict | None:
    """The run's verdict, or one from what is known of it; None where that is too little.

    Args:
        values: of the module's table, and `dev_set`, the name of the evaluation set that `dev_labels` are of.
    """
    if run.verdict is not None:
        return run.verdict
    given: dict[str, Any] = {"warmup_steps": values.get("warmup_steps"), "total_steps": values.get("total_steps")}
    labels = values.get("train_labels")
    if labels is not None and len(labels) and np.min(labels) >= 0:
        given["train_label_counts"] = np.bincount(labels)
    if run.record:
        record = run.record
        known = bool(np.isfinite(record["layer_norms"]).any())
        counts = np.nansum(record["labels"], axis=0)
        given |= {
            "steps": record["step"],
            "losses": values.get("losses"),
            "layer_norms": record["layer_norms"] if known else None,
            "layers": record["layers"] if known else None,
        }
        if counts.sum() > 0:
            given["train_label_counts"] = counts
            last = record["step"] > 0.9 * (values.get("total_steps") or record["step"][-1])
            given["train_predicted_counts"] = np.nansum(record["predicted"][last], axis=0)
    else:
        logged = [(entry["step"], entry["loss"]) for entry in run.history if "loss" in entry]
        if logged:
            given["steps"], given["losses"] = (np.asarray(part) for part in zip(*logged, strict=True))
    score, dev = _last_accuracy(run.history, values.get("dev_set")), values.get("dev_labels")
    if score is not None and dev is not None and len(dev) and np.min(dev) >= 0:
        baseline = float(np.bincount(dev).max() / len(dev))
        given |= {"score": as_logged(score, baseline, len(dev)), "baseline": baseline, "metric": "accuracy"}
    try:
        verdict = judge(**given)
    except InputError:  # nothing to judge by, or a record that is not whole
        return None
    # A finite loss alone, with nothing to hold it against, is no news.
    knows = verdict.status != "unknown" or {"optimisation", "gradients", "train_one_class"} & set(verdict.evidence)
    return verdict if knows else None


def _last_accuracy(history: list[dict[str, Any]], dev_set: str | None) -> float | None:
    """The last `eval_accuracy`, else that of the named set: each evaluation set has its own baseline."""
    for key in ("eval_accuracy", f"eval_{dev_set}_accuracy"):
        scores = [entry[key] for entry in history if isinstance(entry.get(key), (int, float))]
        if scores:
            return scores[-1] / 100 if 1 < scores[-1] <= 100 else scores[-1]  # some scripts log per cent
    return None


def as_logged(score: float, baseline: float, examples: int) -> float:
    """An accuracy from a log, as it is to be compared with the baseline: the baseline itself where it is the same number
    of examples, in whatever precision it was computed, or the same to the 3 or 4 decimals that were logged."""
    rounded = any(score == round(score, decimals) == round(baseline, decimals) for decimals in (3, 4))
    return baseline if rounded or (score > baseline and at_or_below(score, baseline, examples)) else score


def _alarm(run: Run, verdict: Verdict | None) -> dict[str, Any] | None:
    """The connection to the early warning: the alarm that the run itself recorded with its verdict, else the one that
    its record would have raised, as `Alarm.to_dict` gives it."""
    if verdict is not None and "alarm" in verdict.evidence:
        return verdict.evidence["alarm"]
    info = run.record["info"] if run.record else {}
    if not {"warmup_steps", "max_steps"} <= set(info):
        return None
    alarm = find_alarm(run.record)
    return None if alarm is None else alarm.to_dict()


def config_values(config) -> dict[str, Any]:
    """The values that a model's config gives."""
    kind = getattr(config, "model_type", "")
    ids = {"pad": getattr(config, "pad_token_id", None)}
    if kind in CLS_IS_BOS:
        ids |= {"cls": getattr(config, "bos_token_id", None), "sep": getattr(config, "eos_token_id", None)}
    return {
        "hidden_size": getattr(config, "hidden_size", None),
        "embedding_rows": getattr(config, "vocab_size", None),
        "config_ids": ids,
        "expected_class": _tokenizer_class(kind),
    }


def _tokenizer_class(kind: str) -> type | None:
    """The tokenizer that goes with a model type; None where it is of no kind of its own."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    names = TOKENIZER_MAPPING_NAMES.get(kind)
    name = names if isinstance(names, str) else next(filter(None, names or ()), None)
    found = tokenizer_class_from_name(name) if name else None
    return None if found in ANY_MODELS else found


def model_values(model: torch.nn.Module) -> dict[str, Any]:
    """The values that a model gives: its config's, its precision, and which of its layers are trained."""
    trainable: dict[str, int] = {}
    frozen: dict[str, int] = {}
    config = getattr(model, "config", None)
    for layer, name, parameter in parameters_with_layers(model):
        if not _is_replaced(name):
            counts = trainable if parameter.requires_grad else frozen
            counts[layer] = counts.get(layer, 0) + parameter.numel()
    dtypes = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.is_floating_point()}
    half = sorted(dtypes & {"torch.float16", "torch.bfloat16"})
    return {
        **(config_values(config) if config is not None else {}),
        "num_labels": getattr(config, "num_labels", None),
        "trainable": trainable,
        "frozen": frozen,
        "frozen_parts": frozen_parts(model),
        "adapters": _adapters_of(model),
        "weights_dtype": half[0] if half else next(iter(dtypes), None),
    }


def frozen_parts(model: torch.nn.Module) -> dict[str, str]:
    """Frozen modules that many a fine-tuning draws anew -> where their values come from.

    | value | what |
    | --- | --- |
    | `new` | drawn at random: its bias is 0 throughout, or the pretrained files lacked it |
    | `loaded` | it came with the pretrained files |
    | `kept` | of the pooler and the embeddings: nothing says that they are new |
    | `unknown` | of the head: nothing says where its values come from |

    Looked at are the head's modules, the pooler and the embeddings of tokens; modules with trained adapters are not frozen.
    """
    (prefix, _), found = base_model(model), {}
    modules = dict(model.named_modules(remove_duplicate=False))
    some_loaded = any(map(_was_loaded, model.parameters()))
    get_embeddings = getattr(model, "get_input_embeddings", None)
    try:
        embeddings = get_embeddings() if get_embeddings else None
    except (NotImplementedError, AttributeError):
        embeddings = None
    embedding_weight = getattr(embeddings, "weight", None)
    for path, module in modules.items():
        own = dict(module.named_parameters(recurse=False))
        matrices = [p for p in own.values() if p.ndim > 1 and not p.requires_grad]
        if not matrices or _is_replaced(f"{path}.") or _is_adapted(path, modules):
            continue
        name, weight, bias = _plain_name(path, model), matrices[0], own.get("bias")
        never_trained = bias is not None and bias.numel() > 0 and not bias.is_meta and not bool(bias.any())
        if embedding_weight is not None and weight is embedding_weight:
            found[name] = "kept"
        elif prefix and not f"{path}.".startswith(prefix):
            lacked = some_loaded and not _was_loaded(weight) and (bias is None or bias.requires_grad)
            if never_trained or lacked:
                found[name] = "new"
            else:  # not marked as loaded, with a bias: it may have been loaded by hand
                found[name] = "loaded" if _was_loaded(weight) else "unknown"
        elif "pooler" in name.split("."):
            new = never_trained and some_loaded and not _was_loaded(weight)
            found[name] = "new" if new else "kept"
    return found


def _was_loaded(parameter: torch.Tensor) -> bool:
    """Whether from_pretrained found it in the files (transformers 5 marks what it has loaded)."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def _is_replaced(name: str) -> bool:
    """PEFT's untrained copy of a module in `modules_to_save`, which is not used."""
    return ".original_module." in name


def _is_adapted(path: str, modules: Mapping[str, torch.nn.Module]) -> bool:
    """A module that PEFT has wrapped, with adapters that are trained."""
    parent, _, last = path.rpartition(".")
    return last == "base_layer" and any(p.requires_grad for p in modules[parent].parameters())


def _adapters_of(model: torch.nn.Module) -> str | None:
    """The kind of a model's adapters, as PEFT calls it: `LORA` ...; None where it has none."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    kind = getattr(next(iter(configs.values())) if isinstance(configs, dict) else configs, "peft_type", "PEFT")
    return str(getattr(kind, "value", kind))


def adapter_values(config: Mapping[str, Any], missing_weights: list[str] | None, base_prefix: str) -> dict[str, Any]:
    """What PEFT's adapter_config.json says: the kind of the adapters, and what of the head they leave frozen.

    Args:
        config: the file's content.
        missing_weights, base_prefix: of the pretrained model, where it is known; see the module `causes`.
    """
    values = {"adapters": str(config.get("peft_type") or "PEFT"), "frozen_parts": {}}
    trained, targets = list(config.get("modules_to_save") or []), config.get("target_modules") or []
    if not isinstance(targets, str):  # else a pattern
        trained += targets

    def is_trained(module: str) -> bool:
        return bool(set(module.split(".")) & set(trained)) or (
            isinstance(targets, str) and re.fullmatch(targets, module) is not None
        )

    if config.get("task_type") not in (None, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return values  # a language model's head is not new
    new = sorted({name.rpartition(".")[0] for name in missing_weights or ()})
    new = [name for name in new if not name.startswith(f"{base_prefix}.") or "pooler" in name.split(".")]
    if new:
        values["frozen_parts"] = {name: "new" for name in new if not is_trained(name)}
    elif missing_weights is None and not config.get("modules_to_save"):
        values["frozen_parts"] = {"no modules_to_save": "unknown"}
    return values


def _plain_name(name: str, model: torch.nn.Module) -> str:
    """A parameter's or module's name as it is without torch.compile's and PEFT's wrappers."""
    name = re.sub(r"^(_orig_mod\.)+", "", name)
    if hasattr(model, "get_base_model"):  # a PeftModel
        name = re.sub(r"^base_model\.(model\.)?", "", name)
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)", "", name)


def tokenizer_values(tokenizer) -> dict[str, Any]:
    """The values that a tokenizer gives; a class that serves any model says nothing."""
    return {
        "tokenizer_size": len(tokenizer),
        "tokenizer_ids": {part: getattr(tokenizer, f"{part}_token_id", None) for part in ("pad", "cls", "sep")},
        "tokenizer_class": None if type(tokenizer) in ANY_MODELS else type(tokenizer),
    }


def token_values(rows, unknown_id: int | None) -> dict[str, Any]:
    """The largest token id of the first 10,000 examples, and the share of their tokens that are unknown."""
    try:
        ids = np.concatenate([np.asarray(row, np.int64) for row in rows["input_ids"][:LOOK_AT]])
    except (ValueError, TypeError):  # no rows, or several texts an example
        return {}
    share = None if unknown_id is None or not ids.size else float((ids == unknown_id).mean())
    return {"largest_id": int(ids.max()) if ids.size else None, "unknown_share": share}


@dataclass
class Inputs:
    """The data and the model of a run.

    Args:
        values: what the checks take of them.
        findings: what was found while they were loaded.
        train: tokenised training examples, a `Dataset`, and `labels`, theirs.
        collator: makes a batch of examples.
        make_model: the model as training began with it, made anew.
        trained_before: update steps that `make_model`'s weights have behind them.
        no_memorize: what [`memorize`] would need, where these data are none for it.
        device: where to train.
    """

    values: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    train: Any = None
    labels: np.ndarray | None = None
    collator: Callable | None = None
    make_model: Callable[[], PreTrainedModel] | None = None
    trained_before: int = 0
    no_memorize: str = ""
    device: str | torch.device = "cpu"

    @property
    def can_memorize(self) -> bool:
        """Whether all is there that [`memorize`] needs."""
        return all(part is not None for part in (self.train, self.labels, self.collator, self.make_model))

    @property
    def fit_the_model(self) -> bool:
        """Whether a model can be shown labels and token ids without an index error."""
        classes, rows = self.values.get("num_labels") or 1, self.values.get("embedding_rows")
        labels = self.labels[self.labels != IGNORED_LABEL]
        labels_fit = classes == 1 or (labels.size > 0 and labels.min() >= 0 and labels.max() < classes)
        return bool(labels_fit and (rows is None or (self.values.get("largest_id") or 0) < rows))


def load_inputs(
    run: Run,
    model: str | None,
    tokenizer: str | None,
    task_name: str | None,
    data_dir: str | None,
    train_file: str | None,
    validation_file: str | None,
    max_seq_length: int,
) -> Inputs:
    """The data and the model that were named or, of a study's run, those it was made with, where they still are.

    Raises:
        InputError: one that was named cannot be had.
    """
    from ..study.prepare import load_config, load_tokenizer
    from ..tasks.load import subsample, tokenize

    inputs, job = Inputs(), run.job
    if model:
        load_config(model)  # speaks up
    texts = tokens = None
    if any((task_name, data_dir, train_file, validation_file)):
        texts, problem = _load_texts(task_name, data_dir, train_file, validation_file)
        inputs.findings += [problem] if problem else []
    elif job is not None:
        tokens = _tokens_of(run)
        inputs.values["max_seq_length"] = None if tokens is None else _length_of(tokens)
    if tokenizer or model:
        own_tokenizer = load_tokenizer(tokenizer or model)
    else:
        own_tokenizer = _or_none(load_tokenizer, *([job.tokenizer, job.model] if job else [run.saved_model]))
    if texts is not None and own_tokenizer is not None:
        tokens = tokenize(subsample(texts, LOOK_AT, LOOK_AT), own_tokenizer, max_seq_length)
        inputs.values["max_seq_length"] = max_seq_length
    _look_at_data(inputs, texts, tokens, own_tokenizer)
    if not model and job is not None and _or_none(load_config, job.model) is not None:
        model = job.model
    if model:
        task = None if texts is tokens is None else (texts or tokens).task
        _look_at_model(inputs, model, task, *((job.model_config, job.dtype) if job else ({}, "auto")))
    elif run.saved_model is not None and (config := _or_none(load_config, str(run.saved_model))) is not None:
        inputs.values |= {"num_labels": config.num_labels, **config_values(config)}
    on_cpu = run.args.get("use_cpu") or not torch.cuda.is_available()
    inputs.device = "cpu" if on_cpu else "cuda"
    return inputs


def _tokens_of(run: Run) -> Any:
    """The tokenised data of a study's run; None where they are gone."""
    from ..tasks.load import TokenizedData

    folder = Path(run.job.data_folder)
    places = (folder, run.folder.parents[2] / "data" / folder.name)  # the study may have been moved
    found = next((place for place in places if (place / "task.json").is_file()), None)
    return None if found is None else TokenizedData.load(found)


def _length_of(tokens) -> int | None:
    """The `--max_seq_length` of tokenised data, which do not say it; None where the default gives the same."""
    from pyarrow import compute  # MNLI has 400,000 rows: not one by one

    splits = (tokens.train, *tokens.validation.values())
    columns = (rows.with_format("arrow")[:]["input_ids"] for rows in splits)
    longest = max(compute.max(compute.list_value_length(column)).as_py() for column in columns)
    return longest if tokens.truncated_share > 0 or longest > MAX_SEQ_LENGTH else None


def _look_at_data(inputs: Inputs, texts, tokens, tokenizer) -> None:
    """What the texts, their tokens and the tokenizer say, as far as there are."""
    data = texts or tokens
    if data is not None:
        dev_set, dev = next(iter(data.validation.items()))
        inputs.values |= {
            "train_labels": _labels_of(data.train),
            "dev_labels": _labels_of(dev),
            "dev_set": dev_set,
            "train_names": data.task.label_names,
            "num_labels": data.task.num_labels,
        }
    if tokens is not None:
        inputs.values |= token_values(tokens.train, getattr(tokenizer, "unk_token_id", None))
        inputs.values["truncated_share"] = tokens.truncated_share
        inputs.train, inputs.labels = tokens.train, np.asarray(tokens.train["label"])
    if tokenizer is not None:
        from transformers import DataCollatorWithPadding

        inputs.values |= tokenizer_values(tokenizer)
        inputs.collator = DataCollatorWithPadding(tokenizer)


def _load_texts(task_name, data_dir, train_file, validation_file) -> tuple[Any, Finding | None]:
    """The texts; or, where the user's files are there and cannot be read as data, that as a finding."""
    from ..tasks.load import load_task_data

    try:
        return load_task_data(task_name, data_dir, train_file, validation_file), None
    except InputError as error:
        files = [Path(file) for file in (train_file, validation_file) if file]
        if task_name or len(files) < 2 or not all(file.is_file() for file in files):
            raise
        remedy = "Mend the file at the place named, and see how your own code read it: perhaps with other labels."
        return None, Finding("labels", "likely", f"the data cannot be read as they are: {error}", {}, remedy)


def _look_at_model(inputs: Inputs, model: str, task, values: Mapping[str, Any], dtype: str) -> None:
    """Load the pretrained weights as the run did, to see what of the model they do not hold; `dtype` is a study's, or
    "auto": as transformers does."""
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(model)

    def load(**more):
        config = model_config(model, task, dict(values)) if task is not None else own
        return load_model(model, config, dtype, **more)

    try:
        loaded, info = load(output_loading_info=True)
    except Exception as error:  # damaged files, by whatever library reads them
        line = " ".join(str(error).split())
        raise InputError(f"--model_name_or_path {model}: the weights do not load: {line}") from None
    fresh = {
        key: value for key, value in model_values(loaded).items() if key not in ("trainable", "frozen", "frozen_parts")
    }
    if task is None:
        del fresh["num_labels"]  # the config's, not the run's
    mismatched = {key for key, *_ in info.get("mismatched_keys", ())}
    inputs.values |= {
        **fresh,
        "model_names": _class_names(own),
        "missing_weights": sorted(set(info["missing_keys"]) | mismatched),
        "base_prefix": loaded.base_model_prefix,
    }
    inputs.make_model = load


def _class_names(config) -> list[str] | None:
    """A config's own class names; None for `LABEL_0` ..., which say nothing."""
    names = [str(config.id2label[i]) for i in sorted(config.id2label)] if getattr(config, "id2label", None) else []
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _columns_of(rows) -> list[str]:
    """Of a dataset that can be looked at as a whole: not of one that only streams."""
    return list(getattr(rows, "column_names", None) or ()) if hasattr(rows, "__len__") else []


def _label_column(rows) -> np.ndarray | None:
    """`(n,)`, a dataset's column `labels` or `label`; None where there is none with one number an example."""
    name = next((name for name in ("labels", "label") if name in _columns_of(rows)), None)
    try:
        labels = None if name is None else np.asarray(rows[name])
    except (ValueError, TypeError):  # labels of tokens: a list of its own length for each example
        return None
    return labels if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.number) else None


def _labels_of(rows) -> np.ndarray | None:
    """[`_label_column`], where these are class ids."""
    labels = _label_column(rows)
    return labels if labels is not None and np.issubdtype(labels.dtype, np.integer) else None


def _or_none(load: Callable, *names) -> Any:
    """What loads first of these, or None: nobody named them."""
    for name in filter(None, names):
        try:
            return load(str(name))
        except InputError:
            continue
    return None


def live_inputs(trainer: Trainer) -> Inputs:
    """The data and the model of a live Trainer."""
    model, train, dev = trainer.model, trainer.train_dataset, trainer.eval_dataset
    dev_set, dev = next(iter(dev.items()), (None, None)) if isinstance(dev, dict) else (None, dev)
    values = {
        **model_values(model),
        "train_labels": _labels_of(train),
        "dev_labels": _labels_of(dev),
        "dev_set": dev_set,
        "train_names": _feature_names(train),
        "dev_names": _feature_names(dev),
        "model_names": _class_names(getattr(model, "config", None)),
    }
    tokenizer = trainer.processing_class
    if hasattr(tokenizer, "all_special_ids"):
        values |= tokenizer_values(tokenizer)
    inputs = Inputs(values, collator=trainer.data_collator, device=trainer.args.device)
    columns = _columns_of(train)
    if "input_ids" in columns:
        values |= token_values(train, getattr(tokenizer, "unk_token_id", None))
        inputs.train, inputs.labels = train, _label_column(train)
        values["frozen_parts"] |= _frozen_new_tokens(values, getattr(tokenizer, "vocab_size", None))
    if {"label", "labels"} & set(columns) and inputs.labels is None:
        inputs.no_memorize = "examples with one label each (a class id or a value)"
    if trainer.model_init is not None:
        inputs.make_model = trainer.call_model_init
    elif isinstance(model, PreTrainedModel):
        inputs.make_model, inputs.trained_before = lambda: _copy_of(model), trainer.state.global_step
    return inputs


def _copy_of(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a live model; without its hooks where they hold what cannot be copied (a logger, a lock)."""
    try:
        return copy.deepcopy(model)
    except Exception:  # a hook is anybody's code
        hooks = [
            value
            for module in model.modules()
            for name, value in vars(module).items()
            if name.startswith(("_forward_", "_backward_")) and isinstance(value, dict)
        ]
        return copy.deepcopy(model, {id(value): type(value)() for value in hooks})


def _frozen_new_tokens(values: Mapping[str, Any], vocabulary: int | None) -> dict[str, str]:
    """Frozen embeddings, where the data hold tokens that were added to the tokenizer's own vocabulary."""
    added = vocabulary is not None and (values.get("largest_id") or 0) >= vocabulary
    frozen = [name for name, origin in values["frozen_parts"].items() if origin == "kept" and "pooler" not in name]
    return dict.fromkeys(frozen, "new tokens") if added else {}


def _feature_names(rows) -> list[str] | None:
    features = getattr(rows, "features", None) or {}
    return getattr(features.get("labels") or features.get("label"), "names", None)


def try_memorize(inputs: Inputs, rate: float | None, show: bool) -> tuple[dict[str, Any] | None, str]:
    """[`memorize`] on the run's own examples and model; None where it cannot be tried, and what it would need."""
    if not inputs.can_memorize:
        return None, inputs.no_memorize
    try:
        if not inputs.fit_the_model:
            return None, "labels and token ids that fit the model"
        rows = pick_examples(inputs.labels, inputs.train["input_ids"])
        with own_random_state():
            model = inputs.make_model()
            keep = {*inspect.signature(model.forward).parameters, "label"}
            examples = [{key: value for key, value in inputs.train[i].items() if key in keep} for i in rows]
            found = memorize_examples(model, examples, inputs.collator, rate, device=inputs.device, show=show)
    except Exception as error:  # the model's forward and the collator are anybody's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return None, f"a model and a collator that take these examples ({why})"
    return {**found, "trained_before": inputs.trained_before}, ""


# ---- all of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What was found of one run.

    Args:
        source: what was looked at.
        status: the verdict's; None where there is none, or the run is not over.
        sentence: the verdict in words.
        failed_share: of one run: `[0 or 1, low, high]`, the 95% Wilson interval; None where there is no verdict.
        findings: the likeliest first.
        not_looked_at: check -> what it needs.
        next_steps: what to do now, in words.
        rescue: the command that tries four remedies, from this run's settings as far as they are known.
    """

    source: str
    status: str | None
    sentence: str
    failed_share: tuple[float, float, float] | None
    findings: list[Finding]
    not_looked_at: dict[str, str]
    next_steps: list[str]
    rescue: str
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return finite(_plain(asdict(self)))

    def to_text(self, width: int = 100) -> str:
        """As the command prints it."""

        def wrapped(text: str, first: str, rest: str) -> str:
            return textwrap.fill(
                text,
                width,
                initial_indent=first,
                subsequent_indent=rest,
                break_on_hyphens=False,
                break_long_words=False,
            )

        lines = [wrapped(self.source, "run: ", "     "), wrapped(self.sentence, "  ", "  ")]
        if self.failed_share is not None:
            lines.append(wrapped(share_sentence(self.failed_share), "  ", "  "))
        headings = ("likely", "possible", "in order")
        for likelihood, heading in zip(LIKELIHOODS, headings, strict=True):
            found = [finding for finding in self.findings if finding.likelihood == likelihood]
            lines += ["", heading] if found else []
            for finding in found:
                lines.append(wrapped(f"{finding.name}: {finding.sentence}", "  - ", "    "))
                if finding.remedy:
                    lines.append(wrapped(finding.remedy, "    remedy: ", "      "))
                if finding.recipe:
                    lines.append(wrapped(finding.recipe, "    use: ", "      "))
        if self.not_looked_at:
            lines += ["", "could not be checked; give"]
            lines += [wrapped(f"{name}: {needs}", "  - ", "    ") for name, needs in self.not_looked_at.items()]
        lines += ["", "next"] + [wrapped(step, "  - ", "    ") for step in self.next_steps]
        lines += ["  - 3 seeds each of four remedies:", f"    {self.rescue}"]  # in one line, to be copied
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Numpy to plain Python."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def share_sentence(share: tuple[float, float, float]) -> str:
    """What one run says of the settings' failed share."""
    failed, low, high = share
    low, high = (f"{value:.2f}".removeprefix("0") if value % 1 else f"{value:.0f}" for value in (low, high))
    text = f"{failed:.0f} of 1 run failed: the failed share of these settings is {low}-{high} (95% interval)."
    if not failed:
        return f"{text} One run cannot say that they are stable."
    return f"{text} One run cannot tell settings that always fail from those that fail one time in five."


def diagnose(
    source: str | os.PathLike | Trainer,
    *,
    model_name_or_path: str | None = None,
    tokenizer_name: str | None = None,
    task_name: str | None = None,
    data_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    max_seq_length: int = MAX_SEQ_LENGTH,
    training: Mapping[str, Any] | None = None,
    memorize: bool = False,
    memorize_rate: float | None = None,
    show: bool = False,
) -> Report:
    """Look at one run for every known cause of failure; nothing is written, and a live Trainer is left as it is.

    ```python
    print(diagnose(trainer, memorize=True).to_text())
    ```

    Args:
        source: a `trainer_state.json`, a `steps.rec`, a checkpoint, an output folder, a run's folder in a study, or a
            live Trainer.
        model_name_or_path, tokenizer_name: the PRETRAINED model, and its tokenizer.
        task_name, data_dir, train_file, validation_file, max_seq_length: the data, as the study command takes them.
        training: training arguments that the files do not say; they go over those that the files do say, but not over a
            record, which holds the rates and the warmup as they were.
        memorize: train on 32 examples, to tell a bug from instability.
        memorize_rate: the rate of it.
        show: a progress bar for it.

    Raises:
        InputError: nothing of a run is there, or something that was named cannot be had.
    """
    live = isinstance(source, Trainer)
    run = read_trainer(source) if live else read_run_files(source)
    run.args |= training or {}
    run.certain |= set(training or ())
    data = (task_name, data_dir, train_file, validation_file)
    with quiet():
        named = (model_name_or_path, tokenizer_name, *data)
        inputs = live_inputs(source) if live else load_inputs(run, *named, max_seq_length)
        if live and any(named):
            more = load_inputs(run, *named, max_seq_length)
            inputs.values |= more.values
            inputs.findings += more.findings
        values = {**inputs.values, **training_values(run)}
        if run.adapter:
            more = values.get("missing_weights"), values.get("base_prefix", "")
            values |= adapter_values(run.adapter, *more)
        needs = inputs.no_memorize
        if memorize:
            values["memorized"], needs = try_memorize(inputs, memorize_rate, show)
        elif inputs.can_memorize:
            needs = "--memorize (it trains on 32 of the examples)"
    verdict = judge_run(run, values)
    status, sentence = _status_and_sentence(run, verdict, values)
    values["alarm"] = _alarm(run, verdict)
    if verdict is not None:
        values |= {"status": status, "evidence": verdict.evidence}
    findings, missing = run_checks(values)
    if "memorize" in missing and needs:
        missing["memorize"] = needs
    findings = sorted([*inputs.findings, *findings], key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    for finding in inputs.findings:
        missing.pop(finding.name, None)
    share = None
    if status in ("ok", "failed", "diverged"):
        failed = int(status != "ok")
        share = (float(failed), *(float(value) for value in wilson_interval(failed, 1)))
    known_length = values.get("max_seq_length")  # of a study's run, by its data
    length = max_seq_length if known_length is None else known_length
    if values.get("adapters"):
        run.args.pop("learning_rate", None)  # too high for the whole model, which a rescue trains
    return Report(
        source=run.source,
        status=status,
        sentence=sentence,
        failed_share=share,
        findings=findings,
        not_looked_at=missing,
        next_steps=_next_steps(findings, missing, status, bool(values.get("adapters"))),
        rescue=rescue_command(run, model_name_or_path, tokenizer_name, data, length),
    )


def _status_and_sentence(run: Run, verdict: Verdict | None, values: Mapping[str, Any]) -> tuple[str | None, str]:
    """The verdict's; of a run that is not over what is known so far, which is no status: failed runs can heal."""
    if verdict is None:
        return None, f"no verdict: too little is known of the run; give {DATA}"
    step, total = values.get("step"), values.get("total_steps")
    if run.verdict is None and step and total and step < total:
        so_far = verdict.sentence.removeprefix("failed: ").removeprefix("ok: ")
        return None, f"so far, at step {step} of {total}: {so_far}"
    return verdict.status, verdict.sentence


def _next_steps(
    findings: list[Finding], missing: Mapping[str, str], status: str | None, adapters: bool = False
) -> list[str]:
    bugs = [f.name for f in findings if f.name in BUGS and f.likelihood == "likely"]
    steps = []
    if status == "ok":
        steps.append("This run did not fail. What is said above is what could make another one fail.")
    if bugs:
        steps.append(f"Mend first: {', '.join(dict.fromkeys(bugs))}. No recipe helps a run with a bug.")
    elif "--memorize" in missing.get("memorize", ""):
        steps.append("A bug or instability? --memorize tells them apart.")
    if adapters:
        steps.append("The rescue trains the whole model, without adapters; their learning rate is left out.")
    return steps


TRAINING_ARGS = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "num_train_epochs", "max_steps",
    "total_train_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last",
    "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "bias_correction",
    "lr_bias_correction", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha",
    "train_sampling_strategy", "bf16", "fp16", *METHOD_ARGS,
)  # fmt: skip
"""What changes training and a study takes: a rescue begins from these, where they are not the Trainer's defaults."""

ALWAYS_SAID = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size")
"""The default is said too: of the bundled tasks' own values, and for who reads the command."""

NOT_A_RESCUES = (*ALARM_ARGS, "diagnostics")
"""Arguments of a study's run that a rescue does not take over: its few runs must finish, and train no slower."""


def rescue_command(
    run: Run,
    model: str | None,
    tokenizer: str | None,
    data: tuple[str | None, str | None, str | None, str | None],
    max_seq_length: int | None = None,
) -> str:
    """The `hf-stability rescue` that begins from this run's settings, as far as they are known.

    Args:
        data: `--task_name`, `--data_dir`, `--train_file`, `--validation_file`.
    """
    job = run.job
    flags: dict[str, Any] = {"model_name_or_path": model, "tokenizer_name": tokenizer}
    flags |= dict(zip(("task_name", "data_dir", "train_file", "validation_file"), data, strict=True))
    if job is not None:
        if not model:
            flags["model_name_or_path"] = job.model
            flags["tokenizer_name"] = tokenizer or (job.tokenizer if job.tokenizer != job.model else None)
        if job.task != "custom" and not any(data):
            flags["task_name"] = job.task
    flags["model_name_or_path"] = flags["model_name_or_path"] or "MODEL"
    if not flags["task_name"] and not flags["train_file"]:
        flags["train_file"], flags["validation_file"] = "TRAIN", "DEV"
    flags["max_seq_length"] = max_seq_length if max_seq_length != MAX_SEQ_LENGTH else None
    flags |= _arguments_of_run(run) if job is None else _arguments_of_job(job)
    words = (f"--{name} {_words(value)}" for name, value in flags.items() if value not in (None, "", [], {}))
    return " ".join(["hf-stability rescue", *words])


def _is_packaged(recipe: str) -> bool:
    try:
        return load_recipe(recipe).is_packaged
    except InputError:
        return False


def _words(value: Any) -> str:
    """As the command line takes it."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(shlex.quote(json.dumps(one) if isinstance(one, dict) else str(one)) for one in values)


def _arguments_of_job(job: Job) -> dict[str, Any]:
    """Of a packaged recipe its name and what was given over it; of one's own, all values but the study's defaults."""
    packaged = _is_packaged(job.recipe) and not job.stages  # its model is the last stage's already
    flags: dict[str, Any] = {"recipe": job.recipe} if packaged else {}
    for name, value in job.args.items():
        source = job.sources.get(name)
        if name not in NOT_A_RESCUES and (source == f"--{name}" or not (packaged or source == "study default")):
            flags[name] = value
    if job.processes > 1 and not job.args.get("total_train_batch_size"):  # a rescue may have another number of them
        flags.pop("per_device_train_batch_size", None)
        flags["total_train_batch_size"] = total_batch_size(job.args, job.processes)
    if job.mixed_precision in ("bf16", "fp16") and not job.args.get(job.mixed_precision):
        flags[job.mixed_precision] = True  # set by `accelerate launch`
    return flags


def _arguments_of_run(run: Run) -> dict[str, Any]:
    """The training arguments that are not the Trainer's defaults, by the names of this version."""
    args = dict(run.args)
    args["warmup_steps"] = args.get("warmup_steps") or args.get("warmup_ratio")  # the latter: of an older Trainer
    if (args.get("devices") or 1) > 1 and not args.get("total_train_batch_size"):
        args["total_train_batch_size"] = total_batch_size(args, args["devices"])
    if args.get("total_train_batch_size"):
        args.pop("per_device_train_batch_size", None)  # it is derived
    if (args.get("max_steps") or -1) > 0:
        args.pop("num_train_epochs", None)
    else:
        args.pop("max_steps", None)
    if args.get("mixed_precision") in ("bf16", "fp16"):
        args[args["mixed_precision"]] = True
    defaults, types = StableTrainingArguments.__dataclass_fields__, argument_types()
    flags = {}
    for name in TRAINING_ARGS:
        value = args.get(name)
        if value is None or (value == defaults[name].default and name not in ALWAYS_SAID):
            continue
        with contextlib.suppress(ValueError):  # a name that this version does not know, an optimizer's that is gone
            flags[name] = coerce(value, types[name])
    return flags


# ---- the command ----------------------------------------------------------------------------------------------------

DESCRIPTION = """Look at ONE run that failed: every known cause, in order of likelihood, with its remedy and the flags to
use. Nothing is written but --json's file, and nothing is trained without --memorize. docs/my_run_failed.md explains
each line."""

USAGE = """hf-stability diagnose PATH [--model_name_or_path M] [--task_name T | --train_file F --validation_file F]
       [--memorize] [--json FILE] [any argument of the Trainer]"""

EXAMPLES = """
PATH is one of
  a trainer_state.json, or a checkpoint or output folder of any Trainer; a steps.rec of StabilityCallback;
  a run's folder in a study, results/rte/runs/devlin2019/seed-003, which says its model and data itself.
What lies beside it is read too. More flags let it look at more; training flags say what the files do not.

examples:
  hf-stability diagnose output/checkpoint-500
  hf-stability diagnose output --model_name_or_path bert-large-uncased --train_file train.csv --validation_file dev.csv
  hf-stability diagnose results/rte/runs/devlin2019/seed-003 --memorize

From Python, with a live Trainer: from hf_stability.diagnose import diagnose; print(diagnose(trainer).to_text())
Then: hf-stability rescue --help
"""


TRAINING_FLAGS = (
    "learning_rate", "warmup_steps", "bias_correction", "lr_bias_correction", "optim", "bf16", "fp16", "use_cpu",
)  # fmt: skip
"""The training arguments that are looked at, of those that --help shows."""

NOT_TAKEN = ("pad_to_max_length", "max_train_samples", "max_eval_samples", "validation_half")
"""The study's data flags that are refused here: the whole sets are looked at."""


@dataclass
class DiagnoseArguments:
    """The command's own flags."""

    memorize: bool = field(
        default=False,
        metadata={
            "help": "Train the model on 32 of the examples, up to 300 update steps: one that cannot learn them by heart "
            "has a bug (labels, tokenizer, frozen weights); one that can may be unstable."
        },
    )
    memorize_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of it. Default: 5e-5 for a model of 768 units, inversely to the units for others; with "
            "adapters 10 times that."
        },
    )
    json: str | None = field(default=None, metadata={"help": "Write all of it with its figures to this file, too."})
