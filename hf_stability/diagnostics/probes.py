"""Probes: what else a run shows at each update step, one small class a diagnostic; the number itself is a function.

| name | columns | what |
| --- | --- | --- |
| `clipping` | `clip_factor` | what clipping multiplies the gradient by |
| `update_ratio` | `update_ratio/<layer>` | size of the step over the size of the weights |
| `step_factor` | `step_factor` | what bias correction multiplies Adam's step by |
| `pooler_saturation` | `pooler_saturation` | share of the pooler's tanh outputs beyond .99 |
| `prediction_entropy` | `prediction_entropy`, `one_class_share` | how sure, and how one-sided, the predictions are |
| `distance` | `distance/<layer>` | how far the weights are from where training began |
| `cls_variance` | `cls_variance` | how far the [CLS] states of different inputs differ |

NaN stands where a number does not exist or is not known. The functions take an optional leading axis `...` of seeds.
Norms before and after clipping, saturation and entropy are logged by the code of Mosbach et al. (ICLR 2021):
github.com/uds-lsv/bert-stable-fine-tuning, examples/bert_stable_fine_tuning, run_finetuning.py and utils.py.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, nearest
from ..utils.layers import base_model
from ..utils.optimizers import inner_optimizer
from .gradients import tensor_norms


logger = logging.getLogger(__name__)

SATURATED = 0.99  # a tanh output beyond this counts as saturated, as in the paper's code
CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s


# ---- the numbers -----------------------------------------------------------------------------------------------------


def is_clipped(total: Tensor, max_grad_norm: float, before_clipping: bool = True) -> Tensor:
    """Whether a step was clipped: `(...)`, bool; arguments as in [`clip_factor`].

    After clipping the norm of such a step stands at the limit, up to rounding in its precision and the 1e-6 in torch's
    formula.
    """
    if not max_grad_norm:
        return torch.zeros_like(total, dtype=torch.bool)
    if before_clipping:
        return total > max_grad_norm
    rounding = max(1e-4, 2 * torch.finfo(total.dtype).eps)
    return total >= max_grad_norm**2 / (max_grad_norm + CLIP_EPS) * (1 - rounding)


def clip_factor(total: Tensor, max_grad_norm: float, before_clipping: bool = True) -> Tensor:
    """What clipping multiplies the gradient by: `min(1, max_grad_norm / (total + 1e-6))`, as torch's own.

    Args:
        total: `(...)` total gradient norms.
        max_grad_norm: the limit; 0 for no clipping.
        before_clipping: whether `total` was taken before clipping. After it, the factor of a clipped step, whose norm
            stands at the limit, is lost.

    Returns:
        `(...)` in [0, 1]; 1 where nothing is clipped, NaN where it is lost or `total` is NaN.
    """
    if not max_grad_norm:
        return torch.ones_like(total, dtype=torch.float32)
    if before_clipping:
        return torch.clamp(max_grad_norm / (total.float() + CLIP_EPS), max=1.0)
    lost = is_clipped(total, max_grad_norm, before_clipping) | total.isnan()
    return torch.where(lost, torch.nan, 1.0)


@torch.no_grad()
def distance(now: Sequence[Tensor], start: Sequence[Tensor], seed_axis: bool = False) -> Tensor:
    """L2 distance of a layer's weights: `||now - start||`; differences in the weights' precision, their sum in float32.

    Args:
        now, start: the layer's tensors, then and now.
        seed_axis: whether the first axis of each is the seeds'.

    Returns:
        0-d, or `(seeds,)` with `seed_axis`.
    """
    return _norm(torch._foreach_sub(list(now), list(start)), seed_axis)


@torch.no_grad()
def update_ratio(after: Sequence[Tensor], before: Sequence[Tensor], seed_axis: bool = False) -> Tensor:
    """Size of an update step relative to a layer's weights: `||after - before|| / ||before||`.

    Args:
        after, before: the layer's tensors, after and before the step.
        seed_axis: whether the first axis of each is the seeds'.

    Returns:
        0-d, or `(seeds,)` with `seed_axis`; NaN where the weights were all zero.
    """
    size = _norm(before, seed_axis)
    return torch.where(size > 0, distance(after, before, seed_axis) / size, torch.nan)


def step_factor(step: Tensor, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    """What bias correction multiplies Adam's step by: `sqrt(1 - beta2^t) / (1 - beta1^t)`, up to the effect of eps.

    Source: Kingma & Ba, "Adam" (ICLR 2015, arXiv 1412.6980), end of section 2. At t = 1, 10, 100, 1000 and the default
    betas: .3162, .1532, .3086, .7952.

    Args:
        step: `(...)` number of the update t, from 1, of a floating type.
        beta1, beta2: Adam's decay rates, in [0, 1).
    """
    # 1 - beta^t = -expm1(t log beta): exact in float32 too, where 1 - .999 has lost four digits.
    log1, log2 = (math.log(beta) if beta > 0 else -math.inf for beta in (beta1, beta2))
    return torch.sqrt(-torch.expm1(step * log2)) / -torch.expm1(step * log1)


def saturated_share(outputs: Tensor, bound: float = SATURATED) -> Tensor:
    """Share of tanh outputs with `|y| > bound`: `(..., examples, width)` -> `(...)`, in [0, 1]."""
    return (outputs.abs() > bound).float().mean((-2, -1))


def prediction_entropy(logits: Tensor) -> Tensor:
    """Mean over examples of the entropy of `softmax(logits)`: `(..., examples, classes)` -> `(...)`.

    In nats: `-sum_k p_k log p_k`, between 0 (sure of every example) and `log(classes)`.
    """
    return torch.special.entr(logits.softmax(-1)).sum(-1).mean(-1)


def one_class_share(logits: Tensor) -> Tensor:
    """Share of the most predicted class: `(..., examples, classes)` -> `(...)`, between 1 / classes and 1."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return (logits.argmax(-1, keepdim=True) == classes).float().mean(-2).amax(-1)


