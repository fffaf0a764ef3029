"""[`diagnose`]: all checks on one run, in order of likelihood, with remedies; and what could not be checked."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transformers import Trainer

from ..study.report.statistics import wilson_interval
from ..study.run import quiet
from ..utils.files import finite
from ..utils.text import share_text
from .causes import run_checks
from .files import read_run_files
from .finding import BUGS, LIKELIHOODS, Finding
from .inputs import MAX_SEQ_LENGTH, load_inputs
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
    max_seq_length: int = MAX_SEQ_LENGTH,
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
        task_name, data_dir, train_file, validation_file, max_seq_length: the data, as the study command takes them.
        training: training arguments that the files lack. They replace the files' arguments, but not the rates and the
            warmup in a record.
        memorize: whether to train on 32 examples, to tell a bug from instability.
        memorize_rate: the learning rate for that.
        show: whether to show its progress bar.

    Raises:
        InputError: there is no run, or something named cannot be loaded.
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
    share = None
    if status in ("ok", "failed", "diverged"):
        failed = int(status != "ok")
        share = (float(failed), *(float(value) for value in wilson_interval(failed, 1)))
    known_length = values.get("max_seq_length")  # a study's run has its own
    length = max_seq_length if known_length is None else known_length
    if values.get("adapters"):
        run.args.pop("learning_rate", None)  # too high for a rescue, which trains the whole model
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
