"""The least time of a training: the operations of its matrix products, divided by the rate at which this machine makes them."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from pathlib import Path


def operations(lengths: Sequence[int], layers: int, hidden: int, intermediate: int) -> int:
    """Operations of a forward pass over texts of these lengths: 2 for each multiplication with its addition.

    In each layer, a token of a text of n tokens takes 8 h^2 for queries, keys, values and the output projection, 4 h i for the
    feed-forward layer, and 4 n h for attention. Everything else is left out.
    """
    return layers * sum(n * (8 * hidden**2 + 4 * hidden * intermediate + 4 * n * hidden) for n in lengths)


def floor_seconds(model: str, texts: Path, batch: int, max_length: int, processes: int) -> float:
    """Seconds of an epoch and an evaluation, if they were matrix products of the real tokens alone.

    A backward pass takes twice the operations of a forward pass.

    Args:
        model: folder of the checkpoint and its tokenizer.
        texts: the file that benchmarks/stock_glue.py reads.
        batch: examples per update step.
        max_length: tokens of a text, at most.
        processes: with one thread each, at the same time.
    """
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    shape = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    found, lengths = json.loads(texts.read_text(encoding="utf-8")), {}
    for name, rows in found.items():
        ids = tokenizer(*rows["texts"], truncation=True, max_length=max_length)["input_ids"]
        lengths[name] = [len(row) for row in ids]
    work = (batch * round(statistics.mean(lengths["train"])), *shape[1:])
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        rate = sum(pool.starmap(matrix_rate, [work] * processes, chunksize=1))
    return (3 * operations(lengths["train"], *shape) + operations(lengths["validation"], *shape)) / rate


def matrix_rate(tokens: int, hidden: int, intermediate: int, seconds: float = 3.0) -> float:
    """Operations per second of a layer's matrix products in float32, forward pass, one thread.

    They are `(tokens, h)` with `(h, h)` four times, with `(h, i)`, and back. Attention is left out.
    """
    import torch

    torch.set_num_threads(1)
    x, square = torch.randn(tokens, hidden), torch.randn(hidden, hidden)
    up, down = torch.randn(hidden, intermediate), torch.randn(intermediate, hidden)
    layers, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or not layers:
        for _ in range(4):
            x @ square
        (x @ up) @ down
        layers += 1
    return layers * tokens * (8 * hidden**2 + 4 * hidden * intermediate) / passed
