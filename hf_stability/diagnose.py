"""What went wrong with one run? Every known cause is looked at, and said in order of likelihood, with its remedy.

The causes are in `diagnostics/causes.py`, each a pure function of plain values. [`diagnose`] takes these values from a
run's files or from a live Trainer, and from the data and the model, and says what it could not look at and what would
allow it.
"""

from __future__ import annotations

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
from transformers import PreTrainedModel, Trainer

from .callback import StabilityCallback
from .diagnostics.causes import BUGS, DATA, LIKELIHOODS, Finding, run_checks
from .diagnostics.early_warning import find_alarm
from .diagnostics.failures import IGNORED_LABEL, Verdict, judge
from .diagnostics.memorize import memorize as memorize_examples
from .diagnostics.memorize import own_random_state, pick_examples
from .diagnostics.step_record import read_steps
from .errors import InputError
from .methods.adamw import effective_step_factor
from .recipe import load_recipe
from .study.plan import Job
from .study.run import finite, model_config, quiet
from .study.statistics import wilson_interval


SCHEMA = "hf_stability.diagnosis/1"

LOOK_AT = 10_000  # examples whose tokens are looked at

CLS_IS_BOS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "albert")
"""Model types whose config calls the tokenizer's cls and sep `bos` and `eos`."""


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
    top = folder.parent if folder.name.startswith("checkpoint-") else folder
    is_state, is_record = path.is_file() and path.suffix == ".json", path.is_file() and path.suffix != ".json"
    states = [path] if is_state and path.name not in ("verdict.json", "config.json", "run.json") else []
    states += [folder / "trainer_state.json", *_newest_first(top)]
    records = [path] if is_record else [top / "steps.rec", top / "stability" / "steps.rec"]
    _refuse_crash(path, top)
    run = Run(str(path), folder=top)
    found = []
    state_file = next((file for file in states if file.is_file()), None)
    if state_file is not None:
        _read_state(run, state_file)
        found.append(state_file)
    record_file = next((file for file in records if file.is_file()), None)
    if record_file is not None:
        record = read_steps(record_file)
        run.record = record if len(record["step"]) else None
        found.append(record_file)
        verdict_file = record_file.with_name("verdict.json")
        if verdict_file.is_file():
            run.verdict = Verdict.from_dict(_read_json(verdict_file))
            found.append(verdict_file)
    config = _read_json(top / "config.json") if (top / "config.json").is_file() else {}
    if "job" in config:
        run.job, run.args = Job.from_dict(config["job"]), dict(config.get("args", {}))
        run.args["mixed_precision"] = run.job.mixed_precision
        found.append(top / "config.json")
    places = [folder, top, top / "model", *(state.parent for state in states)]
    arguments = next(
        (place / "training_args.bin" for place in places if (place / "training_args.bin").is_file()), None
    )
    if not run.args and arguments is not None:
        run.args = read_training_args(arguments)
        found.append(arguments)
    run.saved_model = next((place for place in places if _is_model(place)), None)
    if run.record is None and state_file is None:
        _nothing_there(path, top)
    names = [os.path.relpath(file, path if path.is_dir() else path.parent) for file in found]
    run.source = f"{path} ({', '.join(names)})"
    return run


def _newest_first(folder: Path) -> list[Path]:
    states = [path for path in folder.glob("checkpoint-*/trainer_state.json") if path.parent.name[11:].isdigit()]
    return sorted(states, key=lambda path: int(path.parent.name[11:]), reverse=True)


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
        last = error.read_text(encoding="utf-8").strip().splitlines()[-1]
        raise InputError(f"{path}: this run crashed, which is no instability: {last} (see {error})")


def _nothing_there(path: Path, folder: Path) -> None:
    if (folder / "runs").is_dir():
        from .study.study import read_runs

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

    Empty where it is none: a pickle of another kind, or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as data:
                state = getattr(_InertReader(data).load(), "state", None)
    except Exception:  # whatever is in the file, its reader raises as it likes
        return {}
    values = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        value = value.args[0] if isinstance(value, _Inert) and value.args else value  # an enum, by its value
        if value is None or isinstance(value, (bool, int, float, str)):
            values[key] = value
    return values