def cls_variance(states: Tensor) -> Tensor:
    """Variance over examples (ddof = 1), mean over dimensions: `(..., examples, width)` -> `(...)`.

    NaN for a single example.
    """
    squares = (states - states.mean(-2, keepdim=True)).square().sum(-2)
    return (squares / (states.shape[-2] - 1)).mean(-1)


def _norm(tensors: Sequence[Tensor], seed_axis: bool) -> Tensor:
    return torch.linalg.vector_norm(tensor_norms(tensors, seed_axis).float(), dim=-1)


# ---- the probes ------------------------------------------------------------------------------------------------------


class Probe:
    """Sees a run, and gives numbers for each of its update steps. It changes no bit of the training.

    `start`, then for each update step `before_step` and `after_step`, at the end `stop`.

    Attributes:
        name: what the user writes.
        columns: names of the record's columns, known after `start`.
        mean_over_processes: True where a process sees its own examples only; the mean of the processes' values is then
            the run's. False where all processes hold the same values.
    """

    name = ""
    mean_over_processes = False

    def __init__(self):
        self.columns: list[str] = []

    def start(
        self,
        model: nn.Module,
        layers: dict[str, list[nn.Parameter]],
        *,
        max_grad_norm: float = 0.0,
        resumed: bool = False,
    ) -> None:
        """At the beginning of training; a second time, the first is forgotten.

        Args:
            model: without the wrappers of distributed training, on its device.
            layers: its trainable parameters, as in `layers_of`.
            max_grad_norm: the clipping's limit, 0 for none.
            resumed: whether the training goes on from a checkpoint.
        """
        self.stop()
        self.columns = [self.name]
        self._device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def before_step(
        self, optimizer: torch.optim.Optimizer, total_norm: Tensor, before_clipping: bool, step: int
    ) -> None:
        """After clipping, before the optimizer's step.

        Args:
            optimizer: the one whose step comes, accelerate's wrapper around it included.
            total_norm: 0-d, the total gradient norm.
            before_clipping: whether `total_norm` was taken before clipping.
            step: number of the update step, from 1.
        """

    def after_step(self) -> Tensor:
        """This step's numbers, `(len(columns),)` float32 on the model's device, without host synchronisation."""
        raise NotImplementedError

    def stop(self) -> None:
        """Remove hooks, free copies."""

    def _unknown(self) -> Tensor:
        return torch.full((len(self.columns),), torch.nan, device=self._device)


