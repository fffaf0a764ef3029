"""The memory that a run takes, estimated before it starts.

Certain are the weights, their gradients, and AdamW's two moments: all of them exist at each update step. The activations of
one training batch come from Korthikanti et al. 2022 (arXiv 2205.05198), equation 1: a layer keeps `s b h (34 + 5 a s / h)`
bytes for the backward pass, with 2 bytes per value. Here s is the sequence length, b the batch size, h the hidden size and a the
number of heads. `activation_bytes` is the same sum, for any size of a value and of the feed-forward layer.

The estimate leaves out: evaluation batches, the embeddings' and the head's activations, temporary copies in the optimizer,
what methods add (copies of the pretrained weights, a second forward pass), and memory lost between blocks. It counts the whole
attention matrix, which fused attention kernels do not keep. For the temporary tensors of the backward pass it adds a quarter of
the activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..tasks.load import TokenizedData, token_counts
from ..utils.batches import total_batch_size
from ..utils.text import decimal
from .job import Job


GIB = 2**30
VALUE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
KEEPS_TWO_MOMENTS = ("adamw_torch", "adamw_torch_fused", "adamw_apex_fused")
"""Optimizers (`--optim`) with two moments per weight, in the weights' precision. The state of others is not counted."""

CUDA_PROCESS = GIB // 2
"""A process's CUDA context and kernels on the GPU, in bytes. An assumption: benchmarks/gpu.py measures it."""

CPU_PROCESS = GIB // 2
"""A worker process on a CPU without its model, in bytes: Python with the imports. Measured on Linux: 0.5 GiB, with pages that
workers share."""

TEMPORARY = 1.25
"""Factor on the activations for temporary tensors of the backward pass. It was chosen so that the estimate was near the peak of
four runs on a CPU (MiniLM and the demo's model, float32). With it, the estimate was 0.98 to 1.06 times the peak of five runs in
workers. With checkpointing it was 0.6 times the peak."""


