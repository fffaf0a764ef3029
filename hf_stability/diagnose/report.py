"""[`diagnose`]: all checks on one run, in order of likelihood, with remedies; and what could not be checked."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from transformers import Trainer

from ..study.report.statistics import wilson_interval
from ..study.run import quiet
from ..utils.files import finite
from ..utils.text import share_text
from .causes import run_checks
from .files import Run, read_run_files
from .finding import BUGS, LIKELIHOODS, Finding
from .inputs import MAX_SEQ_LENGTH, Inputs, Named, load_inputs
from .live import live_inputs, read_trainer
from .memorize import try_memorize
from .model_values import adapter_values
from .rescue_command import rescue_command
from .run_verdict import alarm_of, judge_run, status_and_sentence
from .training import training_values


SCHEMA = "hf_stability.diagnosis/1"


@dataclass(frozen=True)
class Report:
    """The findings on one run.

    Args:
        source: what was looked at.
        status: the verdict's; None if there is none, or the run is not finished.
        sentence: the verdict in words.
        failed_share: of this one run, `(0 or 1, low, high)`, with the 95% Wilson interval; None without a verdict.
        findings: the likeliest first.
        not_looked_at: check -> what it needs.
        next_steps: what to do now, in words.
        rescue: the command that tries four remedies, starting from this run's settings.
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
        """The report as the command prints it, lines of at most `width` characters but for the last."""

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
    """Numpy values as plain Python ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def share_sentence(share: tuple[float, float, float]) -> str:
    """What one run tells about the settings' failed share."""
    failed, low, high = share
    interval = f"{share_text(low)}-{share_text(high)} (95% interval)"
    text = f"{failed:.0f} of 1 run failed: the failed share of these settings is {interval}."
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
    text_column_names: Sequence[str] | None = None,
    label_column_name: str | None = None,
    max_seq_length: int = MAX_SEQ_LENGTH,
    dtype: str | None = None,
    training: Mapping[str, Any] | None = None,
    memorize: bool = False,
    memorize_rate: float | None = None,
    show: bool = False,
) -> Report:
    """Check one run for every known cause of failure. Nothing is written, and a live Trainer is left as it is.

    ```python
    print(diagnose(trainer, memorize=True).to_text())
    ```

    Args:
        source: a `trainer_state.json`, a `steps.rec`, a checkpoint, an output folder, a run's folder in a study, or a
            live Trainer.
        model_name_or_path, tokenizer_name: the PRETRAINED model, and its tokenizer.
        task_name, data_dir, train_file, validation_file, text_column_names, label_column_name: the data, as the study
            command takes them.
        max_seq_length: tokens per example at most.
        dtype: what the run loaded the model's weights in: "float32", "bfloat16", "float16", or "auto", as they were
            saved. Default: a study's own, else "auto", as transformers loads them.
        training: training arguments that the files lack. They replace the files' arguments, but not the rates and the
            warmup in a record.
        memorize: whether to train on 32 examples, to tell a bug from instability.
        memorize_rate: the learning rate for that.
        show: whether to show its progress bar.

    Raises:
        InputError: there is no run, or something named cannot be loaded.
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
        max_seq_length=max_seq_length,
        dtype=dtype,
    )
    run = read_trainer(source) if isinstance(source, Trainer) else read_run_files(source)
    run.args |= training or {}
    run.certain |= set(training or ())
    with quiet():
        inputs = _inputs_of(source, run, named)
        values = {**inputs.values, **training_values(run)}
        if run.adapter:
            values |= adapter_values(run.adapter, values.get("missing_weights"), values.get("base_prefix", ""))
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
    findings = sorted([*inputs.findings, *findings], key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    for finding in inputs.findings:
        missing.pop(finding.name, None)
    known_length = values.get("max_seq_length")  # a study's run has its own
    length = max_seq_length if known_length is None else known_length
    if values.get("adapters"):
        run.args.pop("learning_rate", None)  # too high for a rescue, which trains the whole model
    return Report(
        source=run.source,
        status=status,
        sentence=sentence,
        failed_share=_failed_share(status),
        findings=findings,
        not_looked_at=missing,
        next_steps=_next_steps(findings, missing, status, bool(values.get("adapters"))),
        rescue=rescue_command(run, named, length),
    )


def _inputs_of(source: str | os.PathLike | Trainer, run: Run, named: Named) -> Inputs:
    """Data and model: a live Trainer's, with what the user names on top; else what [`load_inputs`] finds."""
    if not isinstance(source, Trainer):
        return load_inputs(run, named)
    inputs = live_inputs(source)
    if named:
        more = load_inputs(run, named)
        inputs.values |= more.values
        inputs.findings += more.findings
    return inputs


def _failed_share(status: str | None) -> tuple[float, float, float] | None:
    """The failed share of this one run, with its 95% interval; None if its status does not tell."""
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
        steps.append("This run did not fail. What is said above is what could make another one fail.")
    if bugs:
        steps.append(f"Mend first: {', '.join(dict.fromkeys(bugs))}. No recipe helps a run with a bug.")
    elif "--memorize" in missing.get("memorize", ""):
        steps.append("A bug or instability? --memorize tells them apart.")
    if adapters:
        steps.append("The rescue trains the whole model, without adapters; their learning rate is left out.")
    return steps