class Clipping(Probe):
    """`clip_factor`: what clipping multiplies the gradient by; see [`clip_factor`].

        c = min(1, max_grad_norm / (||g|| + 1e-6))        1 with max_grad_norm 0

    Norms after clipping, of each layer too, are those before it times c. Where only norms after clipping are seen (a
    callback on a stock Trainer), c is NaN at a step that was clipped, else 1.

    Source: Pascanu, Mikolov & Bengio (ICML 2013, arXiv 1211.5063), algorithm 1; the 1e-6 is torch's.
    Cost: none to speak of; no memory, no pass over the parameters.
    """

    name = "clipping"

    def start(self, model, layers, *, max_grad_norm=0.0, resumed=False):
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = ["clip_factor"]
        self._max_grad_norm = max_grad_norm

    def before_step(self, optimizer, total_norm, before_clipping, step):
        self._factor = clip_factor(total_norm.detach(), self._max_grad_norm, before_clipping)

    def after_step(self):
        return self._factor.to(self._device)[None]

    def stop(self):
        self._factor = None


class UpdateRatio(Probe):
    """`update_ratio/<layer>`: size of the step relative to the layer's weights; see [`update_ratio`].

        ||w_after - w_before|| / ||w_before||

    Weight decay is part of the step. 0 at a step that fp16 scaling skips.

    Source: the ratio of You, Gitman & Ginsburg ("Large batch training of convolutional networks", 2017, arXiv
    1708.03888), upside down and of the step that was made, not of the gradient.
    Cost: memory for a copy of the trainable weights, on their device, and for the difference of the largest layer; each
    step a copy and a difference of all weights, and two norms of them.
    """

    name = "update_ratio"

    def start(self, model, layers, *, max_grad_norm=0.0, resumed=False):
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = [f"{self.name}/{layer}" for layer in layers]
        self._layers = [list(layer) for layer in layers.values()]
        self._before = _copies(self._layers)

    @torch.no_grad()
    def before_step(self, optimizer, total_norm, before_clipping, step):
        for before, layer in zip(self._before, self._layers, strict=True):
            torch._foreach_copy_(before, layer)

    def after_step(self):
        ratios = [update_ratio(layer, before) for layer, before in zip(self._layers, self._before, strict=True)]
        return torch.stack([ratio.to(self._device) for ratio in ratios])

    def stop(self):
        self._layers, self._before = [], []


class StepFactor(Probe):
    """`step_factor`: what bias correction multiplies Adam's step by; see [`step_factor`].

        sqrt(1 - beta2^t) / (1 - beta1^t)        1 without bias correction

    t and the betas are the optimizer's own, of the first parameter that it has updated: a step that fp16 scaling skips
    does not count, and shows the factor of the one before it. Times `learning_rate`, this is the rate in effect; with
    `lr_bias_correction` the factor is in `learning_rate` already. NaN for what is not torch's Adam or AdamW.

    Source: Kingma & Ba (ICLR 2015, arXiv 1412.6980), end of section 2; Mosbach et al. (ICLR 2021) on what it does.
    Cost: none to speak of; no memory, no pass over the parameters.
    """

    name = "step_factor"

    def before_step(self, optimizer, total_norm, before_clipping, step):
        self._optimizer = inner_optimizer(optimizer)

    def after_step(self):
        found = _adam_group(self._optimizer)
        if found is None:
            return self._unknown()
        step, group = found
        if not group.get("bias_correction", True):
            return torch.ones(1, device=self._device)
        betas = [float(beta) for beta in group["betas"]]
        if isinstance(step, Tensor) and step.device.type != "cpu":
            return step_factor(step.float(), *betas).reshape(1).to(self._device)
        # A copy from the host would wait for the device, filling with a number does not.
        factor = float(step_factor(torch.tensor(float(step), dtype=torch.float64), *betas))
        return torch.full((1,), factor, device=self._device)

    def stop(self):
        self._optimizer = None


