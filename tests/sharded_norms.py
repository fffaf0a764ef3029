"""What each of two processes sees of a sharded model's gradients, and of a training under DistributedDataParallel.

    torchrun --nproc_per_node 2 tests/sharded_norms.py <folder>

leaves `<folder>/rank-0.json` and `rank-1.json`; tests/test_everyones_trainer.py starts it and reads them.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hf_stability import layer_grad_norms
from hf_stability.diagnostics.gradients import GradientMeter
from hf_stability.errors import InputError
from hf_stability.utils.layers import layers_of
from tests import toy
from tests.test_everyones_trainer import TRAINERS, UNUSED, WithUnused, logged_losses, run, run_lm


# Uneven over two processes: 61 words are 31 and 30, 3 labels 2 and 1, and of the one token type rank 1 has nothing.
UNEVEN = {"vocab_size": 61, "num_labels": 3, "type_vocab_size": 1}
EVEN = {"num_labels": 2}


def classifier(**values):
    return toy.model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **values)


def backward(model, rows):
    model(input_ids=torch.tensor(rows["input_ids"]), labels=torch.tensor(rows["label"])).loss.backward()


def sharded(rank: int, root: bool, **values) -> dict:
    """Norms of a model that is sharded by layers, against those of the whole model on both processes' examples.

    Without `root` embeddings, pooler and classifier stay whole: some gradients are DTensors, some are not. These no one
    reduces over the processes, so that here both see the same examples.
    """
    rows = toy.data(16)
    halves = [rows[:8], rows[8:]]
    whole = classifier(**values)
    backward(whole, rows[:] if root else halves[0])
    reference = {
        layer: sum(float(p.grad.double().square().sum()) for p in group if p.grad is not None) ** 0.5
        for layer, group in layers_of(whole).items()
    }
    model = classifier(**values)
    for layer in model.bert.encoder.layer:
        fully_shard(layer)
    if root:
        fully_shard(model)
    backward(model, halves[rank] if root else halves[0])
    norms = layer_grad_norms(model)
    meter = GradientMeter(model)
    again = meter.layer_norms(meter.parameter_norms())
    grads = [p.grad for p in model.parameters()]
    return {
        "norms": {layer: float(norm) for layer, norm in norms.items()},
        "meter": dict(zip(meter.names, again.tolist(), strict=True)),
        "plain_tensors": all(type(norm) is torch.Tensor for norm in norms.values()),
        "reference": reference,
        "dtensors": sum(isinstance(grad, DTensor) for grad in grads),
        "gradients": len(grads),
        "local_rows": [list(g.to_local().shape)[:1] for g in grads if isinstance(g, DTensor)],
        "local_sum": [float(g.to_local().double().square().sum()) for g in grads if isinstance(g, DTensor)],
    }


def sharded_seeds() -> dict:
    """A model of 3 seeds, stacked, and sharded along the seed axis."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.matrix, model.bias = torch.nn.Parameter(torch.rand(3, 4, 2)), torch.nn.Parameter(torch.rand(3, 2))
    model.forward = lambda x: torch.einsum("bi,sij->sbj", x, model.matrix) + model.bias[:, None]
    reference = torch.autograd.grad(model.forward(torch.ones(5, 4)).square().sum(), [model.matrix, model.bias])
    fully_shard(model)
    model(torch.ones(5, 4)).square().sum().backward()
    return {
        "norms": {layer: norm.tolist() for layer, norm in layer_grad_norms(model, seed_axis=True).items()},
        "reference": [[float(torch.linalg.vector_norm(one)) for one in grad] for grad in reference],
        "dtensors": all(isinstance(p.grad, DTensor) for p in model.parameters()),
    }


def version_1() -> str:
    """What is said of the first version of FSDP, whose flat gradients cannot be told apart."""
    model = FullyShardedDataParallel(torch.nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=True)
    model(torch.rand(2, 4)).sum().backward()
    try:
        return f"no error: {layer_grad_norms(model)}"
    except InputError as error:
        return str(error)


def trained(folder: Path) -> dict:
    """Of each training: that its model was inside DistributedDataParallel, and what the slow reference saw."""
    trainers = {"lm": run_lm("stock", folder / "lm")}
    for kind in TRAINERS:
        trainers[kind] = run(kind, folder / kind, ddp_find_unused_parameters=False)
        name = f"{kind}-unused"
        values = {"slow": {"places": UNUSED}, "ddp_find_unused_parameters": True}
        trainers[name] = run(kind, folder / name, WithUnused(), **values)
    return {
        name: {
            "wrapped": isinstance(trainer.model_wrapped, DistributedDataParallel),
            "world_size": trainer.args.world_size,
            "micro_batches": trainer.micro_batches,
            "before": trainer.before_clipping,
            "after": trainer.after_clipping,
            "losses": trainer.losses,
            "logged": logged_losses(trainer),
            "unwrapped_names": list(layer_grad_norms(trainer.model)),
            "wrapped_names": list(layer_grad_norms(trainer.model_wrapped)),
        }
        for name, trainer in trainers.items()
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {
        "even": sharded(rank, root=True, **EVEN),
        "uneven": sharded(rank, root=True, **UNEVEN),
        "partly": sharded(rank, root=False, **EVEN),
        "seeds": sharded_seeds(),
        "version_1": version_1(),
        "ddp": trained(folder),
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
