import math

import pytest
import torch
import transformers
from accelerate.optimizer import AcceleratedOptimizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_stability import AdamW
from hf_stability.diagnostics.probes import PROBES, Clipping, Distance, Probe, make_probes
from hf_stability.diagnostics.probes.clipping import clip_factor, is_clipped
from hf_stability.diagnostics.probes.cls_variance import cls_variance
from hf_stability.diagnostics.probes.distance import distance
from hf_stability.diagnostics.probes.outputs import OutputProbe
from hf_stability.diagnostics.probes.pooler_saturation import saturated_share, tanh_modules
from hf_stability.diagnostics.probes.prediction_entropy import one_class_share, prediction_entropy
from hf_stability.diagnostics.probes.step_factor import step_factor
from hf_stability.diagnostics.probes.update_ratio import update_ratio
from hf_stability.errors import InputError
from hf_stability.methods.adamw import effective_step_factor
from hf_stability.utils.layers import layers_of
from tests import toy


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
THREE = ["bert", "roberta", "albert"]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
OUTPUT_COLUMNS = {"pooler_saturation", "prediction_entropy", "one_class_share", "cls_variance"}


def make_model(architecture="bert", **values):
    """Without dropout, so that a forward pass can be repeated, and with a head that saturates some units."""
    given = dict(NO_DROPOUT, **values)
    if architecture == "albert":
        given["classifier_dropout_prob"] = given.pop("classifier_dropout")
    model = toy.model(architecture, **given)
    with torch.no_grad():
        for module in [*tanh_modules(model), *model.modules()]:
            if isinstance(module, nn.Linear) and module.weight.shape == (16, 16):
                module.weight.mul_(20)
    return model.train()


def batches(sizes, seed=0):
    data = toy.data(sum(sizes), seed).with_format("torch")[:]
    parts = zip(data["input_ids"].split(list(sizes)), data["label"].split(list(sizes)), strict=True)
    return [{"input_ids": ids, "labels": labels} for ids, labels in parts]


def run(model, names="all", steps=2, sizes=(5, 3), optimizer=None, max_grad_norm=1.0, before_clipping=True, see=None):
    """Train in a bare loop, and return the rows, each a dict from column to number."""
    seen = make_probes(names)
    optimizer = optimizer or AdamW(model.parameters(), lr=1e-3)
    for probe in seen:
        probe.start(model, layers_of(model), max_grad_norm=max_grad_norm)
    rows = []
    for step in range(1, steps + 1):
        for batch in batches(sizes, seed=step):
            (model(**batch).loss / len(sizes)).backward()
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        if not before_clipping:
            total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if see is not None:
            see(model, step)
        for probe in seen:
            probe.before_step(optimizer, total, before_clipping, step)
        optimizer.step()
        row = {}
        for probe in seen:
            values = probe.after_step()
            assert values.shape == (len(probe.columns),) and values.dtype == torch.float32
            row.update(zip(probe.columns, values.tolist(), strict=True))
        rows.append(row)
        optimizer.zero_grad()
    for probe in seen:
        probe.stop()
    return rows


def slow_outputs(model, ids):
    """The output probes' numbers, one number at a time, from a forward pass of their own."""
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True)
    states = output.hidden_states[-1][:, 0]
    if model.config.model_type == "bert":
        pooled = torch.tanh(model.bert.pooler.dense(states))
    elif model.config.model_type == "albert":
        pooled = torch.tanh(model.albert.pooler(states))
    else:
        pooled = torch.tanh(model.classifier.dense(states))
    units = [abs(y) > 0.99 for row in pooled.tolist() for y in row]
    entropies, predicted = [], []
    for row in output.logits.double().tolist():
        exps = [math.exp(z) for z in row]
        entropies.append(-sum(e / sum(exps) * math.log(e / sum(exps)) for e in exps))
        predicted.append(row.index(max(row)))
    dimensions = states.double().T.tolist()
    n = len(ids)
    variances = [sum((x - sum(d) / n) ** 2 for x in d) / (n - 1) for d in dimensions]
    return {
        "pooler_saturation": sum(units) / len(units),
        "prediction_entropy": sum(entropies) / n,
        "one_class_share": max(predicted.count(k) for k in set(predicted)) / n,
        "cls_variance": sum(variances) / len(variances),
    }


