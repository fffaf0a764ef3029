"""Early detection: how well the early warning finds runs that will fail, and whether something simpler would do.

    python benchmarks/early_detection.py choose --output_dir studies   # runs to choose settings on and to fit on
    python benchmarks/early_detection.py fit --output_dir studies      # fit the weights and the threshold on them
    python benchmarks/early_detection.py test --output_dir studies     # fresh runs, after the protocol was committed
    python benchmarks/early_detection.py choose_unbalanced --output_dir studies  # unbalanced classes: runs to choose on
    python benchmarks/early_detection.py test_unbalanced --output_dir studies    # unbalanced classes: fresh runs
    python benchmarks/early_detection.py report --output_dir studies   # the tables, from the runs of both tests

All parts measure the first rule: the weights and the threshold of fit.json. `benchmarks/better_alarm.py` has the rule that the
package uses now. Without the runs, `report` makes the tables again from `benchmarks/early_warning/runs.csv` and `unbalanced.csv`. These have a row
per run and check. The protocol is benchmarks/early_warning/PROTOCOL.md. After an interruption, the same command resumes a study.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml


os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from hf_stability import cli
from hf_stability.diagnostics import early_warning
from hf_stability.diagnostics.plots import own_style
from hf_stability.diagnostics.step_record import read_steps
from hf_stability.recipe import recipe_dir
from hf_stability.statistics import wilson_interval
from hf_stability.study.report.plots import FAILED, OK
from hf_stability.tasks.demo import grammar
from hf_stability.tasks.demo.data import demo_model_path, demo_splits
from hf_stability.verdicts.constants import label_entropy


RESULTS = Path(__file__).resolve().parent / "early_warning"
TITLES = {"bert": "BERT", "roberta": "RoBERTa", "albert": "ALBERT (not in the fit)"}
FITTED = json.loads((RESULTS / "fit.json").read_text(encoding="utf-8"))
WEIGHTS, THRESHOLD = FITTED["weights"]["risk"], FITTED["threshold"]
"""The rule that both tests measured."""
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
PREVALENCES = (0.1, 0.3, 0.5)
ENOUGH, MOST_RUNS, BATCH_OF_RUNS = 50, 240, 20  # wanted failed and ok runs per setting; most runs; runs per batch
CHOICE_SEEDS = ("1000-1019",)
FIRST_TEST_SEED = 3001
N_BOOT = 10_000
LATE = 2
"""The dev score at a check may be this many update steps later: the Trainer rounds the steps between evaluations up."""


@dataclass(frozen=True)
class Setting:
    """A setting of balanced classes: devlin2019 on a bundled task, at a learning rate at which about half of the runs fail.

    Args:
        architecture: name of the bundled model.
        task: name of the bundled task.
        split: name of the task's training set.
        examples: number of training examples, the first of the split.
        epochs: length of training.
        rate: learning rate at which about half of the runs should fail.
        changes: other arguments that differ from devlin2019.
    """

    architecture: str
    task: str
    split: str
    examples: int
    epochs: int
    rate: float
    changes: Mapping[str, Any] = field(default_factory=dict)


SETTINGS = {
    "bert": Setting("bert", "demo_pair", "train", 1000, 3, 2.5e-4),
    "roberta": Setting("roberta", "demo_cola", "train", 1000, 3, 9e-4),
    "albert": Setting("albert", "demo_cola", "train_full", 2000, 3, 9e-4, {"bias_correction": True}),
}
FRESH = {**SETTINGS, "bert_cola": Setting("bert", "demo_cola", "train", 1000, 3, 1e-4)}  # of PROTOCOL2.md
CHOICE = {  # settings of the fit; RoBERTa's was amended for the test, see PROTOCOL.md
    "bert": SETTINGS["bert"],
    "roberta": Setting("roberta", "demo_cola", "train", 1000, 4, 5e-4),
}

KINDS_OF_SUBJECTS = tuple(grammar.NOUNS)
FORMS = {  # forms of a sentence by the kind of its subject; objects neither act nor refer to themselves
    "person": ("intransitive", "property", "transitive", "reflexive"),
    "animal": ("intransitive", "property", "transitive", "reflexive"),
    "object": ("intransitive", "property"),
}
KINDS_AND_FORMS = [(kind, form) for kind in KINDS_OF_SUBJECTS for form in FORMS[kind]]
SENTENCE_CLASSES: dict[str, Callable[[grammar.Sentence], int]] = {
    "reflexive": lambda sentence: int(sentence.predicate.is_reflexive),
    "kind": lambda sentence: KINDS_OF_SUBJECTS.index(sentence.subject.kind),
    "kind_and_form": lambda sentence: KINDS_AND_FORMS.index((sentence.subject.kind, form_of(sentence))),
}
"""Tasks of unbalanced classes on the demo's sentences: does the subject act on itself (2 classes), which kind is the subject
(3), which kind and form has the sentence (10)."""

TEN_SKEWED = (0.6, 0.1, 0.1, 0.05, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02)


@dataclass(frozen=True)
class Unbalanced:
    """A setting of unbalanced classes: devlin2019 on sentences of the demo's grammar, 320 examples, 8 epochs.

    The model is the first 4 of the 12 layers of the bundled BERT.

    Args:
        classes: key of `SENTENCE_CLASSES`.
        shares: share of each class.
        rate: learning rate.
        bias_correction: whether AdamW corrects its bias. Without it runs are more likely to fail.
    """

    classes: str
    shares: tuple[float, ...]
    rate: float
    bias_correction: bool = True


EXAMPLES, EPOCHS, LAYERS, SLOW, FAST = 320, 8, 4, 1e-3, 5e-3
UNBALANCED = {
    "rare03": Unbalanced("reflexive", (0.97, 0.03), SLOW),
    "rare07": Unbalanced("reflexive", (0.93, 0.07), SLOW),
    "rare15": Unbalanced("reflexive", (0.85, 0.15), SLOW),
    "three_skewed": Unbalanced("kind", (0.8, 0.15, 0.05), SLOW),
    "ten": Unbalanced("kind_and_form", (0.1,) * 10, SLOW),
    "ten_skewed": Unbalanced("kind_and_form", TEN_SKEWED, SLOW),
    "rare07_fast": Unbalanced("reflexive", (0.93, 0.07), FAST, False),
    "ten_skewed_fast": Unbalanced("kind_and_form", TEN_SKEWED, FAST, False),
}
UNBALANCED_SEEDS = {"choose_unbalanced": 1001, "test_unbalanced": 6001}
MOST_SEEDS = 20
LEARNED, NOT_LEARNED = 0.5, 0.1
"""A run is sound with at least the first Matthews correlation, and failed with at most the second."""


# ---- runs -----------------------------------------------------------------------------------------------------------


def write_data(folder: Path, setting: Setting, half: str) -> tuple[Path, Path]:
    """Write the setting's training set and one half of its development set as .csv files; their paths."""
    splits = demo_splits(setting.task)
    dev = splits["validation"]
    dev = dev[: len(dev) // 2] if half == "first" else dev[len(dev) // 2 :]
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{setting.task}-{setting.split}-{setting.examples}", f"{setting.task}-dev-{half}")
    paths = [folder / f"{name}.csv" for name in names]
    for path, rows in zip(paths, (splits[setting.split][: setting.examples], dev), strict=True):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return paths[0], paths[1]


def own_part(recipe: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The recipe's part for the setting's model type, without the arguments that the setting changes."""
    part = recipe["model_types"][setting.architecture]
    kept = {name: value for name, value in part.get("args", {}).items() if name not in setting.changes}
    return {**part, "args": kept}


def study_folder(output_dir: Path, name: str, part: str) -> Path:
    """The folder of a setting's study."""
    return output_dir / part / f"{name}-{settings_of(part)[name].rate:.1e}"


def settings_of(part: str) -> dict[str, Setting]:
    """The settings of part `choose` or `test`, or of the fresh test of `better_alarm.py`."""
    return {"choose": CHOICE, "fresh": FRESH}.get(part, SETTINGS)


def run_setting(output_dir: Path, name: str, part: str, seeds: Sequence[str], more: Sequence[str] = ()) -> Path:
    """Run seeds of a setting; the study's folder.

    Every tenth of training is evaluated, for the dev score's rows. Part `fresh` uses no dev score: only its end is evaluated."""
    setting, half = settings_of(part)[name], "first" if part == "choose" else "second"
    folder = study_folder(output_dir, name, part)
    train, dev = write_data(output_dir / "data", setting, half)
    recipe = yaml.safe_load((recipe_dir() / "devlin2019.yaml").read_text(encoding="utf-8"))
    recipe["args"] |= {"learning_rate": setting.rate, "num_train_epochs": setting.epochs}
    recipe["args"] |= setting.changes
    recipe["model_types"] = {setting.architecture: own_part(recipe, setting)}
    cadence = {"eval_strategy": "no"} if part == "fresh" else {"eval_strategy": "steps", "eval_steps": 0.1}
    recipe["args"] |= {**cadence, "per_device_eval_batch_size": 64}
    arm = output_dir / "arms" / f"{name}.yaml"
    arm.parent.mkdir(parents=True, exist_ok=True)
    arm.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    model = str(demo_model_path(setting.architecture))
    where = ["--model_name_or_path", model, "--train_file", str(train), "--validation_file", str(dev)]
    code = cli.main([*where, "--recipe", str(arm), "--seeds", *seeds, "--output_dir", str(folder), *more])
    if code:
        raise SystemExit(code)
    return folder


def choose(output_dir: Path, names: Sequence[str], more: Sequence[str]) -> None:
    """Part `choose`: run the choice seeds on the first half of the development set."""
    for name in [name for name in names if name in CHOICE]:
        run_setting(output_dir, name, "choose", CHOICE_SEEDS, more)


def test(output_dir: Path, names: Sequence[str], more: Sequence[str]) -> None:
    """Part `test`: run fresh seeds on the second half, batch by batch, until enough runs failed and enough did not.

    Runs that did not fail include healed and borderline ones."""
    for name in names:
        for number in range(0, MOST_RUNS, BATCH_OF_RUNS):
            first = FIRST_TEST_SEED + number
            seeds = (f"{first}-{first + BATCH_OF_RUNS - 1}",)
            folder = run_setting(output_dir, name, "test", seeds, more)
            failed = [kind_of(path) == "failed" for path in run_folders(folder)]
            if min(failed.count(True), failed.count(False)) >= ENOUGH:
                break


def run_folders(folder: Path) -> list[Path]:
    """The finished runs of a study, by seed."""
    return sorted(path.parent for path in folder.glob("runs/*/*/run.json"))


# ---- a run's kind, and its evidence at each check ----------------------------------------------------------------------


def kind_of(folder: Path) -> str:
    """The kind of a run: `failed`, `borderline`, `healed` or `ok`.

    A borderline run is ok, but its accuracy is within sampling noise of the majority-class baseline (McNemar). A healed run is
    ok, though its gradients had vanished for a tenth of training."""
    verdict = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    if verdict["status"] != "ok":
        return "failed"
    if verdict["evidence"].get("within_noise"):
        return "borderline"
    return "healed" if verdict["evidence"].get("gradients") else "ok"


def looks(folder: Path, setting: str) -> list[dict[str, Any]]:
    """A row per check of a run: its evidence and the alternatives at that step; larger is worse.

    The dev score is that of `dev_score_at`."""
    record = read_steps(folder / "steps.rec")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    total, warmup = record["info"]["max_steps"], record["info"]["warmup_steps"]
    about = {"setting": setting, "seed": run["seed"], "kind": kind_of(folder), "accuracy": run["accuracy"]}
    entropy = float(label_entropy(record["labels"].sum(0)))
    width = max(early_warning.MIN_WINDOW, math.ceil(early_warning.WINDOW * total))
    rows = []
    for fraction in np.arange(0.05, 1, 0.05).round(2):
        step = math.ceil(fraction * total - 1e-9)
        until = slice(0, step)
        found = early_warning.evidence(
            record["layer_norms"][until],
            record["loss"][until],
            record["logit_std"][until],
            record["labels"][until],
            record["layers"],
            total,
        )
        dev = dev_score_at(metrics["evaluations"], step)
        smoothed = record["loss"][max(0, step - math.ceil(0.1 * total)) : step].mean() / entropy
        rows.append(
            {
                **about,
                "fraction": fraction,
                "step": step,
                "checked": step in early_warning.check_steps(warmup, total),
                **{key: round(float(value), 5) for key, value in found.items()},
                "dev_score": "" if dev is None else -dev,
                "train_loss": round(float(smoothed), 5),
                "total_norm": round(-math.log(float(np.median(record["grad_norm"][step - width : step]))), 5),
            }
        )
    return rows


def dev_score_at(evaluations: Sequence[Mapping[str, Any]], step: int) -> float | None:
    """The accuracy of the evaluation nearest a step and at most `LATE` steps after it; `None` before the first evaluation.

    With `eval_steps` 0.1 the Trainer evaluates every ceil(total / 10) steps. With 375 steps that is after 38, 76, 114, 152 and
    190, while the checks at 10 to 50% are after 38, 75, 113, 150 and 188. From 60% on the evaluation is up to 4 steps late, so
    the one before counts. The tables end at 50%, and nothing is fitted on dev scores."""
    there = [e for e in evaluations if e["step"] <= step + LATE]
    return min(there, key=lambda e: abs(e["step"] - step))["eval_accuracy"] if there else None


def collect(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """`looks` of all runs in the settings' studies."""
    return [row for name, folder in folders.items() for path in run_folders(folder) for row in looks(path, name)]


# ---- unbalanced classes ----------------------------------------------------------------------------------------------


def form_of(sentence: grammar.Sentence) -> str:
    """`property` (is red), `reflexive` (praises himself), `transitive` or `intransitive`."""
    if sentence.predicate.verb.lemma == "be":
        return "property"
    if sentence.predicate.is_reflexive:
        return "reflexive"
    return "transitive" if sentence.predicate.object else "intransitive"


def draw_sentences(setting: Unbalanced) -> dict[str, list[tuple[str, int]]]:
    """Texts and labels: both halves of the development set (`first`, `second`; 500 each), and `train`. No text occurs twice."""
    rng = random.Random(f"early detection, {setting.classes}, {setting.shares}")
    class_of, seen = SENTENCE_CLASSES[setting.classes], set()
    splits: dict[str, list[tuple[str, int]]] = {}
    for split, size in (("first", 500), ("second", 500), ("train", EXAMPLES)):
        rows = splits[split] = []
        while len(rows) < size:
            label = rng.choices(range(len(setting.shares)), setting.shares)[0]
            text = None
            while text is None or text in seen:
                sentence = grammar.draw_sentence(rng)
                text = grammar.text(sentence) if class_of(sentence) == label else None
            seen.add(text)
            rows.append((text, label))
    return splits


def run_unbalanced(output_dir: Path, part: str, names: Sequence[str], minutes: float, most: int) -> None:
    """Run each setting in turn, in this process, until each has `most` runs or the time is over. Keep finished runs.

    The clock is read before each turn of all settings."""
    end = time.monotonic() + 60 * minutes
    for seed in range(UNBALANCED_SEEDS[part], UNBALANCED_SEEDS[part] + most):
        for name in names if time.monotonic() < end else ():
            folder = output_dir / part / name / f"{seed}"
            if not (folder / "run.json").is_file():
                train_unbalanced(folder, UNBALANCED[name], seed, "first" if part.startswith("choose") else "second")


def train_unbalanced(folder: Path, setting: Unbalanced, seed: int, half: str) -> None:
    """Train one run; it leaves `steps.rec` and `run.json` in its folder."""
    import torch
    from sklearn.metrics import matthews_corrcoef
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        logging,
    )

    from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    model, splits = demo_model_path("bert"), draw_sentences(setting)
    tokenizer = AutoTokenizer.from_pretrained(model)
    train, dev = ([{**tokenizer(text), "label": label} for text, label in splits[name]] for name in ("train", half))
    recipe = yaml.safe_load((recipe_dir() / "devlin2019.yaml").read_text(encoding="utf-8"))
    args = recipe["args"] | {"learning_rate": setting.rate, "num_train_epochs": EPOCHS, "seed": seed}
    args["bias_correction"] = setting.bias_correction
    args["adam_epsilon"] = float(args["adam_epsilon"])  # YAML reads 1e-6 as a string
    args |= {"output_dir": str(folder), "report_to": "none", "save_strategy": "no", "logging_strategy": "no"}
    args |= {"use_cpu": True, "disable_tqdm": True, "log_level": "error", "remove_unused_columns": False}
    size = {"num_labels": len(setting.shares), "num_hidden_layers": LAYERS, **recipe["model_config"]}
    trainer = StableTrainer(
        model_init=lambda: AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32, **size),
        args=StableTrainingArguments(**args),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train,
        eval_dataset=dev,
        callbacks=[StabilityCallback(output_dir=folder, tensorboard=False, heat_map=False, on_alarm="none")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    found = trainer.predict(dev)
    predicted = found.predictions.argmax(-1)
    run = {
        "seed": seed,
        "matthews": round(float(matthews_corrcoef(found.label_ids, predicted)), 4),
        "accuracy": float((predicted == found.label_ids).mean()),
        "finite": bool(np.isfinite(found.predictions).all()),
    }
    (folder / "run.json").write_text(json.dumps(run) + "\n", encoding="utf-8")
    print(folder, run, flush=True)


def outcome_of(run: Mapping[str, Any]) -> str:
    """`failed`, `sound`, or `between`, by the Matthews correlation at the end of training."""
    if not run["finite"] or run["matthews"] <= NOT_LEARNED:
        return "failed"
    return "sound" if run["matthews"] >= LEARNED else "between"


def unbalanced_looks(folder: Path, setting: str) -> list[dict[str, Any]]:
    """A row per check of a run: the evidence, and the loss over the entropy, which the rule before used."""
    record = read_steps(folder / "steps.rec")
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    total, warmup = record["info"]["max_steps"], record["info"]["warmup_steps"]
    about = {"setting": setting, "seed": run["seed"], "kind": outcome_of(run), "matthews": run["matthews"]}
    rows = []
    for step in early_warning.check_steps(warmup, total):
        parts = (record[name][:step] for name in ("layer_norms", "loss", "logit_std", "labels"))
        found = early_warning.evidence(*parts, record["layers"], total)
        width = max(early_warning.MIN_WINDOW, math.ceil(early_warning.LOSS_WINDOW * total))
        before = record["loss"][:step][-width:].mean() / label_entropy(record["labels"][:step].sum(0))
        values = {key: round(float(value), 5) for key, value in found.items()}
        rows.append(
            {
                **about,
                "fraction": round(step / total, 3),
                "step": step,
                **values,
                "loss_before": round(float(before), 5),
            }
        )
    return rows


def unbalanced_table(rows: list[dict[str, Any]]) -> list[str]:
    """By setting, the runs that raised an alarm at any check, by the rule before and the rule now."""
    kinds, rules = ("sound", "between", "failed"), ("before", "now")
    header = ["setting", "runs", *(f"{kind}: {rule}" for kind in kinds for rule in rules)]
    body = []
    names = [name for name in UNBALANCED if any(row["setting"] == name for row in rows)]
    for label, members in [*((name, [name]) for name in names), ("all", names)]:
        own = [row for row in rows if row["setting"] in members]
        cells = [label, str(len({(row["setting"], row["seed"]) for row in own}))]
        for kind in kinds:
            for rule in rules:
                alarmed = [step is not None for step in first_alarms(own, kind, rule).values()]
                cells.append(share(sum(alarmed), len(alarmed)))
        body.append(cells)
    return table(header, body)


def first_alarms(rows: list[dict[str, Any]], kind: str, rule: str) -> dict[tuple, float | None]:
    """By setting and seed, the share of training at the run's first alarm; None without an alarm."""
    found: dict[tuple, float | None] = {}
    for row in rows:
        if row["kind"] != kind:
            continue
        run = row["setting"], row["seed"]
        loss = row["loss_before"] if rule == "before" else row["loss"]
        raised = risk_of({**row, "loss": loss}) >= THRESHOLD
        found[run] = row["fraction"] if found.get(run) is None and raised else found.get(run)
    return found


def unbalanced_section(rows: list[dict[str, Any]]) -> list[str]:
    """The part of results.md on unbalanced classes."""
    when = [
        [f"{kind} runs, {rule}", str(len(steps)), f"{np.median(steps):.0%}" if steps else "-"]
        for kind in ("sound", "failed")
        for rule in ("before", "now")
        for steps in [[step for step in first_alarms(rows, kind, rule).values() if step is not None]]
    ]
    sound = {name: first_alarms([r for r in rows if r["setting"] == name], "sound", "now") for name in UNBALANCED}
    alarmed = {name: sum(step is not None for step in steps.values()) for name, steps in sound.items()}
    worst = max((name for name in sound if sound[name]), key=lambda name: alarmed[name] / len(sound[name]))
    return [
        "## Unbalanced classes, and more than two",
        "",
        "The table counts runs that raised an alarm at any check; `stop` would have ended exactly these.",
        "",
        "- before: the rule before, with the loss over the label entropy from the first check on.",
        "- now: the equation in early_warning.py. Both rules use the same records, weights and threshold.",
        f"- sound: Matthews correlation at least {LEARNED}; failed: at most {NOT_LEARNED} (PROTOCOL.md).",
        "",
        *unbalanced_table(rows),
        "",
        f"The worst setting is `{worst}`: {alarmed[worst]} of {len(sound[worst])} sound runs still raise an alarm. They learn the rare",
        "class after the first check, at half of training, and until then look like failing runs.",
        "",
        *table(["first alarm", "alarmed", "median share of training"], when),
    ]


# ---- fitting ---------------------------------------------------------------------------------------------------------

FIT_FRACTIONS = (0.2, 0.5)
"""The weights are fitted on the checks between these shares of training."""
EVIDENCE = {
    "risk": ("level", "trend", "spread", "loss"),
    "without gradients": ("spread", "loss"),
    "gradients alone": ("level", "trend"),
}
"""The early warning and its parts -> the evidence that each uses."""


def fit_weights(rows: list[dict[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Weights of a logistic regression (L2, C = 1, standardised evidence) of failed against ok runs.

    It uses all checks in `FIT_FRACTIONS`. The failed and the ok runs of each setting have the same total weight. The result is
    in units of the evidence itself, with two decimals."""
    from sklearn.linear_model import LogisticRegression

    used = [r for r in rows if r["kind"] in ("failed", "ok") and FIT_FRACTIONS[0] <= r["fraction"] <= FIT_FRACTIONS[1]]
    x = np.array([[r[name] for name in names] for r in used], float)
    failed = np.array([r["kind"] == "failed" for r in used])
    groups = [(r["setting"], r["kind"]) for r in used]
    weight = np.array([1 / groups.count(group) for group in groups])
    mean, std = x.mean(0), x.std(0)
    fitted = LogisticRegression(C=1.0).fit((x - mean) / std, failed, sample_weight=weight * len(used) / weight.sum())
    weights = fitted.coef_[0] / std
    bias = round(float(fitted.intercept_[0] - weights @ mean), 2)
    return {"bias": bias, **dict(zip(names, weights.round(2).tolist(), strict=True))}


def fit_threshold(rows: list[dict[str, Any]], weights: dict[str, float], false_alarms: float = 0.1) -> float:
    """The threshold, in thousandths: just above a high quantile of the ok runs' highest risks by half of training.

    The quantile is taken per setting, and the highest one counts. For n ok runs it is the risk at place
    ceil((1 - false_alarms) (n - 1)), counted from 0. So at most floor(false_alarms (n - 1)) of them raise an alarm. That is at
    most the share, and one run fewer where false_alarms n is whole: at 0.1, none of 10 ok runs and one of 11."""
    highest: dict[str, dict[int, float]] = {}
    for row in rows:
        if row["kind"] == "ok" and row["checked"] and row["fraction"] <= 0.5:
            own = highest.setdefault(row["setting"], {})
            own[row["seed"]] = max(own.get(row["seed"], 0.0), risk_of(row, weights))
    at_least = max(np.quantile(list(own.values()), 1 - false_alarms, method="higher") for own in highest.values())
    return math.floor(1000 * at_least + 1) / 1000  # above the risk of that run


def risk_of(row: dict[str, Any], weights: dict[str, float] | None = None) -> float:
    """The risk of a row; default: with the weights of fit.json."""
    weights = WEIGHTS if weights is None else weights
    return float(early_warning.risk({name: float(row[name]) for name in weights if name != "bias"}, weights))


def fit(output_dir: Path) -> None:
    """Part `fit`: print the weights and the threshold for early_warning.py, and write them to fit.json."""
    rows = collect({name: study_folder(output_dir, name, "choose") for name in CHOICE})
    found = {label: fit_weights(rows, evidence) for label, evidence in EVIDENCE.items()}
    runs = {(r["setting"], r["seed"]): r["kind"] for r in rows}
    counts = {n: {k: sum(s == n and kind == k for (s, _), kind in runs.items()) for k in KINDS} for n in CHOICE}
    content = {"runs": counts, "weights": found, "threshold": fit_threshold(rows, found["risk"])}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "fit.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))


# ---- the report ------------------------------------------------------------------------------------------------------

KINDS = ("failed", "ok", "healed", "borderline")
ALTERNATIVES = {
    "dev score (Dodge et al. 2020)": "dev_score",
    "smoothed train loss / entropy": "train_loss",
    "total gradient norm": "total_norm",
}


def auc(failed: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Probability that a failed run has a larger value than an ok run; ties count half.

    Shapes: `(..., m)` and `(..., n)` -> `(...)`."""
    difference = failed[..., :, None] - ok[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-2, -1))


def bootstrap(values: np.ndarray, failed: np.ndarray, seed: int = 0) -> np.ndarray:
    """AUCs of several scores on resampled runs: `(scores, N_BOOT)`.

    Failed and ok runs are drawn separately. All scores have the same draws.

    Args:
        values: `(scores, runs)`.
        failed: `(runs,)`, bool.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    bad, good = values[:, failed], values[:, ~failed]
    wins = (bad[:, :, None] > good[:, None, :]) + 0.5 * (bad[:, :, None] == good[:, None, :])  # (scores, m, n)
    m, n = wins.shape[1:]
    drawn_bad = rng.multinomial(m, np.full(m, 1 / m), N_BOOT) / m
    drawn_good = rng.multinomial(n, np.full(n, 1 / n), N_BOOT) / n
    return np.stack([((drawn_bad @ own) * drawn_good).sum(-1) for own in wins])


def precision_at(prevalence: float, hits: int, failed: int, false: int, ok: int, seed: int = 0) -> tuple[float, ...]:
    """Precision at a prevalence: estimate and 95% limits.

    It follows from two shares: the failed runs with an alarm (`hits` of `failed`) and the ok runs with one (`false` of `ok`).
    Both are drawn from their Jeffreys posteriors (Beta(k + 1/2, n - k + 1/2))."""
    rng = np.random.default_rng(seed)
    recall = rng.beta(hits + 0.5, failed - hits + 0.5, N_BOOT)
    false_rate = rng.beta(false + 0.5, ok - false + 0.5, N_BOOT)
    drawn = prevalence * recall / (prevalence * recall + (1 - prevalence) * false_rate)
    alarmed = prevalence * hits / failed + (1 - prevalence) * false / ok
    estimate = prevalence * hits / failed / alarmed if alarmed else math.nan
    return (estimate, *np.quantile(drawn, [0.025, 0.975]).tolist())


def read_rows(name: str = "runs.csv") -> list[dict[str, Any]]:
    """The committed rows of a test's runs."""
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    words = ("setting", "kind", "checked")
    return [
        {k: (v if k in words else float(v) if v != "" else math.nan) for k, v in row.items()}
        | {"checked": row.get("checked", "True") == "True"}
        for row in rows
    ]


def write_rows(rows: list[dict[str, Any]], name: str = "runs.csv") -> None:
    """Write the rows."""
    with open(RESULTS / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def at(rows: list[dict[str, Any]], fraction: float) -> list[dict[str, Any]]:
    """The rows at a fraction of training, one per run."""
    return [row for row in rows if math.isclose(row["fraction"], fraction)]


def alarmed_by(rows: list[dict[str, Any]], fraction: float, threshold: float) -> dict[float, bool]:
    """By seed, whether the run raised an alarm at any check up to a fraction of training."""
    alarmed: dict[float, bool] = {}
    for row in rows:
        raised = row["checked"] and row["fraction"] <= fraction + 1e-9 and risk_of(row) >= threshold
        alarmed[row["seed"]] = alarmed.get(row["seed"], False) or raised
    return alarmed


def scores(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Each score's values over runs: the early warning, its parts, the alternatives."""
    fitted = json.loads((RESULTS / "fit.json").read_text(encoding="utf-8"))["weights"]
    ours = {
        name: np.array([risk_of(r, WEIGHTS if name == "risk" else fitted[name]) for r in rows]) for name in EVIDENCE
    }
    theirs = {name: np.array([r[key] for r in rows], float) for name, key in ALTERNATIVES.items()}
    return ours | {name: np.nan_to_num(values, nan=0.0) for name, values in theirs.items()}  # no evaluation yet


def auc_tables(rows: list[dict[str, Any]], setting: str) -> list[str]:
    """AUC of each score at each fraction, and the early warning's AUC minus that of each other score."""
    header = ["AUC (95% interval)", *(f"{fraction:.0%}" for fraction in FRACTIONS)]
    all_as_ok = "risk, healed and borderline runs counted as ok"
    lines: dict[str, list[str]] = {}
    for fraction in FRACTIONS:
        everybody = at([r for r in rows if r["setting"] == setting], fraction)
        now = [r for r in everybody if r["kind"] in ("failed", "ok")]
        failed, values = which_failed(now), scores(now)
        stacked = np.stack(list(values.values()))
        drawn = bootstrap(stacked, failed)
        for name, value, draws in zip(values, stacked, drawn, strict=True):
            lines.setdefault(name, []).append(estimate(auc(value[failed], value[~failed]), draws, ".3f"))
            if name != "risk":
                above = auc(stacked[0][failed], stacked[0][~failed]) - auc(value[failed], value[~failed])
                lines.setdefault(f"risk above {name}", []).append(estimate(above, drawn[0] - draws, "+.3f"))
        failed, value = which_failed(everybody), scores(everybody)["risk"]
        draws = bootstrap(value[None], failed)[0]
        lines.setdefault(all_as_ok, []).append(estimate(auc(value[failed], value[~failed]), draws, ".3f"))
    order = sorted(lines, key=lambda name: (name.startswith("risk above"), name == all_as_ok))
    return table(header, [[name, *lines[name]] for name in order])


def which_failed(rows: list[dict[str, Any]]) -> np.ndarray:
    """`(rows,)`, bool."""
    return np.array([row["kind"] == "failed" for row in rows])


def estimate(value: float, draws: np.ndarray, form: str) -> str:
    """A number with its 95% interval, the percentiles of its bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def alarm_table(rows: list[dict[str, Any]], setting: str, threshold: float) -> list[str]:
    """Recall, false alarms and precision of the alarm; healed and borderline runs have their own columns."""
    header = ["alarm raised by", "recall", "precision", "ok runs alarmed", "healed", "borderline"]
    header += [f"precision if {p:.0%} fail" for p in PREVALENCES]
    body = []
    for fraction in FRACTIONS:
        hit = alarmed_of_kind(rows, setting, fraction, threshold)
        hits, false = sum(hit["failed"]), sum(hit["ok"])
        cells = [f"{fraction:.0%}", share(hits, len(hit["failed"])), share(hits, hits + false)]
        cells += [share(sum(hit[kind]), len(hit[kind])) for kind in ("ok", "healed", "borderline")]
        body.append([*cells, *precisions(hits, len(hit["failed"]), false, len(hit["ok"]))])
    return table(header, body)


def alarm_table_in_use(rows: list[dict[str, Any]], setting: str, threshold: float) -> list[str]:
    """Precision of the same alarm with all runs that did not fail as negatives. Users meet this one: they do not know the
    kind of an alarmed run."""
    header = ["alarm raised by", "runs that did not fail, alarmed", "precision, all of these as negatives"]
    header += [f"precision if {p:.0%} fail" for p in PREVALENCES]
    body = []
    for fraction in FRACTIONS:
        hit = alarmed_of_kind(rows, setting, fraction, threshold)
        others = [alarmed for kind in KINDS if kind != "failed" for alarmed in hit[kind]]
        hits, false = sum(hit["failed"]), sum(others)
        cells = [f"{fraction:.0%}", share(false, len(others)), share(hits, hits + false)]
        body.append([*cells, *precisions(hits, len(hit["failed"]), false, len(others))])
    return table(header, body)


def alarmed_of_kind(
    rows: list[dict[str, Any]], setting: str, fraction: float, threshold: float
) -> dict[str, list[bool]]:
    """By kind, whether each run of a setting raised an alarm by a fraction of training."""
    own = [r for r in rows if r["setting"] == setting]
    kinds, alarmed = {r["seed"]: r["kind"] for r in own}, alarmed_by(own, fraction, threshold)
    return {kind: [alarmed[seed] for seed in kinds if kinds[seed] == kind] for kind in KINDS}


def precisions(hits: int, failed: int, false: int, others: int) -> list[str]:
    """Cells: `precision_at` for each prevalence."""
    found = [precision_at(p, hits, failed, false, others) for p in PREVALENCES]
    return ["{:.2f} ({:.2f}-{:.2f})".format(*p) if hits + false else "-" for p in found]


def goals(rows: list[dict[str, Any]], setting: str, threshold: float) -> list[str]:
    """A row on the two goals: met or not shown."""
    own = [r for r in rows if r["setting"] == setting and r["kind"] in ("failed", "ok")]
    now = at(own, 0.3)
    failed = which_failed(now)
    low_auc = float(np.quantile(bootstrap(scores(now)["risk"][None], failed)[0], 0.025))
    alarmed = alarmed_by(own, 0.4, threshold)
    kinds = {r["seed"]: r["kind"] for r in own}
    hits = sum(alarmed[s] for s in kinds if kinds[s] == "failed")
    false = sum(alarmed[s] for s in kinds if kinds[s] == "ok")
    number = sum(kind == "failed" for kind in kinds.values())
    low_precision = float(wilson_interval(hits, hits + false)[0]) if hits + false else 0.0
    low_recall = float(wilson_interval(hits, number)[0])
    return [
        setting,
        f"{low_auc:.3f}: {'met' if low_auc >= 0.95 else 'not shown'}",
        f"{low_precision:.3f}, {low_recall:.3f}: {'met' if low_precision >= 0.9 and low_recall >= 0.8 else 'not shown'}",
    ]


def draw_alarms(rows: list[dict[str, Any]], threshold: float) -> None:
    """Draw alarms.png: per setting, the share of failed and of other runs with an alarm, by share of training."""
    from matplotlib.figure import Figure

    fractions = sorted({row["fraction"] for row in rows})
    with own_style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for ax, (name, title) in zip(figure.subplots(1, 3, sharey=True), TITLES.items(), strict=True):
            alarmed = [alarmed_of_kind(rows, name, fraction, threshold) for fraction in fractions]
            for label, kinds, color, style in (
                ("failed", KINDS[:1], FAILED, "-"), ("did not fail", KINDS[1:], OK, "--"),
            ):  # fmt: skip
                known = [[one for kind in kinds for one in found[kind]] for found in alarmed]
                counts = np.array([sum(own) for own in known])
                low, high = wilson_interval(counts, len(known[0]))
                ax.plot(fractions, counts / len(known[0]), style, color=color, label=f"{label} (n = {len(known[0])})")
                ax.fill_between(fractions, low, high, color=color, alpha=0.15, linewidth=0)
            ax.set(title=title, xlabel="share of training", xlim=(0, 1), ylim=(-0.02, 1.02))
            ax.legend(loc="center right", bbox_to_anchor=(1, 0.615), frameon=False, fontsize=8.5, borderaxespad=0)
        figure.axes[0].set_ylabel("share of runs with an alarm")
        figure.savefig(RESULTS / "alarms.png", dpi=100, facecolor="white", metadata={"Software": None})


def report(output_dir: Path) -> None:
    """Part `report`: write runs.csv and unbalanced.csv if the runs are there; then results.md and alarms.png from these two."""
    folders = {name: study_folder(output_dir, name, "test") for name in SETTINGS}
    if all(folder.is_dir() for folder in folders.values()):
        write_rows(collect(folders))
    done = [
        (name, path.parent)
        for name in UNBALANCED
        for path in sorted((output_dir / "test_unbalanced" / name).glob("*/run.json"))
    ]
    looked = [row for name, folder in done for row in unbalanced_looks(folder, name)]
    if looked:
        write_rows(looked, "unbalanced.csv")
    rows, threshold = read_rows(), THRESHOLD
    draw_alarms(rows, threshold)
    text = [
        "# Early detection: the tables",
        "",
        "`python benchmarks/early_detection.py report` made this page from runs.csv. Intervals are 95%. The threshold is",
        f"{threshold:.3f}. The dev score is that of the evaluation nearest the check, at most {LATE} steps later (PROTOCOL.md, Erratum).",
        "",
        *table(
            ["setting", "runs", *KINDS, "in the fit"],
            [
                [
                    name,
                    *map(str, counts(rows, name)),
                    "its choice runs" if name in CHOICE else "no: a held-out architecture",
                ]
                for name in SETTINGS
            ],
        ),
        "",
        "Goals for the lower 95% limits: AUC 0.95 at 30%; precision 0.9 and recall 0.8 at 40%.",
        "",
        *table(
            ["setting", "AUC at 30%", "precision, recall at 40%"], [goals(rows, name, threshold) for name in SETTINGS]
        ),
    ]
    for name, setting in SETTINGS.items():
        text += [
            "",
            f"## {name}: {setting.task}, {setting.examples} examples, {setting.epochs} epochs, {setting.rate}",
        ]
        text += [
            "",
            "Failed against ok runs. The AUC leaves healed and borderline runs out, except in the row that says so.",
            "",
        ]
        text += [*auc_tables(rows, name), "", *alarm_table(rows, name, threshold), ""]
        text += [
            "The same alarm as users meet it: all runs that did not fail are negatives. This is not in the protocol.",
            "",
        ]
        text += alarm_table_in_use(rows, name, threshold)
    if (RESULTS / "unbalanced.csv").is_file():
        text += ["", *unbalanced_section(read_rows("unbalanced.csv"))]
    (RESULTS / "results.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


def counts(rows: list[dict[str, Any]], setting: str) -> list[int]:
    """The number of runs, then of each kind."""
    kinds = [r["kind"] for r in at(rows, 0.5) if r["setting"] == setting]
    return [len(kinds), *(kinds.count(kind) for kind in KINDS)]


def share(part: int, whole: int) -> str:
    """`47/50 = 0.94 (0.84-0.98)`, with Wilson's interval."""
    if not whole:
        return "-"
    low, high = wilson_interval(part, whole)
    return f"{part}/{whole} = {part / whole:.2f} ({float(low):.2f}-{float(high):.2f})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, ["---"] * len(header), *rows)]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["choose", "fit", "test", *UNBALANCED_SEEDS, "report"])
    parser.add_argument(
        "--output_dir", type=Path, default=Path("results/early_detection"), help="folder of the studies"
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=[*SETTINGS, *UNBALANCED],
        help="only these settings (choose, test and the parts of unbalanced classes)",
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no new turn after this many minutes (unbalanced)"
    )
    parser.add_argument("--most", type=int, default=MOST_SEEDS, help="seeds per setting (unbalanced)")
    parser.add_argument("--workers", default=None, help="runs at a time; default: one per core")
    arguments = parser.parse_args()
    more = ["--workers", arguments.workers] if arguments.workers else []
    all_names = UNBALANCED if arguments.part in UNBALANCED_SEEDS else settings_of(arguments.part)
    names = arguments.settings or list(all_names)

    def unbalanced() -> None:
        run_unbalanced(arguments.output_dir, arguments.part, names, arguments.minutes, arguments.most)

    parts: dict[str, Callable[[], None]] = {
        "choose": lambda: choose(arguments.output_dir, names, more),
        "fit": lambda: fit(arguments.output_dir),
        "test": lambda: test(arguments.output_dir, names, more),
        **dict.fromkeys(UNBALANCED_SEEDS, unbalanced),
        "report": lambda: report(arguments.output_dir),
    }
    parts[arguments.part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
