"""All checks for known causes of a failed run, and the values that they take.

Each check is a pure function of plain values. It returns numbers, or None if it knows too little to look. Fixed rules say
how likely a cause is. Bounds from the paper (Mosbach, Andriushchenko & Klakow, ICLR 2021) or from the bundled demo are
cited where they are set. The other bounds are judgement. No bound was fitted to a collection of real runs.

| value | what |
| --- | --- |
| `train_labels`, `dev_labels` | `(n,)` class ids; -100 does not count |
| `train_names`, `dev_names`, `model_names` | class names by id: the data's, and the model's from an earlier fine-tuning |
| `num_labels` | outputs of the model |
| `truncated_share`, `max_seq_length` | share of the training examples that lost tokens; in tokens |
| `tokenizer_size`, `embedding_rows`, `largest_id`, `unknown_share` | tokens; rows; largest token id in the data; share of its tokens |
| `tokenizer_ids`, `config_ids` | `pad`, `cls`, `sep` -> token id |
| `tokenizer_class`, `expected_class` | the tokenizer's class, and the one of the model's type |
| `missing_weights`, `base_prefix` | names of weights that the pretrained files lack; what the encoder's names begin with |
| `trainable`, `frozen` | numbers of parameters by layer, as in `layers_of` |
| `adapters` | kind of the trained adapters, by PEFT's name (`LORA`, `IA3` ...) |
| `frozen_parts` | frozen modules of head, pooler and embeddings -> `new`, `adapted`, `loaded`, `kept`, `new tokens`, `unknown` |
| `weights_dtype`, `precision` | `torch.float32` ...; `no`, `bf16` or `fp16` (mixed precision) |
| `steps`, `losses`, `grad_norms`, `layers`, `layer_norms` | the record: `(T,)`, `(T,)`, `(T,)`, L names, `(T, L)` |
| `logged_losses`, `logged_norms`, `nan_filter` | the Trainer's log; whether `logging_nan_inf_filter` was on |
| `evaluations` | a model card's rows: `(step, training loss, evaluation loss, accuracy)`, None for what is not there |
| `step`, `total_steps`, `warmup_steps` | update steps |
| `rate_steps`, `rates` | update steps and the encoder's learning rate at each |
| `rate_note` | which parameter group has these rates, in words |
| `corrected_rates` | the rates at which AdamW with bias correction makes the same steps, see `methods/adamw.py` |
| `optimizer`, `bias_correction` | training arguments |
| `uncorrected_beta2` | Adam's beta2, if it has no bias correction, not even in the learning rate |
| `hidden_size` | the model's width, in units |
| `status`, `evidence`, `alarm` | the verdict's; the early warning's |
| `memorized` | the result of `memorize` |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from . import input_checks as inputs
from . import training_checks as training
from .finding import LIKELIHOODS, Checked, Finding
from .words import WORDS, finding_of


CHECKS: dict[str, Callable[..., Checked | None]] = {
    "memorize": training.check_memorized,
    "labels": inputs.check_labels,
    "tokenizer": inputs.check_tokenizer,
    "new weights": inputs.check_new_weights,
    "frozen weights": inputs.check_frozen,
    "layers": training.check_layers,
    "weights' precision": inputs.check_dtype,
    "NaN": training.check_finite,
    "skipped steps": training.check_skipped_steps,
    "train and dev": training.check_generalisation,
    "vanished gradients": training.check_gradients,
    "stuck loss": training.check_stuck_loss,
    "early warning": training.check_alarm,
    "learning rate": training.check_rate,
    "update steps": training.check_update_steps,
    "warmup": training.check_warmup,
    "class shares": inputs.check_class_shares,
    "truncation": inputs.check_truncation,
    "ended early": training.check_ended_early,
}
"""By name. A report lists equally likely findings in this order."""


def find(name: str, values: Mapping[str, Any]) -> Finding | None:
    """One check's finding; None if the check knows too little.

    Args:
        values: by the names in the module's table; the check ignores the others.
    """
    check = CHECKS[name]
    checked = check(**{key: values[key] for key in inspect.signature(check).parameters if values.get(key) is not None})
    return None if checked is None else finding_of(checked)


def run_checks(values: Mapping[str, Any]) -> tuple[list[Finding], dict[str, str]]:
    """Run every check on the known values of the module's table.

    Returns:
        the findings, the likeliest first; the checks that could not look, by name, with what they need.
    """
    found = {name: find(name, values) for name in CHECKS}
    findings = [finding for finding in found.values() if finding is not None]
    findings.sort(key=lambda finding: LIKELIHOODS.index(finding.likelihood))
    return findings, {name: WORDS[name].needs for name in CHECKS if found[name] is None and WORDS[name].needs}