def references(architecture, sizes, **values):
    """The slow numbers of each step of `run`, taken at the weights before the step, and the rows of the run."""
    model, slow = make_model(architecture, **values), []

    def see(model, step):
        ids = torch.cat([batch["input_ids"] for batch in batches(sizes, seed=step)])
        model.eval()  # and so not seen by the probes
        slow.append(slow_outputs(model, ids))
        model.train()

    return run(model, sizes=sizes, see=see), slow


# ---- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(8,), (5, 3), (1, 4, 3)])
@pytest.mark.parametrize("architecture", THREE)
def test_outputs_equal_a_slow_reference(architecture, sizes):
    for row, slow in zip(*references(architecture, sizes), strict=True):
        assert {column: row[column] for column in OUTPUT_COLUMNS} == pytest.approx(slow, rel=1e-4)
        assert 0 < slow["pooler_saturation"] < 1


def test_outputs_with_three_classes():
    for row, slow in zip(*references("bert", (9, 7), num_labels=3), strict=True):
        assert {column: row[column] for column in OUTPUT_COLUMNS} == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])  # ALBERT has none
def test_gradient_checkpointing_counts_no_example_twice(architecture, reentrant):
    calls = []
    expected = run(make_model(architecture), steps=2, sizes=(5, 3))
    model = make_model(architecture)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for name, module in model.named_modules():
        if name.endswith("query"):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    rows = run(model, steps=2, sizes=(5, 3))
    assert len(calls) == 2 * (3 * 2 * 2)  # each layer twice in each of 2 x 2 micro-batches: it was computed again
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("architecture", THREE)
def test_outputs_under_bf16_autocast(architecture):
    with torch.autocast("cpu", torch.bfloat16):
        rows, slow = references(architecture, (5, 3))
    for row, expected in zip(rows, slow, strict=True):
        assert {column: row[column] for column in OUTPUT_COLUMNS} == pytest.approx(expected, rel=1e-4)


def test_an_evaluation_is_not_seen():
    rows = run(make_model(), steps=2)
    again = run(make_model(), steps=2, see=lambda m, _: (m.eval(), m(**batches([30])[0]), m.train()))
    assert again == rows


@pytest.mark.parametrize("architecture", ["distilbert", "electra", "deberta"])
def test_a_model_without_a_tanh_pooler_has_no_saturation(architecture):
    row = run(toy.model(architecture).train(), steps=1)[0]
    assert math.isnan(row["pooler_saturation"])
    assert not any(math.isnan(value) for column, value in row.items() if column != "pooler_saturation")


@pytest.mark.parametrize("family", ["Roberta", "XLMRoberta", "Camembert", "MPNet", "Data2VecText"])
def test_a_heads_dense_layer_goes_into_a_tanh(family):
    config = getattr(transformers, f"{family}Config")(**toy.SIZE, pad_token_id=1)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    inside, outside = [], []
    (dense,) = tanh_modules(model)
    dense.register_forward_hook(lambda module, args, output: inside.append(torch.tanh(output)))
    model.classifier.out_proj.register_forward_pre_hook(lambda module, args: outside.append(args[0]))
    model(input_ids=torch.randint(5, 60, (3, 7)))
    assert torch.equal(inside[0], outside[0])


def test_a_pooler_without_tanh_is_left_alone():
    config = transformers.BigBirdConfig(**toy.SIZE, attention_type="original_full")
    assert tanh_modules(transformers.BigBirdForSequenceClassification(config)) == []


def test_a_tanh_pooler_is_found_inside_a_wrapper():
    wrapped = nn.DataParallel(toy.model())
    assert tanh_modules(wrapped) == [wrapped.module.bert.pooler.activation]


@pytest.mark.parametrize("architecture", THREE)
def test_outputs_through_peft(architecture):
    peft = pytest.importorskip("peft")
    plain = make_model(architecture)
    ids = torch.cat([batch["input_ids"] for batch in batches((5, 3), seed=1)])
    expected = slow_outputs(plain.eval(), ids)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.0, target_modules=["query", "value"])
    row = run(peft.get_peft_model(plain, config).train(), steps=1)[0]  # the adapter begins as zero
    assert {column: row[column] for column in OUTPUT_COLUMNS} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "values",
    [{"num_labels": 1, "problem_type": "regression"}, {"problem_type": "multi_label_classification"}],
    ids=["regression", "multi_label"],
)
def test_predictions_are_for_one_label_an_example(values):
    model = toy.model(**values).train()
    probe = PROBES["prediction_entropy"]()
    probe.start(model, layers_of(model))
    model(input_ids=batches([4])[0]["input_ids"], labels=torch.zeros(4, model.config.num_labels))
    assert probe.after_step().isnan().all()