@dataclass(frozen=True)
class Memory:
    """The memory of a run, in bytes.

    Args:
        weights: of the model; with mixed precision also their copies in half precision.
        gradients: one per weight.
        moments: AdamW's two per weight; 0 for other optimizers.
        activations: what one training batch keeps for the backward pass; 0 if the model's shape is unknown.
        process: what a process takes without a model.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    process: int

    @property
    def least(self) -> int:
        """A lower bound."""
        return self.weights + self.gradients + self.moments

    @property
    def estimate(self) -> int:
        """The run at its peak, about."""
        return self.least + int(TEMPORARY * self.activations) + self.process


def size(number: int) -> str:
    """Bytes in words: `1.5 GiB`."""
    return f"{decimal(number / GIB, 1)} GiB" if number >= GIB // 10 else f"{number / 2**20:.0f} MiB"


def activation_bytes(
    layers: int,
    hidden: int,
    heads: int,
    intermediate: int,
    length: int,
    batch: int,
    value: int = 4,
    norm: int = 4,
    mask: int = 1,
    checkpointing: bool = False,
) -> int:
    """Bytes that the layers keep for the backward pass: Korthikanti et al. 2022, equation 1, for each layer.

    With `value = norm = 2`, `mask = 1` and `intermediate = 4 * hidden` it is the paper's `s b h (34 + 5 a s / h)`. In units of
    `length * batch`, a layer keeps:

    - the inputs of the two layer norms (`norm` bytes per value): 2 h
    - the input of the projections to queries, keys and values: h; these three: 3 h; the input of the output projection: h
    - the softmax over `heads * length` scores, and its result after dropout; dropout's mask (`mask` bytes)
    - the inputs of the feed-forward layer: h; of its activation function and of its second half: 2 x intermediate
    - two masks of dropout: 2 h

    Args:
        layers, hidden, heads, intermediate: the model's shape.
        length: tokens per example.
        batch: examples per forward pass.
        value: bytes per activation.
        norm: bytes per input of a layer norm.
        mask: bytes per value of a dropout mask. 1 on a GPU; a CPU keeps the mask as numbers.
        checkpointing: `--gradient_checkpointing`: only the input of each layer is kept, and all of one layer.
    """
    tokens = length * batch
    layer = tokens * (hidden * (2 * norm + 6 * value + 2 * mask) + 2 * intermediate * value)
    layer += tokens * heads * length * (2 * value + mask)
    return layers * tokens * hidden * value + layer if checkpointing else layers * layer


def training_memory(
    parameters: int,
    shape: Mapping[str, int] | None,
    length: int,
    batch: int,
    dtype: str = "float32",
    mixed: bool = False,
    optim: str = "adamw_torch",
    checkpointing: bool = False,
    device: str = "cpu",
) -> Memory:
    """The memory of a training.

    Args:
        parameters: number of the model's weights.
        shape: `layers`, `hidden`, `heads`, `intermediate`; None if unknown.
        length, batch: tokens of the longest example, and examples per forward pass.
        dtype: the weights' precision.
        mixed: whether the forward pass is in half precision (`--bf16`, `--fp16`).
        optim: `--optim`.
        checkpointing: `--gradient_checkpointing`.
        device: "cpu" or "cuda".
    """
    own = VALUE_BYTES[dtype]
    value = 2 if mixed else own
    activations = 0
    if shape is not None:
        mask = 1 if device == "cuda" else value
        activations = activation_bytes(
            **shape, length=length, batch=batch, value=value, norm=own, mask=mask, checkpointing=checkpointing
        )  # under mixed precision, layer norms stay in float32
    return Memory(
        weights=parameters * (own + (2 if mixed else 0)),
        gradients=parameters * own,
        moments=2 * parameters * own if optim in KEEPS_TWO_MOMENTS else 0,
        activations=activations,
        process=CUDA_PROCESS if device == "cuda" else CPU_PROCESS,
    )


# ---- of a study's jobs -------------------------------------------------------------------------------------------------


def largest_memory(jobs: Sequence[Job], config: Any, length: int) -> Memory | None:
    """The largest memory of these jobs; None if the model cannot be counted.

    Args:
        jobs: runs or stages.
        config: the model's.
        length: tokens of their longest training example.
    """
    parameters = count_parameters(config)
    if parameters is None:
        return None
    each_recipe = {job.recipe: job for job in jobs}.values()  # seeds make no difference
    memories = [job_memory(job, parameters, model_shape(config), length) for job in each_recipe]
    return max(memories, key=lambda memory: memory.estimate, default=None)


def job_memory(job: Job, parameters: int, shape: Mapping[str, int] | None, length: int) -> Memory:
    """The memory of a job; see `training_memory`."""
    args = job.args
    parts = job.processes * (args.get("gradient_accumulation_steps") or 1)
    return training_memory(
        parameters,
        shape,
        length,
        batch=max(1, total_batch_size(args, job.processes) // parts),
        dtype=job.dtype,
        mixed=job.mixed_precision != "no",
        optim=str(args.get("optim", "adamw_torch")),
        checkpointing=bool(args.get("gradient_checkpointing") or args.get("activation_checkpointing")),
        device=job.device,
    )


def model_shape(config: Any) -> dict[str, int] | None:
    """`layers`, `hidden`, `heads` and `intermediate` from a model's config; None if it has other fields."""
    hidden = getattr(config, "hidden_size", None)
    found = {
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden": hidden,
        "heads": getattr(config, "num_attention_heads", None),
        "intermediate": getattr(config, "intermediate_size", None) or getattr(config, "hidden_dim", None),
    }
    return found if all(isinstance(number, int) for number in found.values()) else None  # some configs have lists


def count_parameters(config: Any) -> int | None:
    """Number of weights of a classifier with this config, without making them; None if it cannot be made."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except Exception:  # the user's own model classes may need real weights; the runs then tell
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def longest_example(data: TokenizedData) -> int:
    """Tokens of the longest training example."""
    return int(token_counts(data.train).max())
