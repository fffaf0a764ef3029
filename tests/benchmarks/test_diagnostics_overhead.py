"""The parts of the benchmark, and all of it on the smallest size; what it measures here means nothing."""

import json
import threading

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks import diagnostics_overhead as overhead
from benchmarks.diagnostics_overhead import NAMES, Gate, PaperLoop, SharedMoments, WandbHistograms, twin
from tests import toy


STEPS = 12


def made(tmp_path, trainer_class=Trainer, callbacks=(), model=None):
    """A function that makes a trainer of `STEPS` update steps."""
    args = TrainingArguments(str(tmp_path), **toy.QUIET, max_steps=STEPS, per_device_train_batch_size=4)
    return lambda: trainer_class(model or toy.model(), args, train_dataset=toy.data(64), callbacks=list(callbacks))


class Seen(TrainerCallback):
    """Update steps that were begun."""

    def __init__(self):
        self.steps = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.steps.append(state.global_step + 1)


# ---- taking turns


def test_a_turn_is_so_many_update_steps_and_not_one_more(tmp_path):
    seen = Seen()
    gate = Gate(made(tmp_path, callbacks=[seen]))
    assert seen.steps == []
    gate.turn(3)
    assert seen.steps == [1, 2, 3]
    gate.turn(1)
    assert seen.steps == [1, 2, 3, 4]
    gate.stop()
    assert seen.steps == [1, 2, 3, 4] and not gate.thread.is_alive()


def test_what_a_training_raises_is_raised_here(tmp_path):
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("out of memory")

    with pytest.raises(FileNotFoundError):
        Gate(lambda: open(tmp_path / "nowhere"))
    gate = Gate(made(tmp_path, callbacks=[Broken()]))
    with pytest.raises(RuntimeError, match="out of memory"):
        gate.turn(1)


# ---- one memory for all


def test_twins_share_their_weights_and_nothing_else():
    model = toy.model()
    other = twin(model)
    for (name, mine), (its_name, its) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == its_name and mine is not its and mine.data_ptr() == its.data_ptr()
    for mine, its in zip(model.modules(), other.modules(), strict=True):
        assert type(mine) is type(its) and mine is not its
    calls = []
    other.register_forward_hook(lambda *_: calls.append(1))
    batch = {"input_ids": torch.tensor([[1, 7, 8]]), "labels": torch.tensor([1])}
    model(**batch).loss.backward()
    assert calls == [] and all(p.grad is None for p in other.parameters())
    with torch.no_grad():
        model.classifier.bias.add_(1)
    assert torch.equal(other.classifier.bias, model.classifier.bias)


def test_optimizers_that_share_weights_and_moments_go_on_where_the_other_stopped():
    """Two twins with a step each, against one model with both. Each counts its own steps: bias correction is set to 1."""
    batches = [torch.randint(5, toy.VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(i)) for i in range(2)]

    def trained(steps_of_each):
        model, remaining = toy.model(), iter(batches)
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
        for steps in steps_of_each:
            own = twin(model).eval()  # no dropout
            optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, fused=True)
            SharedMoments(moments).on_train_begin(None, None, None, model=own, optimizer=optimizer)
            for state in optimizer.state.values():
                state["step"] += 1e6
            for _ in range(steps):
                ids = next(remaining)
                own(input_ids=ids, labels=ids[:, 0] % 2).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        return toy.weights(model)

    assert torch.equal(trained([1, 1]), trained([2]))
    assert not torch.equal(trained([2]), toy.weights(toy.model()))


def test_every_contestant_trains_the_one_copy(tmp_path):
    make = overhead.contestants("tiny", 6, 2, 1, 3, "cpu", str(tmp_path))
    assert set(make) == {"stock", *NAMES}
    trainers = {key: make[key]() for key in make}
    places = {key: [p.data_ptr() for p in trainer.model.parameters()] for key, trainer in trainers.items()}
    assert all(place == places["stock"] for place in places.values())
    before = toy.weights(trainers["stock"])
    for key, trainer in trainers.items():
        trainer.train()
        assert not torch.equal(toy.weights(trainers["stock"]), before), key
        before = toy.weights(trainers["stock"])
        state = trainer.optimizer.state
        moments = [state[p]["exp_avg"].data_ptr() for p in trainer.model.parameters()]
        assert moments == places.setdefault("moments", moments)
    assert [len(trainers[key].stability.recorder.probes) > 0 for key in ("stable", "everything")] == [False, True]


# ---- the peers