def outputs_of(model, **inputs):
    """What the output probes say of one forward pass."""
    model.train()
    found = {}
    for probe in make_probes(OUTPUT_COLUMNS - {"one_class_share"}):
        probe.start(model, layers_of(model))
        model(**inputs)
        found.update(zip(probe.columns, probe.after_step().tolist(), strict=True))
        probe.stop()
    return found


def test_other_models_than_classifiers():
    ids = batches([4])[0]["input_ids"]
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2, "vocab_size": 60}
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    assert all(math.isnan(value) for value in outputs_of(t5, input_ids=ids, labels=ids).values())
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2))
    found = outputs_of(gpt, input_ids=ids, labels=ids)
    assert found.pop("cls_variance") > 0
    assert all(math.isnan(value) for value in found.values())


def test_a_plain_module():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    found = outputs_of(model, input=torch.randn(6, 3))
    assert 0 < found["prediction_entropy"] <= math.log(2)
    assert math.isnan(found["cls_variance"]) and math.isnan(found["pooler_saturation"])


def test_outputs_as_tuples_say_the_same():
    expected = run(make_model(), steps=1)
    model = make_model()
    model.config.return_dict = False
    found = []
    for probe in make_probes(["prediction_entropy", "cls_variance", "pooler_saturation"]):
        probe.start(model, layers_of(model))
        for batch in batches((5, 3), seed=1):
            model(**batch)
        found += zip(probe.columns, probe.after_step().tolist(), strict=True)
    assert dict(found) == {column: expected[0][column] for column in OUTPUT_COLUMNS}


def test_no_example_no_number():
    model = make_model()
    for probe in make_probes("all"):
        if isinstance(probe, OutputProbe):
            probe.start(model, layers_of(model))
            assert probe.after_step().isnan().all() and probe.after_step().shape == (len(probe.columns),)


# ---- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", THREE)
def test_weights_equal_a_slow_loop(architecture):
    model = make_model(architecture)
    history = [{name: [p.detach().clone() for p in group] for name, group in layers_of(model).items()}]
    rows = []
    optimizer = AdamW(model.parameters(), lr=1e-3)
    seen = make_probes(["update_ratio", "distance"])
    for probe in seen:
        probe.start(model, layers_of(model))
    for step in (1, 2, 3):
        model(**batches([8], seed=step)[0]).loss.backward()
        for probe in seen:
            probe.before_step(optimizer, torch.tensor(1.0), True, step)
        optimizer.step()
        rows.append({c: v for p in seen for c, v in zip(p.columns, p.after_step().tolist(), strict=True)})
        history.append({name: [p.detach().clone() for p in group] for name, group in layers_of(model).items()})

    def norm(tensors):
        return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))

    def difference(a, b):
        return norm([x.double() - y.double() for x, y in zip(a, b, strict=True)])

    for i, row in enumerate(rows):
        assert len(row) == 2 * len(history[0])
        for layer, start in history[0].items():
            before, after = history[i][layer], history[i + 1][layer]
            assert row[f"update_ratio/{layer}"] == pytest.approx(difference(after, before) / norm(before), rel=1e-4)
            assert row[f"distance/{layer}"] == pytest.approx(difference(after, start), rel=1e-4)
            assert row[f"distance/{layer}"] > 0


def test_frozen_layers_have_no_columns():
    model = make_model()
    model.bert.embeddings.requires_grad_(False)
    columns = run(model, steps=1)[0].keys()
    assert "distance/layer_00" in columns and "update_ratio/layer_00" in columns
    assert not any("embeddings" in column for column in columns)


def test_weights_that_were_zero_have_no_ratio():
    zero, one = [torch.zeros(3)], [torch.ones(3)]
    assert update_ratio(one, zero).isnan() and update_ratio(zero, zero).isnan()
    assert update_ratio(zero, one) == 1