class Distance(Probe):
    """`distance/<layer>`: how far the layer's weights are from where training began; see [`distance`].

        ||w - w_start||        w_start: the pretrained weights, of a new head its random ones

    NaN in a resumed run, whose start is not known.

    Source: Radiya-Dixit & Wang, "How fine can fine-tuning be?" (AISTATS 2020, arXiv 2004.14129).
    Cost: memory for a copy of the trainable weights, on their device, and for the difference of the largest layer; each
    step a difference of all weights, and a norm of it.
    """

    name = "distance"

    def start(self, model, layers, *, max_grad_norm=0.0, resumed=False):
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = [f"{self.name}/{layer}" for layer in layers]
        if resumed:
            logger.warning("diagnostic 'distance' is NaN: in a resumed run the weights it began with are not known.")
            return
        self._layers = [list(layer) for layer in layers.values()]
        self._start = _copies(self._layers)

    def after_step(self):
        if not self._start:
            return self._unknown()
        distances = [distance(layer, start) for layer, start in zip(self._layers, self._start, strict=True)]
        return torch.stack([d.to(self._device) for d in distances])

    def stop(self):
        self._layers, self._start = [], []


class OutputProbe(Probe):
    """A probe of what a module puts out, for the examples of an update step: those of all its micro-batches together.

    Forward passes count while the model is in training mode. A subclass says which modules (`modules`), what of their
    output (`read`), and the numbers (`numbers`). Under `torch.compile` the graph breaks at these modules.
    """

    mean_over_processes = True

    def start(self, model, layers, *, max_grad_norm=0.0, resumed=False):
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self._model = model
        self._hooks = [module.register_forward_hook(self._see) for module in self.modules(model)]

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The modules to look at; of several only those that run show anything."""
        raise NotImplementedError

    def read(self, module: nn.Module, output: Any) -> Tensor | None:
        """`(examples, width)` of a forward pass, or None where it has no such thing."""
        raise NotImplementedError

    def numbers(self, seen: Tensor) -> Tensor:
        """`(examples, width)` of the step's examples, float32 -> `(len(columns),)`."""
        raise NotImplementedError

    @torch.compiler.disable  # else it is compiled again for each number of micro-batches
    @torch.no_grad()
    def _see(self, module, args, output) -> None:
        values = self.read(module, output) if self._model.training else None
        if values is not None:
            self._seen.append(values.to(torch.float32, copy=True))  # a view would keep all of the output in memory

    @torch.no_grad()
    def after_step(self):
        seen, self._seen = self._seen, []
        if len({values.shape[-1] for values in seen}) != 1:
            return self._unknown()
        return self.numbers(torch.cat([values.to(self._device) for values in seen]))

    def stop(self):
        for hook in getattr(self, "_hooks", []):
            hook.remove()
        self._hooks, self._seen, self._model = [], [], None


class PoolerSaturation(OutputProbe):
    """`pooler_saturation`: share of the pooler's tanh outputs beyond .99, before its dropout; see [`saturated_share`].

        mean over the step's examples and the pooler's units of [|tanh| > .99]

    A saturated unit passes no gradient on to the encoder. The tanh is that of BERT's and ALBERT's pooler (and of others
    of their make), or of the classification head of RoBERTa's kind (`dense`, then tanh). NaN for a model without one,
    as ELECTRA and DistilBERT.

    Source: `tanh_saturation` in the code of Mosbach et al. (which looks behind the dropout, and takes .99 itself in).
    Cost: memory for examples x width numbers until the step; no pass over the parameters.
    """

    name = "pooler_saturation"

    def modules(self, model):
        return tanh_modules(model)

    def read(self, module, output):
        if not isinstance(output, Tensor) or output.ndim != 2:
            return None
        return output if isinstance(module, nn.Tanh) else torch.tanh(output)

    def numbers(self, seen):
        return saturated_share(seen)[None]


class PredictionEntropy(OutputProbe):
    """`prediction_entropy`, `one_class_share`: how sure, and how one-sided, the predictions on the step's examples are.

        mean of -sum_k p_k log p_k, p = softmax(logits), in nats        see [`prediction_entropy`]
        largest share of the examples predicted as one class            see [`one_class_share`]

    A run that has collapsed predicts one class, with the entropy of the labels. NaN for anything but classification
    with one label an example. Over several processes the share is the mean of theirs, which is the run's where they
    predict the same class most, and above it elsewhere.

    Source: `softmax_entropy` in the code of Mosbach et al.
    Cost: memory for examples x classes numbers until the step; no pass over the parameters.
    """

    name = "prediction_entropy"

    def start(self, model, layers, *, max_grad_norm=0.0, resumed=False):
        super().start(model, layers, max_grad_norm=max_grad_norm, resumed=resumed)
        self.columns = ["prediction_entropy", "one_class_share"]

    def modules(self, model):
        return [model]

    def read(self, module, output):
        problem = getattr(getattr(module, "config", None), "problem_type", None)  # the first batch's labels may set it
        if problem not in (None, "single_label_classification"):
            return None
        logits = _named_or_first(output, "logits")
        return logits if logits is not None and logits.ndim == 2 and logits.shape[-1] > 1 else None

    def numbers(self, seen):
        return torch.stack([prediction_entropy(seen), one_class_share(seen)])


