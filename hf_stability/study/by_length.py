"""A trainer that evaluates examples of similar length together, so that batches have hardly any padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from ..tasks.load import token_counts
from ..trainer import StableTrainer


class LengthTrainer(StableTrainer):
    """The trainer of a study's runs: a `StableTrainer` that evaluates the longest examples first.

    The metrics, and whoever else reads an evaluation, get the examples in the order of the evaluation set. A batch has
    another padding than in that order, so logits and the evaluation's loss can differ in their last bits. Training is the
    same, bit for bit: an evaluation draws as often from the global random state.

    Evaluation sets are those of `TokenizedData`.
    """

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler:
        return _InOrder(longest_first(eval_dataset))

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        back = np.argsort(longest_first(dataloader.dataset))
        compute_metrics = self.compute_metrics

        def computed(prediction: EvalPrediction) -> dict[str, float]:
            prediction.predictions = _at(back, prediction.predictions)
            prediction.label_ids = _at(back, prediction.label_ids)
            return compute_metrics(prediction)

        self.compute_metrics = computed
        try:
            output = super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self.compute_metrics = compute_metrics
        return output._replace(predictions=_at(back, output.predictions), label_ids=_at(back, output.label_ids))


class _InOrder(Sampler):
    """Gives these indices."""

    def __init__(self, indices: np.ndarray):
        self.indices = indices.tolist()

    def __iter__(self) -> Any:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def longest_first(dataset: Any) -> np.ndarray:
    """Indices of the examples by falling number of tokens, `(n,)`. Equal lengths keep their order."""
    return np.argsort(-token_counts(dataset), kind="stable")


def _at(indices: np.ndarray, values: Any) -> Any:
    """Arrays of one row per example, or tuples of them, with their rows at these indices. All else stays as it is.

    With `--label_names` that a batch lacks, the Trainer counts the loss among the predictions: it has no row per example.
    """
    if isinstance(values, (tuple, list)):
        return type(values)(_at(indices, value) for value in values)
    has_rows = np.ndim(values) > 0 and len(values) == len(indices)
    return values[indices] if has_rows else values
