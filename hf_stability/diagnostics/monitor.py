"""Follows one training: its recorder, early warning, evaluations and sinks, and the verdict at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerControl

from ..verdicts.verdict import Verdict, ended_early, pruned
from .attempt import ALARM
from .attempt_log import FILE as ATTEMPTS
from .begin_again import FiniteCheck, RunAbandoned, stopped_instead, with_restarts
from .calling_trainer import TrainingLoop, training_loop
from .dashboard import RISK
from .early_warning import Alarm, with_alarm
from .guard import Guard
from .heat_map import HEAT_MAP, HeatMap
from .judging import judge_run
from .loggers import Loggers
from .outcome import Outcome, facts_of, final_scores
from .precision import half_precision_weights
from .preflight import preflight
from .probes import Probe, make_probes
from .recorder import RECORD, Recorder
from .sinks import Sink, Sinks
from .tensorboard import TensorBoard
from .trainers_evaluation import TrainersEvaluation
from .verdict_file import VERDICT, VerdictFile
from .watch import Watch, of_the_main_process, respond


logger = logging.getLogger("hf_stability.callback")  # the name that a user knows


class Monitor:
    """Follows one training. If a part raises, the guard catches the error and training continues without that part.

    Events do nothing before `begin` and after `release`.

    Args:
        callback: the `StabilityCallback`; it has the settings.

    Attributes:
        guard: catches errors of the parts.
        recorder: the `Recorder`. None without one.
        evaluations: keeps the evaluation that counts.
        sinks: take the numbers. Empty in all processes but the main one.
        alarm: as the callback's attribute, and so are `stopped`, `verdict` and `constant`.
        risk: the last risk of the early warning, in [0, 1]; None before the first, and where it has none.
        is_training: whether a training is running.
    """

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.guard = Guard()
        self.recorder: Recorder | None = None
        self.watch: Watch | None = None
        self.evaluations = TrainersEvaluation()
        self.sinks = Sinks([], self.guard)
        self.alarm: Alarm | None = None
        self.stopped = False
        self.risk: float | None = None
        self.verdict: Verdict | None = None
        self.constant: dict[str, Any] | None = None
        self.is_training = False
        self._loop: TrainingLoop | None = None
        self._epoch_has_steps = False
        self.on_alarm: Any = "none"
        self._finite = FiniteCheck()

    # ---- the beginning ---------------------------------------------------------------------------------------------------

    def begin(self, args: Any, state: Any, model: Any, optimizer: Any, train_dataloader: Any) -> None:
        """The training begins. The model has not run yet.

        Raises:
            InputError: one of the user's settings is wrong.
        """
        self.is_training = True
        self.args, self.state, self.model, self.train_dataloader = args, state, model, train_dataloader
        self._loop = self.guard.run("reading the call stack", training_loop, self.callback)
        whole = self.callback.baseline == "compute_metrics"
        self.evaluations = TrainersEvaluation(self._loop, state, model, whole)
        self.guard.run("reading the log", self.evaluations.read_log)
        self.on_alarm = self.callback.on_alarm or getattr(args, "on_alarm", "warn")
        self._finite = FiniteCheck(scales_loss=getattr(args, "fp16", False))
        self._check_settings(optimizer)
        probes = self._make_probes()
        main = state.is_world_process_zero
        self.folder = self.guard.run("writing to the folder", self._make_folder, settings=True) if main else None
        self.recorder = self.guard.run(RECORD, self._make_recorder, optimizer, probes, settings=True)
        if self.recorder is not None:
            self.watch = self.guard.run("the early warning", Watch, self.recorder, self.guard)
            self.alarm = self.watch.alarm if self.watch is not None else None
        if self.folder is not None:
            self.sinks = self.guard.run("the sinks", self._make_sinks, default=self.sinks)
        if self.recorder is not None:
            self.sinks.tell("open", self.recorder.record.columns)

    def _check_settings(self, optimizer: Any) -> None:
        """Log which settings often make a training fail: each line once per callback, in the main process."""
        check = "the check of the precision"
        self._half_precision = self.guard.run(check, half_precision_weights, self.model, default="")
        wanted = self.callback.preflight or getattr(self.args, "preflight", "warn")
        if wanted == "none" or not self.state.is_world_process_zero:
            return
        values = self.args, self.state.max_steps, self.model, optimizer, self._half_precision, self.on_alarm
        known = [self._half_precision] if self._half_precision else []
        for line in self.guard.run("the check before the first step", preflight, *values, default=known):
            if line not in self.callback.said:
                self.callback.said.add(line)
                logger.warning(line)

    def _make_probes(self) -> list[Probe]:
        wanted = self.callback.diagnostics
        wanted = getattr(self.args, "diagnostics", None) if wanted is None else wanted
        # Probes that are averaged over processes have the last columns.
        return sorted(make_probes(wanted or ()), key=lambda probe: probe.mean_over_processes)

    def _make_folder(self) -> Path:
        """`<output_dir>/stability`, or the user's folder. In a hyperparameter search each trial has its own."""
        trainer, trial = (self._loop.trainer, self._loop.trial) if self._loop is not None else (None, None)
        base = Path(self.args.output_dir)
        if self.state.is_hyper_param_search and trial is not None:
            base = Path(trainer._get_output_dir(trial))
        is_trial, folder = base != Path(self.args.output_dir), base / "stability"
        chosen = self.callback.output_dir
        if chosen is not None:
            folder = Path(chosen, base.name) if is_trial else Path(chosen)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _make_recorder(self, optimizer: Any, probes: Sequence[Probe]) -> Recorder:
        stale = (VERDICT, HEAT_MAP) if self.callback.restarts is not None else (VERDICT, HEAT_MAP, ATTEMPTS)
        for name in stale if self.folder else ():
            self.guard.run(f"the removal of an earlier {name}", (self.folder / name).unlink, True)
        path = self.folder / "steps.rec" if self.folder else None
        given = self.model, self.args, self.state, optimizer, probes, path, self.guard, self._loop
        recorder = Recorder(*given, not self.callback.adds_loss_terms, self.callback.quiet_share)
        recorder.on_rows = lambda rows: self.sinks.rows(recorder.record.columns, rows)
        return recorder

    def _make_sinks(self) -> Sinks:
        """The sinks, in the order in which they get each event. Without a recorder, only the verdict's file is written."""
        callback = self.callback
        sinks: list[Sink] = [VerdictFile(self.folder)]
        if self.recorder is None:
            return Sinks(sinks, self.guard)
        if callback.heat_map:
            sinks.append(HeatMap(self.folder, self.args, self.recorder))
        if callback.tensorboard:
            values = callback.tensorboard_dir, callback.trainers_tensorboard, callback.hparams, callback.texts
            sinks.append(TensorBoard(self.folder, self.args, self.state, *values, attempts=callback.attempts))
        if callback.trainers_handler is not None:
            sinks.append(Loggers(callback.trainers_handler, self.args, self.state))
        label_counts = np.nansum(self.recorder.record.to_dict()["labels"], axis=0, dtype=float)
        return Sinks(sinks, self.guard, self.state.max_steps, label_counts)

    # ---- update steps ------------------------------------------------------------------------------------------------------

    @property
    def _records(self) -> bool:
        return self.recorder is not None and not self.recorder.is_over

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._epoch_has_steps = False

    def begin_step(self) -> None:
        """An update step begins."""
        if not self._records:
            return
        self.recorder.begin_step()
        if self._loop is not None and not self._epoch_has_steps:
            self.guard.run("the clean-up after an interrupt", self._loop.call_when_abandoned, self._abandon)
        self._epoch_has_steps = True

    def before_step(self, optimizer: Any, step: int) -> None:
        """The gradients are complete and clipped. The optimizer's step number `step` comes next, counted from 1."""
        if self._records:
            self.recorder.before_step(optimizer, step)

    def after_step(self) -> None:
        """The optimizer has made its step."""
        if self._records:
            self.recorder.after_step()

    def end_step(self, step: int, control: TrainerControl) -> None:
        """Update step number `step` has ended.

        All processes must flush together. The steps therefore come from the Trainer's own control flow: a user's code may
        log in one process alone.
        """
        looks = self.watch is not None and step in self.watch.steps
        if looks:
            self.flush()
        elif self._records:
            flow = control.should_save or control.should_log or control.should_evaluate or control.should_training_stop
            if not flow and self.recorder.pending < self.callback.block_steps:
                return
            self.flush()  # before a save, so that a kill after it leaves no gap in the resumed run's record
        restarts = self.callback.restarts
        if self.on_alarm == "restart" and not (restarts is not None and restarts.is_last):
            self._check_finite(step, control)
        if looks:
            self._look(step, control)

    def flush(self) -> None:
        """Copy the rows of the last block to the host, the file and the sinks. All processes must call this together."""
        if self._records:
            self.recorder.flush()

    def _look(self, step: int, control: TrainerControl) -> None:
        """Look at the run, and raise the alarm if it is the first."""
        risk, alarm = self.watch.look(step)
        self.risk = risk if math.isfinite(risk) else None
        if self.risk is not None:
            self.sinks.tell("numbers", {RISK: risk}, step)
        if alarm is not None:
            self.alarm = alarm
            self.sinks.tell("alarm", alarm)
            self.stopped = respond(alarm, self.on_alarm, control, self.args, self.state, self.callback.audited)
            if self.on_alarm == "restart":
                self.stopped = self._begin_again(ALARM, step, control)

    def _check_finite(self, step: int, control: TrainerControl) -> None:
        """Begin again after a loss or a gradient norm that is not finite. All processes must call this together."""
        found = self.guard.run("the check for NaN and Inf", self._first_fault)
        reason = of_the_main_process(found, self.args)
        if reason is not None:
            self._begin_again(reason, step, control)

    def _first_fault(self) -> str | None:
        if self.recorder is None or RECORD in self.guard.off:
            return None
        record = self.recorder.record
        new = list(takewhile(lambda rows: rows[-1, 0] > self._finite.last_step, reversed(record.blocks)))
        if not new:
            return None
        rows = np.concatenate(new[::-1])
        steps, losses, norms = (rows[:, record.file_columns.index(name)] for name in ("step", "loss", "grad_norm"))
        return self._finite.look(steps, losses, norms, self.recorder.saw_loss)

    def _begin_again(self, reason: str, step: int, control: TrainerControl) -> bool:
        """Abandon this attempt, unless it is the last one.

        Returns:
            whether the training was stopped instead, because the trainer cannot restart it.

        Raises:
            RunAbandoned: the trainer catches it and begins again.
        """
        if self.callback.restarts is None:
            stopping, control.should_training_stop = control.should_training_stop, True
            if self.state.is_world_process_zero and not stopping:
                logger.warning(stopped_instead(reason, step, self.state.max_steps))
            return not stopping
        if not self.callback.restarts.is_last:
            raise RunAbandoned(reason, step, self.state.max_steps)
        return False

    # ---- evaluations, and the end ------------------------------------------------------------------------------------------

    def evaluated(self, metrics: Mapping[str, Any], step: int) -> None:
        """An evaluation was made after update step number `step`."""
        if not self.is_training:
            return
        self.sinks.tell("evaluation", metrics, step)
        names = self.recorder.output_names if self.recorder is not None else ()
        self.guard.run("reading the evaluation", self.evaluations.observe, metrics, step, names)

    def end(self, control: TrainerControl) -> Verdict | None:
        """The training has ended: judge it, and release it.

        Returns:
            the verdict. None in all processes but the main one, and if no training is running.
        """
        if not self.is_training:
            return None
        self.flush()
        if self.state.is_world_process_zero:
            known = self.recorder is not None and RECORD not in self.guard.off
            record = self.recorder.record.to_dict() if known else None
            unjudged = Verdict("unknown", "unknown: the verdict could not be computed (see the warning).")
            self.verdict = self.guard.run("the verdict", self._judge, record, control, default=unjudged)
            level = logger.info if self.verdict.status == "ok" else logger.warning
            level(self.verdict.sentence)
            self.sinks.tell("end", self._outcome(record))
        self.release(abandoned=False)
        return self.verdict

    def _judge(self, record: Mapping[str, Any] | None, control: TrainerControl) -> Verdict:
        callback, state = self.callback, self.state
        facts = facts_of(
            self.model,
            self.args,
            self._loop.trainer if self._loop is not None else None,
            metric=callback.metric,
            baseline=callback.baseline,
            compute_metrics=callback.compute_metrics,
            saw_loss=self.recorder is not None and self.recorder.saw_loss,
            train_dataset=getattr(self.train_dataloader, "dataset", None),
            half_precision=self._half_precision,
        )
        verdict, self.constant = judge_run(record, self.evaluations.last, facts)
        if self.alarm is not None:
            verdict = with_alarm(verdict, self.alarm, self.stopped)
        if callback.restarts is not None and callback.restarts.number:
            restarts = callback.restarts
            verdict = with_restarts(verdict, restarts.number, restarts.spent + state.global_step)
        if callback.stopped_early:
            return ended_early(verdict, state.global_step, state.max_steps)
        if state.is_hyper_param_search and state.global_step < state.max_steps and not control.should_training_stop:
            return pruned(verdict, state.global_step, state.max_steps)
        return verdict

    def _outcome(self, record: Mapping[str, Any] | None) -> Outcome:
        finished, final = not self.callback.stopped_early, {}
        if finished:  # otherwise the run may continue, and has no final scores
            wanted = self.callback.metric or self.args.metric_for_best_model
            values = self.verdict, self.evaluations.last.metrics, wanted
            final = self.guard.run("the final scores", final_scores, *values, default={})
        return Outcome(self.verdict, final, self.state.global_step, self.alarm, record, finished)

    def release(self, abandoned: bool = True) -> None:
        """Remove the hook from the model, drop its batches and close the files of this training.

        Args:
            abandoned: whether the training did not reach its end.
        """
        if not self.is_training:
            return
        self.is_training = False
        self.sinks.close(abandoned)
        if self.recorder is not None:
            self.recorder.stop()
        self.evaluations.release()
        self.watch, self.model, self.train_dataloader, self._loop = None, None, None, None

    def _abandon(self, loop: TrainingLoop) -> None:
        if loop is self._loop:  # no other training has begun since
            self.release()