class ClsVariance(OutputProbe):
    """`cls_variance`: how far the [CLS] states of the step's examples differ; see [`cls_variance`].

        variance over examples (ddof = 1) of the last hidden state at position 0, mean over its dimensions

    Near 0 the encoder says the same of every input. Position 0 is [CLS] in BERT and its kin; in an encoder-decoder it is
    the decoder's first, in a causal model the first token, which sees itself only. NaN for a step with one example, and
    where the base model puts out no such states. Over several processes it is the mean of their variances.

    Source: no paper's; the sample variance.
    Cost: memory for examples x hidden size numbers until the step; no pass over the parameters.
    """

    name = "cls_variance"

    def modules(self, model):
        return [base_model(model)[1]]

    def read(self, module, output):
        states = _named_or_first(output, "last_hidden_state")
        return states[:, 0] if states is not None and states.ndim == 3 else None

    def numbers(self, seen):
        return cls_variance(seen)[None]


PROBES: dict[str, type[Probe]] = {
    probe.name: probe
    for probe in (
        Clipping,
        UpdateRatio,
        StepFactor,
        PoolerSaturation,
        PredictionEntropy,
        Distance,
        ClsVariance,
    )
}


def make_probes(names: str | Iterable[str]) -> list[Probe]:
    """A probe for each name, in that order, each once; `"all"` for all of them.

    Raises:
        InputError: there is no diagnostic of that name.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = ["all", *PROBES]
    unknown = [f"{name!r}{nearest(name, known)}" for name in names if name not in known]
    if unknown:
        raise InputError(f"diagnostics: there is no {', no '.join(unknown)}; there are {', '.join(known)}")
    return [PROBES[name]() for name in (PROBES if "all" in names else dict.fromkeys(names))]


# ---- where to look ---------------------------------------------------------------------------------------------------


def tanh_modules(model: nn.Module) -> list[nn.Module]:
    """The pooler's tanh: `nn.Tanh` modules, or the Linear layers whose output goes into a tanh that is no module.

    Found by the names and classes of the modules, so that wrappers (DistributedDataParallel, PEFT) do no harm. Several
    where a wrapper keeps copies of a module, of which one runs.
    """
    heads = [module.dense for module in model.modules() if _is_tanh_head(module)]
    return heads or [m for name, m in model.named_modules() if isinstance(m, nn.Tanh) and "pooler" in name]


def _is_tanh_head(module: nn.Module) -> bool:
    """Whether it is a head like RobertaClassificationHead: `dense`, then `torch.tanh`, inside its forward."""
    name = type(module).__name__
    if not name.endswith(("ClassificationHead", "Pooler")) or not isinstance(
        getattr(module, "dense", None), nn.Module
    ):
        return False
    code = getattr(
        inspect.unwrap(type(module).forward), "__code__", None
    )  # BigBird's head, say, has another activation
    return code is not None and "tanh" in code.co_names


def _named_or_first(output: Any, key: str) -> Tensor | None:
    """A model's output by its key; of a tuple the first tensor that is no loss."""
    if isinstance(output, dict):
        found = output.get(key)
    else:
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        found = next((part for part in outputs if isinstance(part, Tensor) and part.ndim), None)
    return found if isinstance(found, Tensor) else None


def _copies(layers: list[list[nn.Parameter]]) -> list[list[Tensor]]:
    return [[parameter.detach().clone() for parameter in layer] for layer in layers]


def _adam_group(optimizer: Any) -> tuple[Any, dict[str, Any]] | None:
    """Step count and parameter group of the first parameter that torch's Adam or AdamW has updated; None without."""
    if not isinstance(optimizer, torch.optim.Adam):  # AdamW is one of them
        return None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state and "step" in state:
                return state["step"], group
    return None