def read_trainer(trainer: Trainer) -> Run:
    """A run from a live Trainer; its StabilityCallback's record is taken where there is one."""
    run = Run(f"a live {type(trainer).__name__}")
    run.args = {**trainer.args.to_dict(), "mixed_precision": getattr(trainer.args, "mixed_precision", "no")}
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    if optimizer is not None:
        run.args["bias_correction"] = all(group.get("bias_correction", True) for group in optimizer.param_groups)
        run.args["optim"] = type(optimizer).__name__.lower()
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
        "optimizer": args.get("optim"),
        "bias_correction": args.get("bias_correction"),
        "corrected_rates": _as_corrected(run, rate_steps, rates),
        "precision": next((name for name in ("fp16", "bf16") if args.get(name)), args.get("mixed_precision")),
        "nan_filter": args.get("logging_nan_inf_filter"),
        "logged_losses": [entry["loss"] for entry in run.history if "loss" in entry] + evaluated,
        "logged_norms": [entry["grad_norm"] for entry in run.history if "grad_norm" in entry],
    }
    if record:
        values |= {
            "steps": record["step"],
            "losses": record["loss"] if np.isfinite(record["loss"]).any() else None,  # a model that returns none
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
    logged = [entry["learning_rate"] for entry in run.history if "learning_rate" in entry]
    peak = run.args.get("learning_rate") or max(logged, default=None)
    if peak is None or not total:
        return None, None
    steps, warmup = np.arange(1, total + 1), warmup or 0
    rates = peak * np.minimum((steps - 1) / max(1, warmup), (total - steps + 1) / max(1, total - warmup))
    if not warmup:
        rates = peak * (total - steps + 1) / total
    if run.args.get("lr_bias_correction"):
        rates = rates * effective_step_factor(steps, *_betas(run))
    return steps, rates


def _as_corrected(run: Run, steps: np.ndarray | None, rates: np.ndarray | None) -> np.ndarray | None:
    """The rates at which AdamW with bias correction would make the same steps."""
    if rates is None or run.args.get("bias_correction", True):
        return rates
    return np.asarray(rates, float) / effective_step_factor(steps, *_betas(run))


def _betas(run: Run) -> tuple[float, float]:
    return run.args.get("adam_beta1", 0.9), run.args.get("adam_beta2", 0.999)


def judge_run(run: Run, values: Mapping[str, Any]) -> Verdict | None:
    """The run's verdict, or one from what is known of it; None where that is too little."""
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
    scores = [
        value
        for entry in run.history
        for key, value in entry.items()
        if key.startswith("eval_") and key.endswith("accuracy")
    ]
    dev = values.get("dev_labels")
    if scores and dev is not None and len(dev) and np.min(dev) >= 0:
        given |= {"score": scores[-1], "baseline": float(np.bincount(dev).max() / len(dev)), "metric": "accuracy"}
    try:
        verdict = judge(**given)
    except InputError:  # nothing to judge by, or a record that is not whole
        return None
    # a finite loss that there is nothing to hold against is no reason to call a run ok
    knows = verdict.basis != "training_only" or {"optimisation", "gradients"} & set(verdict.evidence)
    return verdict if knows or verdict.status != "ok" else None


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
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    kind = getattr(config, "model_type", "")
    ids = {"pad": getattr(config, "pad_token_id", None)}
    if kind in CLS_IS_BOS:
        ids |= {"cls": getattr(config, "bos_token_id", None), "sep": getattr(config, "eos_token_id", None)}
    classes = TOKENIZER_MAPPING_NAMES.get(kind)
    classes = [classes] if isinstance(classes, str) else [name for name in classes or () if name]
    return {
        "hidden_size": getattr(config, "hidden_size", None),
        "embedding_rows": getattr(config, "vocab_size", None),
        "config_ids": ids,
        "expected_class": classes[0].removesuffix("Fast") if classes else None,
    }


def model_values(model: torch.nn.Module) -> dict[str, Any]:
    """The values that a model gives: its config's, its precision, and which of its layers are trained."""
    trainable: dict[str, int] = {}
    frozen: dict[str, int] = {}
    prefix, config = getattr(model, "base_model_prefix", ""), getattr(model, "config", None)
    for name, parameter in model.named_parameters():
        counts, layer = trainable if parameter.requires_grad else frozen, _layer(name, prefix)
        counts[layer] = counts.get(layer, 0) + parameter.numel()
    dtypes = {str(p.dtype) for p in model.parameters() if p.requires_grad and p.is_floating_point()}
    half = sorted(dtypes & {"torch.float16", "torch.bfloat16"})
    return {
        **(config_values(config) if config is not None else {}),
        "num_labels": getattr(config, "num_labels", None),
        "trainable": trainable,
        "frozen": frozen,
        "adapters": hasattr(model, "peft_config"),
        "weights_dtype": half[0] if half else next(iter(dtypes), None),
    }


def _layer(name: str, prefix: str) -> str:
    """The layer that a parameter belongs to, frozen ones too: `embeddings`, `layer_03`, `pooler`, `classifier`."""
    if prefix and not name.startswith(f"{prefix}."):
        return "classifier"
    number = re.search(r"\.(\d+)\.", name)
    if number:
        return f"layer_{int(number[1]):02d}"
    part = name.removeprefix(f"{prefix}.").split(".")[0]
    return "embeddings" if "embed" in part else part


def tokenizer_values(tokenizer) -> dict[str, Any]:
    """The values that a tokenizer gives; a class that serves any model says nothing."""
    name = type(tokenizer).__name__.removesuffix("Fast")
    return {
        "tokenizer_size": len(tokenizer),
        "tokenizer_ids": {part: getattr(tokenizer, f"{part}_token_id", None) for part in ("pad", "cls", "sep")},
        "tokenizer_class": None if name in ("PreTrainedTokenizer", "TokenizersBackend") else name,
    }


def token_values(rows, unknown_id: int | None) -> dict[str, Any]:
    """The largest token id of the first 10,000 examples, and the share of their tokens that are unknown."""
    ids = np.concatenate([np.asarray(row, np.int64) for row in rows["input_ids"][:LOOK_AT]])
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
        device: where to train.
    """

    values: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    train: Any = None
    labels: np.ndarray | None = None
    collator: Callable | None = None
    make_model: Callable[[], PreTrainedModel] | None = None
    trained_before: int = 0
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
    from .study.prepare import load_config, load_tokenizer
    from .tasks.load import TokenizedData, subsample, tokenize

    inputs, job = Inputs(), run.job
    texts = tokens = loaded_tokenizer = None
    if model:
        load_config(model)  # speaks up
    if any((task_name, data_dir, train_file, validation_file)):
        texts, problem = _load_texts(task_name, data_dir, train_file, validation_file)
        inputs.findings += [problem] if problem else []
    elif job is not None:
        places = (Path(job.data_folder), run.folder.parents[2] / "data" / Path(job.data_folder).name)  # moved since
        folder = next((place for place in places if (place / "task.json").is_file()), None)
        tokens = None if folder is None else TokenizedData.load(folder)
    if tokenizer or model:
        loaded_tokenizer = load_tokenizer(tokenizer or model)
    else:
        loaded_tokenizer = _or_none(load_tokenizer, *([job.tokenizer, job.model] if job else [run.saved_model]))
    if texts is not None and loaded_tokenizer is not None:
        tokens = tokenize(subsample(texts, LOOK_AT, LOOK_AT), loaded_tokenizer, max_seq_length)
        inputs.values["max_seq_length"] = max_seq_length
    task = texts.task if texts is not None else tokens.task if tokens is not None else None
    if loaded_tokenizer is not None:
        inputs.values |= tokenizer_values(loaded_tokenizer)
    if task is not None:
        rows = texts or tokens
        dev = next(iter(rows.validation.values()))
        inputs.values |= {
            "train_labels": _labels_of(rows.train),
            "dev_labels": _labels_of(dev),
            "train_names": task.label_names,
            "num_labels": task.num_labels,
        }
    if tokens is not None:
        inputs.values |= token_values(tokens.train, getattr(loaded_tokenizer, "unk_token_id", None))
        inputs.values["truncated_share"] = tokens.truncated_share
        inputs.train, inputs.labels = tokens.train, np.asarray(tokens.train["label"])
    if not model and job is not None and _or_none(load_config, job.model) is not None:
        model = job.model
    if model:
        _look_at_model(inputs, model, task, job.model_config if job else {})
    elif run.saved_model is not None and (config := _or_none(load_config, str(run.saved_model))) is not None:
        inputs.values |= {"num_labels": config.num_labels, **config_values(config)}
    if loaded_tokenizer is not None:
        from transformers import DataCollatorWithPadding

        inputs.collator = DataCollatorWithPadding(loaded_tokenizer)
    on_cpu = run.args.get("use_cpu") or not torch.cuda.is_available()
    inputs.device = "cpu" if on_cpu else "cuda"
    return inputs


def _load_texts(task_name, data_dir, train_file, validation_file) -> tuple[Any, Finding | None]:
    """The texts; or, where the user's files are there and cannot be read as data, that as a finding."""
    from .tasks.load import load_task_data

    try:
        return load_task_data(task_name, data_dir, train_file, validation_file), None
    except InputError as error:
        files = [Path(file) for file in (train_file, validation_file) if file]
        if task_name or len(files) < 2 or not all(file.is_file() for file in files):
            raise
        remedy = "Mend the file at the place named, and see how your own code read it: perhaps with other labels."
        return None, Finding("labels", "likely", f"the data cannot be read as they are: {error}", {}, remedy)


def _look_at_model(inputs: Inputs, model: str, task, values: Mapping[str, Any]) -> None:
    """Load the pretrained weights, to see what of the model they do not hold."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    own = AutoConfig.from_pretrained(model)

    def load(**more):
        config = model_config(model, task, dict(values)) if task is not None else own
        found = AutoModelForSequenceClassification.from_pretrained(
            model, config=config, ignore_mismatched_sizes=True, **more
        )
        return found

    try:
        loaded, info = load(output_loading_info=True)
    except Exception as error:  # damaged files, by whatever library reads them
        line = " ".join(str(error).split())
        raise InputError(f"--model_name_or_path {model}: the weights do not load: {line}") from None
    fresh = {
        key: value for key, value in model_values(loaded).items() if key not in ("trainable", "frozen", "adapters")
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


def _labels_of(rows) -> np.ndarray | None:
    """`(n,)` class ids of a dataset's column `labels` or `label`; None where there is none of whole numbers."""
    columns = getattr(rows, "column_names", None) or () if hasattr(rows, "__len__") else ()
    name = next((n for n in ("labels", "label") if n in columns), None)
    labels = None if name is None else np.asarray(rows[name])
    return labels if labels is not None and labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else None


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
    dev = next(iter(dev.values())) if isinstance(dev, dict) else dev
    values = {
        **model_values(model),
        "train_labels": _labels_of(train),
        "dev_labels": _labels_of(dev),
        "train_names": _feature_names(train),
        "dev_names": _feature_names(dev),
        "model_names": _class_names(getattr(model, "config", None)),
    }
    tokenizer = trainer.processing_class
    if hasattr(tokenizer, "all_special_ids"):
        values |= tokenizer_values(tokenizer)
    inputs = Inputs(values, collator=trainer.data_collator, device=trainer.args.device)
    columns = getattr(train, "column_names", None) or () if hasattr(train, "__len__") else ()
    label = next((name for name in ("labels", "label") if name in columns), None)
    if "input_ids" in columns and label:
        values |= token_values(train, getattr(tokenizer, "unk_token_id", None))
        inputs.train, inputs.labels = train, np.asarray(train[label])
    if trainer.model_init is not None:
        inputs.make_model = trainer.call_model_init
    elif isinstance(model, PreTrainedModel):
        inputs.make_model, inputs.trained_before = lambda: copy.deepcopy(model), trainer.state.global_step
    return inputs


def _feature_names(rows) -> list[str] | None:
    features = getattr(rows, "features", None) or {}
    return getattr(features.get("labels") or features.get("label"), "names", None)


def try_memorize(inputs: Inputs, rate: float | None, show: bool) -> dict[str, Any] | None:
    """[`memorize`] on the run's own examples and model; None where either is missing."""
    if not inputs.can_memorize or not inputs.fit_the_model:
        return None
    rows = pick_examples(inputs.labels, inputs.train["input_ids"])
    with own_random_state():
        model = inputs.make_model()
        keep = {*inspect.signature(model.forward).parameters, "label"}
        examples = [{key: value for key, value in inputs.train[i].items() if key in keep} for i in rows]
        found = memorize_examples(model, examples, inputs.collator, rate, device=inputs.device, show=show)
    return {**found, "trained_before": inputs.trained_before}


# ---- all of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What was found of one run.

    Args:
        source: what was looked at.
        status: the verdict's; None where there is none.
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
    max_seq_length: int = 128,
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
        training: training arguments that the files do not say; they go over those that the files do say.
        memorize: train on 32 examples, to tell a bug from instability.
        memorize_rate: the rate of it.
        show: a progress bar for it.

    Raises:
        InputError: nothing of a run is there, or something that was named cannot be had.
    """
    live = isinstance(source, Trainer)
    run = read_trainer(source) if live else read_run_files(source)
    run.args |= training or {}
    data = (task_name, data_dir, train_file, validation_file)
    with quiet():
        named = (model_name_or_path, tokenizer_name, *data)
        inputs = live_inputs(source) if live else load_inputs(run, *named, max_seq_length)
        if live and any(named):
            more = load_inputs(run, *named, max_seq_length)
            inputs.values |= more.values
            inputs.findings += more.findings
        values = {**inputs.values, **training_values(run)}
        values["memorized"] = try_memorize(inputs, memorize_rate, show) if memorize else None
    verdict = judge_run(run, values)
    values["alarm"] = _alarm(run, verdict)
    if verdict is not None:
        values |= {"status": verdict.status, "evidence": verdict.evidence}
    findings, missing = run_checks(values)
    if "memorize" in missing and inputs.can_memorize:
        fit = "labels and token ids that fit the model" if memorize else "--memorize (it trains on 32 of the examples)"
        missing["memorize"] = fit
    findings = sorted([*inputs.findings, *findings], key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    for finding in inputs.findings:
        missing.pop(finding.name, None)
    failed = verdict is not None and verdict.status in ("failed", "diverged")
    share = None
    if verdict is not None and verdict.status in ("ok", "failed", "diverged"):
        share = (float(failed), *(float(value) for value in wilson_interval(int(failed), 1)))
    return Report(
        source=run.source,
        status=None if verdict is None else verdict.status,
        sentence=verdict.sentence if verdict else f"no verdict: too little is known of the run; give {DATA}",
        failed_share=share,
        findings=findings,
        not_looked_at=missing,
        next_steps=_next_steps(findings, missing, verdict),
        rescue=rescue_command(run, model_name_or_path, tokenizer_name, data),
    )


def _next_steps(findings: list[Finding], missing: Mapping[str, str], verdict: Verdict | None) -> list[str]:
    bugs = [f.name for f in findings if f.name in BUGS and f.likelihood == "likely"]
    steps = []
    if verdict is not None and verdict.status == "ok":
        steps.append("This run did not fail. What is said above is what could make another one fail.")
    if bugs:
        steps.append(f"Mend first: {', '.join(dict.fromkeys(bugs))}. No recipe helps a run with a bug.")
    elif "memorize" in missing:
        steps.append("A bug or instability? --memorize tells them apart.")
    return steps


def rescue_command(
    run: Run, model: str | None, tokenizer: str | None, data: tuple[str | None, str | None, str | None, str | None]
) -> str:
    """The `hf-stability rescue` that begins from this run's settings, as far as they are known."""
    names = ("task_name", "data_dir", "train_file", "validation_file")
    flags: dict[str, Any] = {"model_name_or_path": model or "MODEL", "tokenizer_name": tokenizer}
    flags |= dict(zip(names, data, strict=True))
    if run.job is not None:
        job = run.job
        known = _is_packaged(job.recipe) and not job.stages  # its model is the last stage's already
        flags |= {"recipe": job.recipe if known else None, "model_name_or_path": model or job.model}
        if job.task != "custom" and not any(data):
            flags["task_name"] = job.task
        # of a recipe of your own all values but the study's defaults, of a packaged one those that were given over it
        own = (name for name in job.args if job.sources.get(name) != "study default" and not known)
        given = {name for name in job.args if job.sources.get(name) == f"--{name}"} | set(own)
        flags |= {name: job.args[name] for name in job.args if name in given}
    else:
        known = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "warmup_steps")
        flags |= {name: run.args[name] for name in known if run.args.get(name, 0) > 0}
        if run.args.get("bias_correction") is False:
            flags["bias_correction"] = False
    if not flags["task_name"] and not flags["train_file"]:
        flags["train_file"], flags["validation_file"] = "TRAIN", "DEV"
    words = (f"--{name} {shlex.quote(str(value))}" for name, value in flags.items() if value is not None)
    return " ".join(["hf-stability rescue", *words])


def _is_packaged(recipe: str) -> bool:
    try:
        return load_recipe(recipe).is_packaged
    except InputError:
        return False


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
            "help": "Learning rate of it. Default: 5e-5 for a model of 768 units, inversely to the units for others."
        },
    )
    json: str | None = field(default=None, metadata={"help": "Write all of it with its figures to this file, too."})
