import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_stability.diagnostics import early_warning
from hf_stability.diagnostics.early_warning import (
    Alarm,
    check,
    check_steps,
    evidence,
    find_alarm,
    lower_half,
    risk,
    with_alarm,
)
from hf_stability.errors import InputError
from hf_stability.verdicts.verdict import judge


LAYERS = ["embeddings", *(f"layer_{i:02d}" for i in range(4)), "pooler", "classifier"]
TOTAL, WARMUP = 200, 20


def made_record(fails: bool, seed: int = 0, total: int = TOTAL):
    """Both runs begin alike. After the warmup one learns, and in the other the gradients of the lower layers vanish."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, total + 1)
    fall = np.exp(-5 * np.clip((t - WARMUP) / (0.2 * total), 0, 1)) if fails else np.ones(total)
    rise = np.clip((t - WARMUP) / (0.3 * total), 0, 1) * (not fails)
    norms = np.exp(rng.normal(0, 0.3, (total, len(LAYERS)))) * (0.3 * fall + rise)[:, None]
    norms[:, -1] = np.exp(rng.normal(0, 0.2, total))
    return {
        "step": t,
        "loss": 0.69 - 0.5 * rise + rng.normal(0, 0.02, total),
        "logit_std": np.exp(rng.normal(0, 0.2, total)) * (0.2 * fall + rise),
        "layer_norms": norms,
        "labels": rng.multinomial(16, [0.5, 0.5], total),
        "layers": LAYERS,
        "info": {"warmup_steps": WARMUP, "max_steps": total},
    }


def reference(record, step, total):
    """The module's equation, written out."""
    rows = [i for i in range(len(record["step"])) if record["step"][i] <= step]
    width, loss_width = max(5, math.ceil(0.03 * total)), max(5, math.ceil(0.1 * total))

    def level(begin, end, layer):
        return np.median([math.log(record["layer_norms"][i][layer]) for i in rows[begin:end]])

    def lower(begin, end):
        return np.median([level(begin, end, layer) for layer in (0, 1, 2)])

    now, highest = len(rows), []
    end = now
    while end - width >= 0 or not highest:
        highest.append(lower(max(0, end - width), end))
        end -= width // 2
    counts = sum(record["labels"][i] for i in rows)
    shares = [count / sum(counts) for count in counts]
    entropy = -sum(p * math.log(p) for p in shares if p)
    begin = max(0, now - width)
    return {
        "level": lower(begin, now) - level(begin, now, len(LAYERS) - 1),
        "trend": lower(begin, now) - max(highest),
        "spread": np.median([math.log(record["logit_std"][i]) for i in rows[begin:]]),
        "loss": np.mean([record["loss"][i] for i in rows[-loss_width:]]) / entropy,
    }


def evidence_of(record, step, total=TOTAL):
    until = record["step"] <= step
    columns = (record[name][until] for name in ("layer_norms", "loss", "logit_std"))
    return evidence(*columns, record["labels"][until], record["layers"], total)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("step", [3, 12, 40, 41, 133, 200])
def test_the_evidence_follows_the_equation(fails, step):
    record = made_record(fails, seed=step)
    found, wanted = evidence_of(record, step), reference(record, step, TOTAL)
    assert found == {name: pytest.approx(value) for name, value in wanted.items()}


def test_seeds_on_a_leading_axis_are_each_as_alone():
    records = [made_record(fails, seed) for seed in range(3) for fails in (False, True)]
    stacked = {name: np.stack([r[name] for r in records]) for name in ("layer_norms", "loss", "logit_std", "labels")}
    together = evidence(*stacked.values(), LAYERS, TOTAL)
    for i, record in enumerate(records):
        alone = evidence_of(record, TOTAL)
        for name, value in together.items():
            assert value.shape == (6,) and value[i] == pytest.approx(alone[name])
        assert risk(together)[i] == pytest.approx(risk(alone))


@given(scale=st.floats(1e-3, 1e3))
def test_scaling_all_gradients_changes_nothing(scale):
    record = made_record(True)
    scaled = {**record, "layer_norms": record["layer_norms"] * scale}
    assert evidence_of(scaled, 80) == {name: pytest.approx(v) for name, v in evidence_of(record, 80).items()}


@given(warmup=st.integers(0, 3000), total=st.integers(1, 3000), every=st.sampled_from([0.01, 0.05, 0.1]))
def test_it_is_silent_until_the_warmup_and_a_window_are_over(warmup, total, every):
    steps = check_steps(warmup, total, every)
    assert steps == sorted(set(steps)) and len(steps) < 1 / every
    for step in steps:
        assert warmup + max(5, 0.03 * total) <= step < total