def test_a_resumed_run_does_not_know_its_start(caplog):
    model = make_model()
    probe = PROBES["distance"]()
    probe.start(model, layers_of(model), resumed=True)
    assert probe.after_step().isnan().all()
    assert probe.columns == [f"distance/{layer}" for layer in layers_of(model)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "distance" in caplog.text and "resumed" in caplog.text


# ---- clipping and the optimizer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.001, 0.5, 1.0, 1e6])
def test_the_factor_is_what_torch_multiplies_by(limit):
    grads = [torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3)]
    parameters = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad.clone()
    total = torch.nn.utils.clip_grad_norm_(parameters, limit)
    factor = clip_factor(total, limit)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert torch.equal(parameter.grad, grad * factor)
    after = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    seen_after = clip_factor(after, limit, before_clipping=False)
    assert seen_after.isnan() if factor < 1 else seen_after == 1


@pytest.mark.parametrize("limit", [0.001, 1.0])
def test_a_step_just_above_the_limit_counts_as_clipped(limit):
    for total in (limit * 1.001, limit * 1.5):
        after = torch.tensor(total * limit / (total + 1e-6))
        assert clip_factor(after, limit, before_clipping=False).isnan()
    assert clip_factor(torch.tensor(limit * 0.99), limit, before_clipping=False) == 1


def test_a_factor_that_cannot_be_known():
    for seed in range(20):  # clipped in bf16 a norm stands at the limit but for bf16's rounding
        generator = torch.Generator().manual_seed(seed)
        half = torch.nn.Parameter(torch.zeros(300, dtype=torch.bfloat16))
        half.grad = torch.randn(300, generator=generator).bfloat16()
        torch.nn.utils.clip_grad_norm_(half, 1.0)
        assert is_clipped(torch.linalg.vector_norm(half.grad), 1.0, before_clipping=False)
    assert clip_factor(torch.tensor(math.nan), 1.0).isnan()
    assert clip_factor(torch.tensor(math.nan), 1.0, before_clipping=False).isnan()
    assert clip_factor(torch.tensor(math.nan), 0.0) == 1
    assert clip_factor(torch.tensor(math.inf), 1.0) == 0


@pytest.mark.parametrize("before_clipping", [True, False])
def test_clipping_in_a_run(before_clipping):
    totals = []

    def see(model, _):
        totals.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    def rows(limit, see=None):
        model = make_model()
        standing = torch.optim.SGD(model.parameters(), lr=0.0)
        found = run(model, "clipping", 5, (4,), standing, limit, before_clipping, see)
        return [row["clip_factor"] for row in found]

    assert rows(0, see) == [1.0] * 5
    limit = sorted(totals)[2]  # of five steps two are above
    factors = [min(1.0, limit / (total + 1e-6)) for total in totals]
    if not before_clipping:
        factors = [1.0 if total < limit else math.nan for total in totals]
    assert rows(limit) == pytest.approx(factors, rel=1e-5, nan_ok=True)
    assert len(set(map(str, factors))) > 1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: torch.optim.AdamW(p, 1e-3, betas=(0.9, 0.98)), lambda t: effective_step_factor(t, 0.9, 0.98)),
        (lambda p: torch.optim.Adam(p, 1e-3, betas=(0.0, 0.999)), lambda t: effective_step_factor(t, 0.0, 0.999)),
        (lambda p: torch.optim.AdamW(p, 1e-3, fused=True), effective_step_factor),
        (lambda p: AdamW(p, 1e-3), effective_step_factor),
        (lambda p: AdamW(p, 1e-3, bias_correction=False), lambda t: 1.0),
        (lambda p: torch.optim.SGD(p, 1e-3), lambda t: math.nan),
        (lambda p: torch.optim.NAdam(p, 1e-3), lambda t: math.nan),
        (lambda p: AdamW([{"params": []}, {"params": list(p)}], 1e-3), effective_step_factor),
    ],
    ids=["adamw", "adam", "fused", "ours", "uncorrected", "sgd", "nadam", "empty_group"],
)
def test_the_factor_on_the_step_is_the_optimizers(make, expected):
    model = make_model()
    rows = run(model, "step_factor", steps=12, sizes=(2,), optimizer=make(model.parameters()))
    slow = [expected(t) for t in range(1, 13)]
    assert [row["step_factor"] for row in rows] == pytest.approx(slow, rel=1e-5, nan_ok=True)


