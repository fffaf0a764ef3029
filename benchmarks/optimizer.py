"""Time a step of `hf_stability.methods.adamw.AdamW` against torch's AdamW, in one run.

The result is the ratio to torch's fused AdamW. See `python benchmarks/optimizer.py --help`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, installed or not
from benchmarks.timing import interleaved, machine, ratio_interval
from hf_stability.methods.adamw import AdamW


LIMIT = 1.05  # for the upper end of the interval of ours / torch's fused
PEER = "torch AdamW, fused"
OURS = ("ours, fused, bias_correction=False", "ours, fused, bias_correction=True")

HELP = f"""\
Time one optimizer step over the parameters of a 6-layer BERT (hidden 384, vocabulary 30522, 22.7 million parameters,
float32, CPU), with random gradients that stay the same. The contestants work on the same parameters and gradients,
each with its own state:

  ours, fused        AdamW of hf_stability, without and with bias correction
  torch fused        the peer
  torch foreach      torch's default on a GPU; on a CPU its temporaries make it slow
  Python for-loop    written like the AdamW that transformers removed, which had the switch (`correct_bias`)

They take turns in blocks. In a block each makes --steps steps, in a new random order. The result is the median over
blocks of the ratio to torch's fused AdamW, with its 95% bootstrap interval. The exit status is 1 if the upper end of
that interval exceeds {LIMIT} for ours, with or without bias correction, else 0.

The limit is on the interval, so a run that is too noisy fails as well. Then look at both ends. More blocks narrow the
interval. Run nothing else meanwhile, and ask for no more --threads than there are idle cores.
"""
EXAMPLES = """\
examples:
  python benchmarks/optimizer.py                               a minute or two
  python benchmarks/optimizer.py --blocks 5 --steps 2          a quick look; too few blocks to judge by
  python benchmarks/optimizer.py --threads 2 --json times.json with the times of all blocks
"""


class LoopAdamW(torch.optim.Optimizer):
    """AdamW as a Python loop over the parameters, like the class of transformers 4 (`transformers.AdamW`)."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0, correct_bias=True):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "correct_bias": correct_bias}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"] = torch.zeros_like(p)
                    state["exp_avg_sq"] = torch.zeros_like(p)
                state["step"] += 1
                state["exp_avg"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                denominator = state["exp_avg_sq"].sqrt().add_(group["eps"])
                step_size = group["lr"]
                if group["correct_bias"]:
                    step_size *= math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
                p.addcdiv_(state["exp_avg"], denominator, value=-step_size)
                if group["weight_decay"] > 0:
                    p.add_(p, alpha=-group["lr"] * group["weight_decay"])


def bert_parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    """Parameters with the shapes of a 6-layer BERT with a classifier, N(0, 0.02), and their gradients, N(0, 0.001)."""
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.device("meta"):  # only the shapes; the weights are replaced
        shapes = [p.shape for p in BertForSequenceClassification(config).parameters()]
    generator = torch.Generator().manual_seed(seed)
    parameters = []
    for shape in shapes:
        parameter = torch.nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        parameter.grad = 0.001 * torch.randn(shape, generator=generator)
        parameters.append(parameter)
    return parameters


def contestants(parameters: list[torch.nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    """The optimizers by name, with BERT's settings. Vectors (biases, LayerNorm) do not decay, as in the Trainer."""

    def groups():  # new dicts for each: torch writes into them
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
        ]

    # A tiny learning rate: after thousands of steps the weights are still of a realistic size.
    settings = {"lr": 1e-7, "betas": (0.9, 0.999), "eps": 1e-6}
    return {
        OURS[0]: AdamW(groups(), **settings, fused=True, bias_correction=False),
        OURS[1]: AdamW(groups(), **settings, fused=True, bias_correction=True),
        PEER: torch.optim.AdamW(groups(), **settings, fused=True),
        "torch AdamW, foreach": torch.optim.AdamW(groups(), **settings, foreach=True),
        "Python for-loop, correct_bias=False": LoopAdamW(groups(), **settings, correct_bias=False),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=40, help="number of blocks, the sample size n (default: 40)")
    parser.add_argument("--steps", type=int, default=10, help="steps of each contestant in a block (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads (default: 1, the least noisy)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the values, the orders and the bootstrap (default: 0)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for machine, settings, times and ratios")
    args = parser.parse_args(argv)
    if min(args.blocks, args.steps, args.threads) < 1:
        parser.error("--blocks, --steps and --threads must be at least 1.")

    torch.set_num_threads(args.threads)
    parameters = bert_parameters(args.seed)
    optimizers = contestants(parameters)
    times = interleaved({name: o.step for name, o in optimizers.items()}, args.blocks, args.steps, seed=args.seed)
    ratios = {name: ratio_interval(times, name, PEER, seed=args.seed) for name in times}

    host = machine()
    count = sum(p.numel() for p in parameters)
    print(
        f"{count / 1e6:.1f} M parameters in {len(parameters)} tensors, float32, CPU; n = {args.blocks} blocks of "
        f"{args.steps} steps; {host['processor']}, {host['cpus']} CPUs, {host['threads']} thread(s), "
        f"torch {host['torch']}\n"
    )
    print("| optimizer | ms per step (median) | ratio to torch fused (median) | 95% interval |")
    print("| --- | --- | --- | --- |")
    for name, (median, low, high) in ratios.items():
        milliseconds = 1000 * statistics.median(times[name])
        interval = "" if name == PEER else f"{low:.3f} to {high:.3f}"
        print(f"| {name} | {milliseconds:.2f} | {median:.3f} | {interval} |")

    too_slow = [name for name in OURS if ratios[name][2] > LIMIT]
    verdict = f"above {LIMIT}: {'; '.join(too_slow)}" if too_slow else f"ours stays below {LIMIT}"
    print(f"\nUpper end of the interval: {verdict}.")
    if any(ratios[name][1] <= LIMIT for name in too_slow):
        print(f"The interval includes {LIMIT}, so it does not decide. Take more --blocks, or a quieter machine.")

    if args.json is not None:
        record = {
            "machine": host,
            "settings": {"blocks": args.blocks, "steps": args.steps, "seed": args.seed, "parameters": count},
            "seconds_per_step": times,
            "ratio_to_torch_fused": {n: {"median": m, "low": lo, "high": hi} for n, (m, lo, hi) in ratios.items()},
            "limit": LIMIT,
            "passed": not too_slow,
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 1 if too_slow else 0


if __name__ == "__main__":
    sys.exit(main())