def test_a_fraction_for_warmup_is_refused():
    with pytest.raises(InputError, match="0.1 looks like a fraction"):
        check_steps(0.1, 200)


def test_a_run_that_fails_raises_one_alarm_and_one_that_learns_none():
    assert find_alarm(made_record(False)) is None
    alarm = find_alarm(made_record(True))
    assert alarm.step in check_steps(WARMUP, TOTAL) and alarm.total_steps == TOTAL
    assert alarm.risk >= early_warning.THRESHOLD and alarm.layer in LAYERS[:5]
    assert f"step {alarm.step} of {TOTAL}" in alarm.sentence and alarm.layer in alarm.sentence
    assert "learning rate" in alarm.sentence and "mosbach2021" in alarm.sentence
    assert Alarm.from_dict(json.loads(json.dumps(alarm.to_dict()))) == alarm
    with pytest.raises(InputError, match="hf_stability.alarm/9"):
        Alarm.from_dict({**alarm.to_dict(), "schema": "hf_stability.alarm/9"})


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_look_ahead(seed):
    whole = made_record(True, seed)
    alarm = find_alarm(whole)
    rows = {name: value[: alarm.step] for name, value in whole.items() if isinstance(value, np.ndarray)}
    assert find_alarm({**whole, **rows}) == alarm
    earlier = {name: value[: alarm.step - 1] for name, value in rows.items()}
    assert find_alarm({**whole, **earlier}) is None


def test_a_run_that_fits_its_data_loses_its_gradients_and_raises_no_alarm():
    record = made_record(fails=True)
    assert find_alarm(record) is not None
    record["loss"] = np.geomspace(0.69, 1e-4, TOTAL)
    assert find_alarm(record) is None and check(record, 160, TOTAL) == (0.0, None)


def test_missing_numbers_raise_no_alarm():
    record = made_record(True)
    no_norms = {**record, "layer_norms": np.full_like(record["layer_norms"], np.nan)}
    no_classes = {**record, "labels": np.zeros((TOTAL, 0))}
    no_loss = {**record, "loss": np.full(TOTAL, np.nan)}
    for other in (no_norms, no_classes, no_loss):
        value, alarm = check(other, 100, TOTAL)
        assert math.isnan(value) and alarm is None and find_alarm(other) is None


def test_a_loss_that_is_not_finite_is_an_alarm():
    record = made_record(False)
    record["loss"][60:] = record["layer_norms"][60:] = np.nan
    alarm = find_alarm(record)
    assert alarm.risk == 1 and alarm.step == 70 and "NaN or Inf" in alarm.sentence
    json.dumps(alarm.to_dict(), allow_nan=False)


NUMBERS = st.floats(-20, 20)
EVIDENCE = st.fixed_dictionaries({"level": NUMBERS, "trend": NUMBERS, "spread": NUMBERS, "loss": st.floats(0, 3)})
WORSE = {"level": -1, "trend": -1, "spread": -1, "loss": 1}


@given(found=EVIDENCE, by=st.floats(0, 10), name=st.sampled_from(list(WORSE)), progress=st.floats(0, 1))
def test_more_evidence_of_failure_is_never_less_risk(found, by, name, progress):
    worse = {**found, name: found[name] + by * WORSE[name]}
    assert 0 <= risk(found, progress=progress) <= risk(worse, progress=progress) <= 1


@given(found=EVIDENCE, early=st.floats(0, 1), late=st.floats(0, 1))
def test_the_same_evidence_later_is_never_less_risk_and_after_half_the_same(found, early, late):
    early, late = sorted((early, late))
    first, second = risk(found, progress=early), risk(found, progress=late)
    assert first <= second and (early < 0.5 or first == second)
    assert risk(found) == risk(found, progress=0.5)


@given(found=EVIDENCE, progress=st.floats(0, 1))
def test_the_risk_follows_the_equation(found, progress):
    b, w = early_warning.WEIGHTS["bias"], -early_warning.WEIGHTS["level"]
    fall = -(found["level"] + found["trend"])
    logit = b + w * fall + 10 * w * found["loss"] + 10 * w * min(progress, 0.5)
    assert float(risk(found, progress=progress)) == pytest.approx(1 / (1 + math.exp(-logit)))