def test_the_histograms_are_those_of_numpy(tmp_path):
    histograms, gradients = WandbHistograms(), {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})

    trainer = made(tmp_path, callbacks=[histograms, Keep()])()
    trainer.args.max_grad_norm = 0.0  # a hook sees gradients before clipping
    trainer.train()
    assert histograms.histograms.keys() == gradients.keys()
    for name, gradient in gradients.items():
        counts, edges = histograms.histograms[name]
        values = gradient.numpy().ravel()
        if values.min() == values.max():
            assert counts == [len(values)]
            continue
        expected = np.histogram(values, 64, (values.min(), values.max()))
        np.testing.assert_allclose(edges, expected[1], atol=1e-6 * np.abs(values).max())
        assert sum(counts) == len(values) and np.abs(np.cumsum(counts) - np.cumsum(expected[0])).max() <= 2  # at edges
    assert not any(p._backward_hooks for p in trainer.model.parameters())


def test_the_histograms_leave_out_what_is_not_finite():
    histograms = WandbHistograms(bins=4)
    histograms.observe("a", torch.tensor([0.0, 1.0, 4.0, torch.nan, torch.inf]))
    histograms.observe("b", torch.tensor([torch.nan]))
    histograms.observe("c", torch.tensor([2.0, 2.0]))
    assert histograms.histograms == {"a": ([1, 1, 0, 1], [0, 1, 2, 3, 4]), "c": ([2], [2, 2])}


def test_the_papers_loop_has_each_norm_before_and_after_clipping(tmp_path):
    trainer = made(tmp_path, PaperLoop)()
    trainer.args.max_grad_norm = 0.1
    trainer.train()
    half = len(trainer.norms) // 2
    before, after = (np.array([norm for _, norm in part]) for part in (trainer.norms[:half], trainer.norms[half:]))
    assert half == len(list(trainer.model.parameters()))
    np.testing.assert_allclose(after, before * 0.1 / np.linalg.norm(before), rtol=1e-4)


# ---- the whole


@pytest.mark.slow
def test_the_demo_is_timed_on_its_own_data():
    data, collate = overhead.make_data("demo", 1005, 16)
    assert len(data) == 1005 and data[1000] == data[0]
    lengths = [len(row["input_ids"]) for row in data.select(range(16))]
    batch = collate([data[i] for i in range(16)])
    assert batch["input_ids"].shape == (16, max(lengths)) and len(set(lengths)) > 1
    assert overhead.make_model("demo").config.num_hidden_layers == 12


def test_it_runs_all_of_them_and_reports(tmp_path, capsys):
    names = ["--size", "tiny", "--tokens", "6", "--batch", "2", "--rounds", "1", "--turns", "2", "--steps", "2"]
    threads = threading.active_count()
    status = overhead.main([*names, "--contestants", *NAMES, "--json", str(tmp_path / "times.json")])
    table = capsys.readouterr().out
    assert status == 0  # no bar on this size
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows == ["update step", "stock Trainer", *NAMES.values()]
    content = json.loads((tmp_path / "times.json").read_text())
    assert content["about"]["size"] == "tiny" and content["about"]["steps"] == 2
    assert {key: len(times) for key, times in content["seconds_a_step"].items()} == dict.fromkeys(["stock", *NAMES], 2)
    assert threading.active_count() <= threads + 1  # tqdm's


def test_the_bars():
    assert overhead.bar_of("stable", "minilm", "cpu") == overhead.bar_of("stable", "bert-large", "cpu") == 1.01
    assert (
        overhead.bar_of("callback", "minilm", "cpu") == 1.05 and overhead.bar_of("callback", "minilm", "cuda") == 1.01
    )
    for key, size in (("stable", "demo"), ("callback", "tiny"), ("everything", "minilm"), ("stock", "minilm")):
        assert overhead.bar_of(key, size, "cpu") is None


@pytest.mark.parametrize(("ratio", "too_slow"), [(1.005, []), (1.02, ["StableTrainer"])])
def test_the_upper_end_decides(ratio, too_slow):
    peer = list(np.random.default_rng(0).uniform(1, 2, 30))
    times = {"stock": peer, "stable": [ratio * t for t in peer], "wandb": [1.5 * t for t in peer]}
    table, found = overhead.report(times, "minilm", "cpu")
    assert found == too_slow
    assert (
        f"| StableTrainer | {1e3 * ratio * np.median(peer):.1f} | {ratio:.3f} | {ratio:.3f} to {ratio:.3f} | 1.01 |"
        in table
    )
    noisy = {"stock": peer, "stable": [t * (1.2 if i % 2 else 0.8) for i, t in enumerate(peer)]}
    assert overhead.report(noisy, "minilm", "cpu")[1] == ["StableTrainer"]  # too noisy to tell is no pass


def test_options_go_by_the_size(capsys):
    options = overhead.parse(["--size", "bert-large"])
    assert (options.steps, options.rounds) == (
        1,
        overhead.SIZES["bert-large"].rounds,
    ) and "again" not in options.contestants
    assert overhead.parse(["--rounds", "3"]).rounds == 3
    for wrong in (["--steps", "0"], ["--size", "huge"], ["--contestants", "nobody"]):
        with pytest.raises(SystemExit):
            overhead.parse(wrong)
    with pytest.raises(SystemExit):
        overhead.parse(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in [*NAMES, *overhead.SIZES])