def test_a_step_that_is_skipped_does_not_count():
    model = make_model()
    optimizer = AdamW(model.parameters(), lr=1e-3)
    probe = PROBES["step_factor"]()
    probe.start(model, layers_of(model))
    found = []
    for step, skipped in enumerate([True, False, False, True, False], 1):
        model(**batches([4])[0]).loss.backward()
        probe.before_step(optimizer, torch.tensor(1.0), True, step)
        if not skipped:
            optimizer.step()
        found.append(probe.after_step().item())
    slow = [math.nan, *(effective_step_factor(t) for t in (1, 2, 2, 3))]
    assert found == pytest.approx(slow, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.98), (0.0, 0.9999)])
def test_on_the_host_it_is_the_methods_own_number(betas):
    model = make_model()
    optimizer = AdamW(model.parameters(), lr=1e-3, betas=betas)
    rows = run(model, "step_factor", steps=4, sizes=(2,), optimizer=optimizer)
    own = [torch.tensor(effective_step_factor(t, *betas), dtype=torch.float32).item() for t in range(1, 5)]
    assert [row["step_factor"] for row in rows] == own


def test_a_counter_at_zero_has_no_factor():
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    optimizer.state[weight] = {"step": torch.tensor(0.0)}  # a fused kernel under fp16 scaling takes a step back
    probe = PROBES["step_factor"]()
    probe.start(make_model(), {})
    probe.before_step(optimizer, torch.tensor(1.0), True, 1)
    assert probe.after_step().isnan().all()


def test_the_papers_factors():
    steps = torch.tensor([1.0, 10.0, 100.0, 156.0, 468.0, 1000.0])
    paper = [0.3162, 0.1532, 0.3086, 0.3801, 0.6115, 0.7952]
    assert step_factor(steps).tolist() == pytest.approx(paper, abs=5e-5)


def test_the_factor_is_exact_in_float32():
    steps = torch.arange(1, 20_000, 37)
    slow = effective_step_factor(steps.numpy(), 0.9, 0.999)
    assert step_factor(steps.float()).tolist() == pytest.approx(slow.tolist(), rel=2e-6)


# ---- seeds -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(2, 5), st.integers(0, 2**31))
def test_numbers_take_a_leading_seed_axis(seeds, examples, width, seed):
    values = torch.randn(seeds, examples, width, generator=torch.Generator().manual_seed(seed))
    functions = [
        lambda x: saturated_share(torch.tanh(3 * x)),
        prediction_entropy,
        one_class_share,
        cls_variance,
        lambda x: clip_factor(x.abs().sum((-2, -1)), 3.0),
        lambda x: clip_factor(x.abs().sum((-2, -1)), 3.0, before_clipping=False),
        lambda x: step_factor(x.abs().sum((-2, -1)).ceil()),
    ]
    for function in functions:
        stacked = function(values)
        assert stacked.shape == (seeds,)
        looped = torch.stack([function(one) for one in values])
        torch.testing.assert_close(stacked, looped, equal_nan=True)


def test_weights_take_a_leading_seed_axis():
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(3, 4, 5, generator=generator), torch.randn(3, 6, generator=generator)]
    after = [tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for tensor in before]
    for function in (distance, update_ratio):
        stacked = function(after, before, seed_axis=True)
        looped = [function([t[i] for t in after], [t[i] for t in before]) for i in range(3)]
        torch.testing.assert_close(stacked, torch.stack(looped))


# ---- a run as a whole ----------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    """Drives all probes as a callback on a stock Trainer would."""

    def __init__(self):
        self.probes, self.rows = make_probes("all"), []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for probe in self.probes:
            probe.start(model, layers_of(model), max_grad_norm=args.max_grad_norm, resumed=state.global_step > 0)

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        assert isinstance(optimizer, AcceleratedOptimizer)
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        for probe in self.probes:
            probe.before_step(optimizer, total, False, state.global_step + 1)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.rows.append({c: v for p in self.probes for c, v in zip(p.columns, p.after_step().tolist(), strict=True)})

    def on_train_end(self, args, state, control, **kwargs):
        for probe in self.probes:
            probe.stop()


