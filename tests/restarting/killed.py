"""Trains a toy model whose first check raises the alarm: `killed.py FOLDER RESUME WHERE`. WHERE is where it kills itself.

With two processes it checks that the last attempt equals a fresh run: `killed.py FOLDER 0 fresh`.
"""

import functools
import os
import signal
import sys

import torch
from transformers import TrainerCallback

from hf_stability import StabilityCallback, StableTrainer, StableTrainingArguments
from hf_stability.diagnostics import watch
from hf_stability.diagnostics.attempt_log import AttemptLog
from tests import toy


watch.check = functools.partial(watch.check, threshold=0.0)
watch.find_alarm = functools.partial(watch.find_alarm, threshold=0.0)
FOLDER, RESUME, WHERE = sys.argv[1:]
VALUES = {
    **toy.QUIET, "max_steps": 12, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 3, "seed_streams": True,
    "seed": 3, "logging_steps": 2, "bias_correction": False,
}  # fmt: skip


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if trainer_log() == 1 and WHERE.isdigit() and state.global_step == int(WHERE):
            kill()


def trainer_log():
    return 0 if stability.restarts is None else stability.restarts.number


def train(folder, **values):
    global stability
    stability = StabilityCallback(tensorboard=False, heat_map=False)
    args = StableTrainingArguments(folder, **{**VALUES, **values})
    resume = RESUME == "1"
    return toy.train(StableTrainer, args, [stability, Kill()], resume=resume, init=WHERE != "fresh")


if WHERE == "between":
    AttemptLog.clean = lambda *_: kill()
trainer = train(FOLDER, on_alarm="restart", max_restarts=1)
found = [attempt.to_dict() for attempt in trainer.stability.attempts]
if WHERE == "fresh":
    last = found[-1]
    fresh = train(f"{FOLDER}-fresh", seed=trainer.args.seed, **last["settings"])
    print(
        "equal", torch.equal(toy.weights(trainer), toy.weights(fresh)), last["steps"], found[0]["reason"], flush=True
    )
else:
    torch.save((toy.weights(trainer), found, trainer.state.global_step), f"{FOLDER}.pt")
