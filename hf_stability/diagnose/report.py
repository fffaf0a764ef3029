"""`diagnose`: all checks on one run, the likeliest causes first, with remedies; and the checks that could not look."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from transformers import Trainer

from ..statistics import wilson_interval
from ..study.run import quiet
from ..utils.files import finite
from ..utils.text import share_text
from .causes import run_checks
from .environment import environment
from .files import Run
from .finding import BUGS, LIKELIHOODS, Finding
from .inputs import MAX_SEQ_LENGTH, Inputs, Named, load_inputs
from .live import live_inputs, read_trainer
from .memorize import try_memorize
from .model_card import card_values, read_path
from .model_values import adapter_values
from .rate_words import STABLE_RECIPE
from .rescue_command import rescue_command
from .run_verdict import alarm_of, judge_run, status_and_sentence
from .training import training_values


SCHEMA = "hf_stability.diagnosis/1"

PUBLIC_TEXT = ("dtype", "precision", "schema", "where")
"""Figures with text of a closed set, such as `torch.float32`."""


@dataclass(frozen=True)
class Report:
    """The findings on one run.

    Args:
        source: the path or the Trainer, and the files that were read.
        status: the verdict's status; None without a verdict, or for an unfinished run.
        sentence: the verdict in words.
        failed_share: `(0 or 1, low, high)`: this run's failed share with its 95% Wilson interval. None without a verdict.
        findings: the findings, the likeliest first.
        not_looked_at: check -> what it needs to look.
        next_steps: sentences on what to do now.
        rescue: the command that reruns this run's settings and up to three remedies.
        versions: the versions installed here, the platform and the accelerator.
        run_versions: the versions that the run was made with; empty if they are unknown.
        schema: `hf_stability.diagnosis/` and the version of the format.
    """

    source: str
    status: str | None
    sentence: str
    failed_share: tuple[float, float, float] | None
    findings: list[Finding]
    not_looked_at: dict[str, str]
    next_steps: list[str]
    rescue: str
    versions: dict[str, str] = field(default_factory=environment)
    run_versions: dict[str, str] = field(default_factory=dict)
    schema: str = SCHEMA

    def to_dict(self, figures_only: bool = False) -> dict[str, Any]:
        """Plain values for JSON.

        The whole report has paths, class names and names of weights. An error that it quotes may have a value of your
        data.

        Args:
            figures_only: leave all of this out. Numbers, versions, and the names of checks and faults remain; a list of
                names becomes its length.
        """
        if not figures_only:
            return finite(_plain(asdict(self)))
        findings = [
            {
                "name": finding.name,
                "likelihood": finding.likelihood,
                "faults": finding.faults,
                "figures": _without_text(finding.figures),
            }
            for finding in self.findings
        ]
        return finite(
            _plain(
                {
                    "schema": self.schema,
                    "versions": self.versions,
                    "run_versions": {key: self.run_versions[key] for key in environment() if key in self.run_versions},
                    "status": self.status,
                    "failed_share": self.failed_share,
                    "findings": findings,
                    "not_looked_at": list(self.not_looked_at),
                }
            )
        )

    def to_text(self, width: int = 100) -> str:
        """The report as the command prints it. Lines have at most `width` characters, except for the command at the end."""

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
            lines += ["", "could not be checked without"]
            lines += [wrapped(f"{name}: {needs}", "  - ", "    ") for name, needs in self.not_looked_at.items()]
        lines += ["", "next"] + [wrapped(step, "  - ", "    ") for step in self.next_steps]
        lines += [
            "  - Compare these settings with up to three remedies, 3 seeds each:",
            f"    {self.rescue}",
        ]  # one line, to copy
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Numpy values as plain Python ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _without_text(value: Any) -> Any:
    """Figures without names: text becomes None, and a list of text, or names with their text, become their number."""
    if isinstance(value, Mapping):
        if value and all(isinstance(item, str) for item in value.values()) and not set(value) & set(PUBLIC_TEXT):
            return len(value)
        return {key: item if key in PUBLIC_TEXT else _without_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return len(value) if any(isinstance(item, str) for item in value) else [_without_text(item) for item in value]
    return None if isinstance(value, str) else value


def share_sentence(share: tuple[float, float, float]) -> str:
    """The failed share of the settings, as far as one run tells."""
    failed, low, high = share
    interval = f"{share_text(low)}-{share_text(high)} (95% interval)"
    text = f"{failed:.0f} of 1 run failed, so the failed share of these settings is {interval}."
    if not failed:
        return f"{text} One run cannot show that they are stable."
    return f"{text} One run cannot tell settings that always fail from settings that fail one time in five."


def diagnose(
    source: str | os.PathLike | Trainer,
    *,
    model_name_or_path: str | None = None,
    tokenizer_name: str | None = None,
    task_name: str | None = None,
    data_dir: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    text_column_names: Sequence[str] | None = None,
    label_column_name: str | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    train_split_name: str | None = None,
    validation_split_name: str | None = None,
    max_seq_length: int = MAX_SEQ_LENGTH,
    dtype: str | None = None,
    training: Mapping[str, Any] | None = None,
    memorize: bool = False,
    memorize_rate: float | None = None,
    show: bool = False,
) -> Report:
    """Check one run for every known cause of failure. It writes nothing, and does not change a live Trainer.

    ```python
    print(diagnose(trainer, memorize=True).to_text())
    ```

    Args:
        source: a `trainer_state.json`, a `steps.rec`, a checkpoint, an output folder, a run's folder in a study, a live
            Trainer, or a model card: a README.md with the Trainer's table, or a model's name on the hub.
        model_name_or_path: the PRETRAINED model, not the fine-tuned one.
        tokenizer_name: its tokenizer. Default: the model's.
        task_name: a GLUE task or a demo task, as the study command takes it.
        data_dir: folder of GLUE's files.
        train_file: your own training data (.csv, .tsv, .json, .jsonl, .parquet), instead of a task.
        validation_file: its development set.
        text_column_names: the data's columns of text, one or two.
        label_column_name: the data's column of labels.
        dataset_name: data that `datasets` reads, instead of a task or files: a name on the hub, or a local folder.
        dataset_config_name: its configuration, if it has several.
        train_split_name: its split of training data. Default: `train`.
        validation_split_name: its development set. Default: `validation`.
        max_seq_length: tokens; longer examples are truncated.
        dtype: the precision in which the run loaded the weights: "float32", "bfloat16", "float16", or "auto" (as they
            were saved). Default: that of the study's run, else "auto", as transformers loads them.
        training: training arguments that the files lack. They replace the files' arguments, but not the rates and the
            warmup in a record.
        memorize: whether to train on 32 examples, to tell a bug from instability.
        memorize_rate: the learning rate for this. Default: 5e-5 x 768 / the model's units.
        show: whether to show its progress bar.

    Returns:
        The report. `to_text()` is what the command prints, `to_dict()` what `--json` writes.

    Raises:
        InputError: there is no run, or something that you named cannot be loaded.
    """
    named = Named(
        model_name_or_path=model_name_or_path,
        tokenizer_name=tokenizer_name,
        task_name=task_name,
        data_dir=data_dir,
        train_file=train_file,
        validation_file=validation_file,
        text_column_names=text_column_names,
        label_column_name=label_column_name,
        dataset_name=dataset_name,
        dataset_config_name=dataset_config_name,
        train_split_name=train_split_name,
        validation_split_name=validation_split_name,
        max_seq_length=max_seq_length,
        dtype=dtype,
    )
    run = read_trainer(source) if isinstance(source, Trainer) else read_path(source)
    run.args |= training or {}
    run.certain |= set(training or ())
    with quiet():
        inputs = _inputs_of(source, run, named)
        values = {**inputs.values, **training_values(run), **card_values(run)}
        if run.adapter:
            values |= adapter_values(run.adapter, values.get("missing_weights"), values.get("base_prefix", ""))
        recorded = (run.record or {}).get("info", {}).get("trained") or {}
        if not values.get("adapters"):
            values["adapters"] = recorded.get("adapters")
        needs = inputs.no_memorize
        if memorize:
            values["memorized"], needs = try_memorize(inputs, memorize_rate, show)
        elif inputs.can_memorize:
            needs = "--memorize (it trains on 32 of the examples)"
    verdict = judge_run(run, values)
    status, sentence = status_and_sentence(run, verdict, values)
    values["alarm"] = alarm_of(run, verdict)
    if verdict is not None:
        values |= {"status": status, "evidence": verdict.evidence}
    findings, missing = run_checks(values)
    if "memorize" in missing and needs:
        missing["memorize"] = needs
    if values["adapters"]:  # the packaged recipes of our comparison train the whole model
        findings = [replace(each, recipe="") if STABLE_RECIPE in each.recipe else each for each in findings]
    findings = sorted([*inputs.findings, *findings], key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    for finding in inputs.findings:
        missing.pop(finding.name, None)
    known_length = values.get("max_seq_length")  # that of a study's run
    length = max_seq_length if known_length is None else known_length
    whole = bool(values["adapters"]) and not run.args.get("lora_r")  # the rescue trains the whole model
    if whole:
        run.args.pop("learning_rate", None)  # too high for that
    return Report(
        source=run.source,
        status=status,
        sentence=sentence,
        failed_share=_failed_share(status),
        findings=findings,
        not_looked_at=missing,
        next_steps=_next_steps(findings, missing, status, whole),
        rescue=rescue_command(run, named, length),
        run_versions=run.versions,
    )


def _inputs_of(source: str | os.PathLike | Trainer, run: Run, named: Named) -> Inputs:
    """Data and model: from a live Trainer, with what the user names on top; else from `load_inputs`."""
    if not isinstance(source, Trainer):
        return load_inputs(run, named)
    inputs = live_inputs(source)
    if named:
        more = load_inputs(run, named)
        inputs.values |= more.values
        inputs.findings += more.findings
    return inputs


def _failed_share(status: str | None) -> tuple[float, float, float] | None:
    """The failed share of this one run, with its 95% interval; None if its status leaves it open."""
    if status not in ("ok", "failed", "diverged"):
        return None
    failed = int(status != "ok")
    low, high = wilson_interval(failed, 1)
    return float(failed), float(low), float(high)


def _next_steps(
    findings: list[Finding], missing: Mapping[str, str], status: str | None, adapters: bool = False
) -> list[str]:
    bugs = [f.name for f in findings if f.name in BUGS and f.likelihood == "likely"]
    steps = []
    if status == "ok":
        steps.append("This run did not fail. The findings above could make another run fail.")
    if bugs:
        steps.append(f"Fix first: {', '.join(dict.fromkeys(bugs))}. No recipe helps a run with a bug.")
    elif "--memorize" in missing.get("memorize", ""):
        steps.append("Is it a bug or instability? --memorize tells them apart.")
    if adapters:
        steps.append(
            "The command below trains the whole model, without adapters, so it leaves out their learning rate."
        )
    return steps