def test_a_missing_quantity_leaves_no_risk():
    base = {"level": -1.0, "trend": -0.5, "spread": -1.0, "loss": 0.9}
    assert all(math.isnan(risk({**base, name: math.nan})) for name in base)
    assert risk({name: np.float64(-1e6) for name in base}) <= 1


def test_an_alarm_of_an_older_version_is_read():
    sentence = "step 30 of 200: this run looks like one that fails (risk 0.83)."
    evidence_then = {"level": -2.1, "trend": -0.9, "spread": -2.5, "loss": 1.01}
    old = {"step": 30, "total_steps": 200, "risk": 0.83, "layer": "layer_00", "evidence": evidence_then}
    alarm = Alarm.from_dict({**old, "sentence": sentence, "schema": "hf_stability.alarm/1"})
    assert alarm.risk < early_warning.THRESHOLD and alarm.sentence == sentence
    assert "risk 0.83" in with_alarm(judge(score=0.9, baseline=0.5, metric="accuracy"), alarm, stopped=False).sentence


@pytest.mark.parametrize(
    "layers, lower",
    [
        (LAYERS, [0, 1, 2]),
        (["embeddings", "shared_layer_00", "pooler", "classifier"], [0]),
        (["embeddings", "layer_00", "layer_01", "layer_02", "classifier"], [0, 1]),
        (["lstm", "head"], [0]),
        (["classifier"], [0]),
    ],
)
def test_the_lower_half_of_the_layers(layers, lower):
    assert lower_half(layers) == lower


def test_a_stopped_run_is_censored_and_a_finished_one_keeps_its_verdict():
    alarm = find_alarm(made_record(True))
    failed = judge(score=0.4, baseline=0.5, metric="accuracy")
    ok = judge(score=0.9, baseline=0.5, metric="accuracy")
    assert with_alarm(failed, alarm, stopped=False).status == "failed"
    assert "raised a false alarm at step" in with_alarm(ok, alarm, stopped=False).sentence
    stopped = with_alarm(failed, alarm, stopped=True)
    assert stopped.status == "stopped" and "not counted as failed" in stopped.sentence
    assert stopped.evidence["alarm"]["step"] == alarm.step


def test_it_is_silent_while_nearly_all_examples_are_of_one_class():
    record = made_record(fails=True)
    record["labels"] = np.tile([16, 0], (TOTAL, 1))
    assert find_alarm(record) is None and math.isnan(check(record, 100, TOTAL)[0])
    record["labels"][::2] = [15, 1]  # 3% of the other class
    assert find_alarm(record) is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 63, 64])
def test_a_loss_that_is_not_finite_is_an_alarm_at_the_next_check(value, at):
    record = made_record(fails=False)
    record["loss"][at:] = value if at == 0 else record["loss"][at:]
    record["loss"][at] = value
    record["layer_norms"][at] = math.nan
    if at == 0:
        record["layer_norms"][:] = math.nan
    if at == 64:  # a frozen layer has no norm at any time, and the others are not finite
        record["layer_norms"][:, 0], record["layer_norms"][64, 1:] = math.nan, math.inf
    first = min(step for step in check_steps(WARMUP, TOTAL) if step > at)
    alarm = find_alarm(record)
    assert alarm.step == first and alarm.risk == 1.0 and "NaN or Inf" in alarm.sentence


def test_a_model_that_returns_no_loss_is_not_one_that_diverged():
    record = made_record(fails=False)
    record["loss"][:] = math.nan
    assert find_alarm(record) is None


def test_a_record_without_the_length_of_the_training():
    record = {key: value for key, value in made_record(fails=True).items() if key != "info"}
    with pytest.raises(InputError, match="give warmup_steps and total_steps"):
        find_alarm(record)
    assert find_alarm(record, WARMUP, TOTAL) is not None


# ---- unbalanced classes ----------------------------------------------------------------------------------------------