@pytest.mark.parametrize(
    ("architecture", "values"),
    [*((name, {}) for name in THREE), ("roberta", {"bf16": True}), ("bert", {"gradient_checkpointing": True})],
    ids=str,
)
def test_weights_are_bitwise_those_without_probes(architecture, values, tmp_path):
    def train(callbacks):
        args = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            eval_strategy="steps",
            eval_steps=2,
            **values,
            **toy.QUIET,
        )
        return toy.train(Trainer, args, callbacks, architecture=architecture)

    recorder = Recorder()
    assert torch.equal(toy.weights(train([recorder])), toy.weights(train([])))
    assert len(recorder.rows) == 4
    for step, row in enumerate(recorder.rows, 1):
        known = {column: value for column, value in row.items() if column != "clip_factor"}
        assert all(math.isfinite(value) for value in known.values())
        assert row["step_factor"] == pytest.approx(effective_step_factor(step), rel=1e-5)
        assert row["one_class_share"] * 8 == pytest.approx(round(row["one_class_share"] * 8))  # of 2 x 4 examples
        assert row["clip_factor"] == 1 or math.isnan(row["clip_factor"])
        assert 0 <= row["pooler_saturation"] <= 1 and row["cls_variance"] > 0


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("name", PROBES)
def test_nothing_is_left_after_stop(name):
    model = make_model()
    probe = PROBES[name]()
    probe.stop()  # harmless before the start
    for _ in range(2):
        probe.start(model, layers_of(model), max_grad_norm=1.0)
        assert hooks_of(model) == isinstance(probe, OutputProbe)  # after a second start too
    model(**batches([4])[0]).loss.backward()
    probe.before_step(AdamW(model.parameters()), torch.tensor(1.0), True, 1)
    probe.stop()
    assert hooks_of(model) == 0
    kept = {key: value for key, value in vars(probe).items() if key not in ("columns", "_device", "_max_grad_norm")}
    assert not any(kept.values()), kept
    probe.start(model, layers_of(model), max_grad_norm=1.0)  # and it can be used again
    probe.before_step(AdamW(model.parameters()), torch.tensor(1.0), True, 1)
    assert probe.after_step().shape == (len(probe.columns),)


class Plain(nn.Module):
    """A classifier whose own passes wait for nothing."""

    def __init__(self):
        super().__init__()
        self.encoder, self.pooler, self.head = (
            nn.Linear(3, 8),
            nn.Sequential(nn.Linear(8, 8), nn.Tanh()),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        states = self.encoder(x)
        return {"logits": self.head(self.pooler(states[:, 0])), "last_hidden_state": states}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_no_probe_waits_for_the_device(device, fused):
    model = Plain().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    x = torch.randn(4, 5, 3, device=device)
    seen = make_probes("all")
    for probe in seen:
        probe.start(model, layers_of(model), max_grad_norm=1.0)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for step in (1, 2):
            model(x)["logits"].square().sum().backward()
            total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for probe in seen:
                probe.before_step(optimizer, total, step == 1, step)
            optimizer.step()
            values = torch.cat([probe.after_step() for probe in seen])
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert values.device.type == device
    assert values[1:].isfinite().all()


# ---- names -------------------------------------------------------------------------------------------------------------


def test_probes_by_name():
    assert [probe.name for probe in make_probes("all")] == list(PROBES)
    assert [probe.name for probe in make_probes(["all", "distance"])] == list(PROBES)
    assert [type(probe) for probe in make_probes(["distance", "clipping", "distance"])] == [
        Distance,
        Clipping,
    ]
    assert [probe.name for probe in make_probes("distance")] == ["distance"]
    assert make_probes([]) == []
    first, second = make_probes("all"), make_probes("all")
    assert not set(map(id, first)) & set(map(id, second))


def test_an_unknown_name_is_an_error():
    with pytest.raises(
        InputError, match=r"'distanse' \(did you mean distance\?\), no 'nothing'\. Give any of all, clip"
    ):
        make_probes(["distanse", "clipping", "nothing"])


def test_every_probe_is_in_the_list_and_says_what_it_costs():
    def below(cls):
        return {cls} | {found for sub in cls.__subclasses__() for found in below(sub)}

    assert {probe for probe in below(Probe) if probe.name} == set(PROBES.values())
    for name, probe in PROBES.items():
        assert "Cost: " in probe.__doc__ and "Source: " in probe.__doc__
        assert name == probe.name
        assert probe.mean_over_processes == issubclass(probe, OutputProbe)


def test_columns_of_probes_do_not_meet():
    model, seen = make_model(), make_probes("all")
    for probe in seen:
        probe.start(model, layers_of(model))
    columns = [column for probe in seen for column in probe.columns]
    assert len(set(columns)) == len(columns) == 6 + 2 * len(layers_of(model))
