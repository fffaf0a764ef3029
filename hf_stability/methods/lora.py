"""LoRA: the encoder is frozen, and low-rank updates of its matrices are trained beside the head (arXiv 2106.09685)."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..errors import InputError
from ..utils.adapters import adapter_kind, new_modules
from ..utils.layers import base_model, without_weights
from .base import Method, Range


QUERY_VALUE, ALL_LINEAR = "query_value", "all-linear"
QUERY_VALUE_NAMES = (
    ("query", "value"),  # BERT, RoBERTa, ALBERT, ELECTRA
    ("query_proj", "value_proj"),  # DeBERTa-v2 and v3
    ("q_lin", "v_lin"),  # DistilBERT
    ("q_proj", "v_proj"),  # Llama, Qwen, Mistral, BART
    ("q", "v"),  # T5
    ("Wqkv",),  # ModernBERT: one matrix for query, key and value, as in the next three
    ("c_attn",),  # GPT-2
    ("query_key_value",),  # GPT-NeoX, Bloom, Falcon
    ("qkv_proj",),  # Phi-3
)
"""How the query and the value matrix of attention are called. The first names that a model has count."""

OTHER_CHANGES = {"mixout": 0.0, "reinit_layers": 0, "prior_decay": 0.0, "layerwise_lr_decay": 1.0}
"""Arguments of methods for pretrained weights that are trained, with the values at which they are off."""


def add_lora(
    model: Any,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    targets: str = QUERY_VALUE,
    generator: torch.Generator | None = None,
) -> Any:
    """The model with LoRA on its encoder: see `LoRA`. Its modules are replaced in place.

    All else in the encoder is frozen. The head is trained as it is, without adapters, and so is a new pooler.

    Args:
        model: a Hugging Face classifier with its pretrained weights and its new head.
        r: rank of an update, 1 or more.
        alpha: scale of an update, times r; above 0.
        dropout: share of an adapter's inputs that are dropped in training, in [0, 1).
        targets: see `lora_targets`.
        generator: on the CPU, for the draw of A. Default: torch's global one.

    Returns:
        PEFT's `PeftModel`. Its `save_pretrained` saves adapters and head, without the encoder.

    Raises:
        InputError: PEFT is not installed, the model has adapters already, or no module matches `targets`.
    """
    _check_installed(r)
    from peft import LoraConfig, get_peft_model

    if adapter_kind(model) is not None:
        raise InputError(f"--lora_r {r}: the model has adapters already ({adapter_kind(model)}). Leave out --lora_r.")
    values: dict[str, Any] = {"r": r, "lora_alpha": alpha, "lora_dropout": dropout}
    values |= {"target_modules": lora_targets(model, targets), "modules_to_save": new_modules(model)}
    if "ForSequenceClassification" in type(model).__name__:
        values["task_type"] = "SEQ_CLS"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks for what transformers has renamed
        adapted = get_peft_model(model, LoraConfig(**values))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:  # PEFT's own distribution, but from the generator and on the CPU
                drawn = torch.empty(parameter.shape)
                parameter.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
    return adapted


def lora_targets(model: nn.Module, targets: str = QUERY_VALUE) -> list[str]:
    """Names of the encoder's linear layers that get adapters. Head and new pooler never do.

    Args:
        model: a Hugging Face classifier, without adapters.
        targets: `query_value`: the query and the value matrix of attention, by the names in `QUERY_VALUE_NAMES`. `all-linear`:
            every linear layer. Else names of modules, with commas: `query,key,value,dense`.

    Raises:
        InputError: the encoder has no such linear layer.
    """
    prefix, encoder = base_model(model)
    new = tuple(f"{name}." for name in new_modules(model))
    linears = [
        f"{prefix}{name}" for name, module in encoder.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    ]
    linears = [name for name in linears if not f"{name}.".startswith(new)]
    present = {name.rpartition(".")[2] for name in linears}
    if targets == ALL_LINEAR:
        wanted = present
    elif targets == QUERY_VALUE:
        wanted = set(next((names for names in QUERY_VALUE_NAMES if present >= set(names)), ()))
    else:
        wanted = {name.strip() for name in targets.split(",")}
    missing = sorted(wanted - present)
    if missing or not wanted:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        what = f"no linear layer {missing[0]!r}" if missing else "no query and value matrix of a known name"
        raise InputError(
            f"--lora_targets {targets}: the encoder of this {kind} has {what}. Give all-linear, or some of "
            f"{', '.join(sorted(present))}."
        )
    return [name for name in linears if name.rpartition(".")[2] in wanted]


def _check_installed(r: int) -> None:
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"--lora_r {r}: needs the package peft. Install it with: pip install 'hf_stability[lora]'")


@dataclass
class LoRAArguments:
    """The arguments of `LoRA`."""

    lora_r: int = field(
        default=0,
        metadata={
            "help": "LoRA's rank (Hu et al. 2022: 8). The encoder is frozen; adapters of this rank and the head are trained. "
            "Needs the package peft. 0: off."
        },
    )
    lora_alpha: float = field(
        default=16.0,
        metadata={"help": "LoRA's scale: an update is multiplied by lora_alpha / lora_r. Above 0."},
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Share of an adapter's inputs that are dropped in training, from 0 to below 1."}
    )
    lora_targets: str = field(
        default=QUERY_VALUE,
        metadata={
            "help": "Modules of the encoder that get adapters: query_value (the authors' choice), all-linear, or names with "
            "commas (query,key,value). The head never gets one."
        },
    )


class LoRA(Method):
    """LoRA: the encoder is frozen, and low-rank updates of its matrices are trained beside the head.

    An update has few weights, so a run trains and saves few, and a frozen matrix cannot be forgotten. Paper: Hu, Shen, Wallis,
    Allen-Zhu, Li, Wang, Wang & Chen, "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022,
    [arXiv 2106.09685](https://arxiv.org/abs/2106.09685), section 4.1). The adapters are those of
    [PEFT](https://huggingface.co/docs/peft): `pip install 'hf_stability[lora]'`.

    Equation:
        h = W x + (alpha / r) B A x

        W        a pretrained matrix, frozen
        A        r rows, drawn as torch draws a linear layer:
                 U(-1/n, 1/n) with n = sqrt(columns)
        B        r columns, 0 at the start, so that a run starts
                 from the pretrained model
        r        lora_r
        alpha    lora_alpha

        A, B and the head are trained. Everything else is frozen.

    When to use it:
        - Where the whole model is too large to train, or 20 copies of it are too large to keep.
        - The head is new and is trained as it is. So is a pooler that the pretrained files lack.
        - Seeds differ in A, in the head, in data order and in dropout. A and head are of the stream `init_seed`.
        - Learning rates are about ten times those of a whole model. The recipe `lora` has its authors'.
        - Methods for pretrained weights that are trained are refused beside it: Mixout, re-initialisation, prior decay and
          L2-SP, layer-wise learning rates, Child-Tuning's form D.

    Cost:
        Time: the matrices' backward passes for the frozen weights fall away, two small products per matrix are added. Memory:
        no gradients and no optimizer state for frozen weights. A checkpoint has adapters and head only.

    Differences:
        - A bias or a LayerNorm stays frozen, as in the authors' code.
        - The authors start RTE, MRPC and STS-B from adapters trained on MNLI. The recipe does not.

    Measured here:
        Not run yet. The early warning was fitted on runs that train the whole model, and does not judge LoRA: see
        [Adapters and frozen layers](diagnostics.md#adapters-and-frozen-layers).
    """

    Arguments = LoRAArguments
    trains_encoder = False
    ranges = {"lora_r": Range(), "lora_dropout": Range(0, 1)}

    def check(self, args: Mapping[str, Any]) -> None:
        own = self.settings
        if not own.lora_alpha > 0:
            raise InputError(f"--lora_alpha {own.lora_alpha}: must be above 0.")
        for name, off in OTHER_CHANGES.items():
            if args.get(name, off) != off:
                raise InputError(
                    f"--lora_r {own.lora_r} with --{name} {args[name]}: LoRA freezes the pretrained weights, and this changes "
                    "how they are trained. Use only one of the two."
                )
        if args.get("child_tuning") == "D":
            raise InputError(
                f"--lora_r {own.lora_r} with --child_tuning D: while B is 0, A has no Fisher information, so it would never be "
                "trained. Give --child_tuning F."
            )
        _check_installed(own.lora_r)

    def check_model(self, config: Any, task: Any) -> None:
        lora_targets(without_weights(config), self.settings.lora_targets)

    def describe(self, config: Any, args: Mapping[str, Any]) -> list[str]:
        """`LoRA: rank 8 on 24 matrices (query, value); 0.3 of 109.5 million encoder weights are trained, and classifier`."""
        model, own = without_weights(config), self.settings
        names = lora_targets(model, own.lora_targets)
        matrices: list[Any] = [model.get_submodule(name).weight for name in names]
        trained = sum(own.lora_r * sum(matrix.shape) for matrix in matrices)
        whole = sum(p.numel() for p in base_model(model)[1].parameters())
        kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
        return [
            f"LoRA: rank {own.lora_r} on {len(names)} matrices ({kinds}), {trained:,} weights; the encoder's {whole:,} are frozen; "
            f"{' and '.join(new_modules(model))} trained as a whole"
        ]

    def prepare_model(self, model: nn.Module, trainer: Any, generator: torch.Generator | None = None) -> nn.Module:
        own = self.settings
        adapted = add_lora(model, own.lora_r, own.lora_alpha, own.lora_dropout, own.lora_targets, generator)
        self.parameters = [p for p in adapted.parameters() if p.requires_grad]
        return adapted

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not known >= set(map(id, self.parameters)):
            raise InputError(
                f"--lora_r {self.settings.lora_r}: the optimizer that was passed to the Trainer lacks the adapters, which are "
                "made after it. Pass none, or pass model_init and optimizer_cls_and_kwargs."
            )