def skewed_record(shares, kind, seed=0, total=TOTAL):
    """In the first tenth of training the loss falls from ln K to the prior. Then `sound` learns the rest by four tenths, and
    `late` by seven tenths. `stuck` stays at the prior while its gradients vanish. `above` never falls to the prior: its learning
    rate is too large."""
    rng = np.random.default_rng(seed)
    shares, t = np.array(shares) / sum(shares), np.arange(1, total + 1) / total
    labels = rng.multinomial(16, shares, total)
    prior = -(labels * np.log(shares)).sum(1) / 16
    came_down = np.clip(t / 0.1, 0, 1) if kind != "above" else np.zeros(total)
    learned = np.clip((t - 0.2) / {"sound": 0.2, "late": 0.5}.get(kind, math.inf), 0, 0.95)
    norms = np.exp(rng.normal(0, 0.3, (total, len(LAYERS))))
    norms[:, :-1] *= (0.02 * np.exp(-3 * np.clip(t / 0.3, 0, 1)) + learned)[:, None]
    top = math.log(len(shares)) if kind != "above" else 1.5 * math.log(len(shares))
    return {
        "step": np.arange(1, total + 1),
        "loss": (top * (1 - came_down) + prior * came_down) * (1 - learned) + rng.normal(0, 0.01, total),
        "logit_std": np.exp(rng.normal(0, 0.2, total)) * (0.05 + learned),
        "layer_norms": norms,
        "labels": labels,
        "layers": LAYERS,
        "info": {"warmup_steps": WARMUP, "max_steps": total},
    }


SKEWED = {
    "3%": [0.97, 0.03],
    "7%": [0.93, 0.07],
    "15%": [0.85, 0.15],
    "3 classes": [0.8, 0.15, 0.05],
    "10 classes": [0.6, 0.1, 0.1, 0.05, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02],
    "2 of 10 classes": [0.5, 0.5, *[1e-9] * 8],
}


@pytest.mark.parametrize("shares", SKEWED.values(), ids=SKEWED)
def test_a_sound_run_on_unbalanced_classes_raises_no_alarm_on_its_way_down(shares):
    for seed in range(5):
        record = skewed_record(shares, "sound", seed)
        assert find_alarm(record) is None
        for step in check_steps(WARMUP, TOTAL):
            value = check(record, step, TOTAL)[0]
            assert math.isnan(value) == (step < TOTAL / 2)


@pytest.mark.parametrize("shares", SKEWED.values(), ids=SKEWED)
@pytest.mark.parametrize("kind, first", [("stuck", 0.5), ("above", 0.75)])
def test_a_failing_run_on_unbalanced_classes_is_alarmed_later_on(shares, kind, first):
    for seed in range(5):
        assert find_alarm(skewed_record(shares, kind, seed)).step == first * TOTAL


def test_seeds_on_a_leading_axis_are_each_as_alone_with_unbalanced_classes_too():
    records = [skewed_record([0.93, 0.07], kind, seed) for seed in range(2) for kind in ("sound", "late", "above")]
    records.append({**made_record(True), "loss": np.where(np.arange(TOTAL) % 9, 0.69, np.nan)})
    names = ("layer_norms", "loss", "logit_std", "labels")
    for step in (40, 110, 160):
        together = evidence(*(np.stack([r[name][:step] for r in records]) for name in names), LAYERS, TOTAL)
        for i, record in enumerate(records):
            for name, alone in evidence_of(record, step).items():
                assert together[name][i] == pytest.approx(float(alone), nan_ok=True)


def test_it_waits_for_a_loss_that_falls_late():
    record = skewed_record([0.93, 0.07], "sound")
    record["loss"][:120] = 0.6
    assert math.isnan(check(record, 110, TOTAL)[0])
    assert math.isfinite(check(record, 140, TOTAL)[0])


def skewed_reference(record, step, total):
    """The loss of unbalanced classes, written out."""
    labels = record["labels"][:step]
    shares = [count / labels.sum() for count in labels.sum(0)]
    entropy = -sum(p * math.log(p) for p in shares if p)
    priors = [-sum(n * math.log(p) for n, p in zip(row, shares, strict=True) if n) / sum(row) for row in labels]
    losses, width, loss_width = record["loss"][:step], max(5, math.ceil(0.03 * total)), max(5, math.ceil(0.1 * total))
    near, end = False, step
    while end - width >= 0:
        near |= np.mean(losses[end - width : end]) - np.mean(priors[end - width : end]) <= 0.1 * entropy
        end -= width // 2
    if step < (0.5 if near else 0.75) * total:
        return math.nan
    return 1 + (np.mean(losses[-loss_width:]) - np.mean(priors[-loss_width:])) / entropy


@pytest.mark.parametrize("shares", list(SKEWED.values())[:-1], ids=list(SKEWED)[:-1])
@pytest.mark.parametrize("kind", ["sound", "late", "stuck", "above"])
def test_the_loss_of_unbalanced_classes_follows_the_equation(shares, kind):
    record = skewed_record(shares, kind)
    for step in (30, 99, 100, 130, 150, 200):
        found = evidence_of(record, step)["loss"]
        assert float(found) == pytest.approx(skewed_reference(record, step, TOTAL), nan_ok=True)


def test_a_window_with_more_of_the_rare_class_is_no_evidence():
    record = skewed_record([0.93, 0.07], "stuck")
    more = {**record, "labels": record["labels"].copy(), "loss": record["loss"].copy()}
    more["labels"][180:] = [12, 4]
    shares = more["labels"].sum(0) / more["labels"].sum()
    more["loss"] = -(more["labels"] * np.log(shares)).sum(1) / 16
    assert more["loss"][180:].mean() > 2 * more["loss"].mean()
    assert float(evidence_of(more, TOTAL)["loss"]) == pytest.approx(1)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.7, 0.3], [0.75, 0.25], [0.4, 0.3, 0.3], [0.1] * 10])
def test_with_balanced_classes_the_loss_is_relative_to_the_entropy_from_the_first_check_on(shares):
    for fails in (False, True):
        record = {**made_record(fails), "labels": np.tile(np.array(shares) * 100, (TOTAL, 1))}
        entropy = -sum(p * math.log(p) for p in shares)
        for step in (30, 60, 120, 200):
            found = evidence_of(record, step)["loss"]
            assert float(found) == pytest.approx(record["loss"][max(0, step - 20) : step].mean() / entropy)


def test_it_is_silent_with_a_custom_loss():
    record = made_record(fails=True)
    assert find_alarm(record) is not None
    own = {**record, "info": {**record["info"], "own_loss": True}}
    assert find_alarm(own) is None
    value, alarm = check(own, 100, TOTAL)
    assert math.isnan(value) and alarm is None
    assert find_alarm({**record, "info": {**record["info"], "own_loss": False}}) is not None


@pytest.mark.parametrize(
    ("info", "judged"),
    [
        ({"trained": {"adapters": "LORA", "layers": ["layer_00"], "frozen": []}}, False),
        ({"trained": {"adapters": None, "layers": ["layer_01"], "frozen": ["embeddings", "layer_00"]}}, False),
        ({"trained": {"adapters": None, "layers": ["layer_00"], "frozen": ["embeddings"]}}, True),
        ({"since": {"layer_01": 9}}, False),
        ({"until": {"layer_01": 9}}, False),
        ({"since": {"embeddings": 9}, "until": {"pooler": 9}}, True),
    ],
)
def test_it_judges_only_runs_that_train_all_layers(info, judged):
    record = made_record(fails=True)
    record["info"] = {**record["info"], **info}
    value, alarm = check(record, 100, TOTAL)
    assert (find_alarm(record) is not None) == judged and math.isnan(value) == (alarm is None) == (not judged)
    record["loss"][50:], record["layer_norms"][50:] = np.nan, np.nan
    assert "NaN or Inf" in check(record, 100, TOTAL)[1].sentence


# ---- what is no divergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gradients", ["as ever", "zero"])
def test_a_batch_without_labels_is_no_divergence_and_no_evidence(value, gradients):
    record, plain = made_record(fails=False), made_record(fails=False)
    for row in (63, 90, 91, 92, 93, 94, TOTAL - 1):
        record["loss"][row], record["labels"][row] = value, 0
        if gradients == "zero":
            record["layer_norms"][row] = 0
    assert find_alarm(record) is None
    for step in check_steps(WARMUP, TOTAL):
        assert check(record, step, TOTAL)[0] == pytest.approx(check(plain, step, TOTAL)[0], abs=0.1)


def test_a_batch_without_labels_does_not_hide_the_alarm_of_a_failing_run():
    record = made_record(fails=True)
    record["loss"][50::10] = np.nan
    alarm = find_alarm(record)
    assert alarm is not None and alarm.risk < 1 and "looks like one that fails" in alarm.sentence
    assert all(number is not None for number in alarm.evidence.values())


def test_logits_that_are_masked_are_no_divergence():
    for value in (math.nan, math.inf):
        record = made_record(fails=False)
        record["logit_std"][:] = value
        assert find_alarm(record) is None
        record = made_record(fails=False)
        record["logit_std"][::3] = value
        plain = check(made_record(fails=False), 100, TOTAL)[0]
        assert check(record, 100, TOTAL)[0] == pytest.approx(plain, abs=0.1)


def test_gradient_norms_that_are_unknown_leave_the_loss_to_decide():
    record = made_record(fails=False)
    record["layer_norms"][:] = math.nan
    record["loss"][70] = math.nan
    assert find_alarm(record) is None
    record["loss"][70:] = math.nan
    assert find_alarm(record).risk == 1.0
