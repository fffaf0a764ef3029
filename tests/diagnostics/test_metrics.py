import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef

from hf_stability.diagnostics.metrics import (
    accuracy,
    classification_scorer,
    confusion,
    constant_score,
    f1,
    family,
    lead_interval,
    lead_over_constant,
    matthews,
    smaller_is_better,
)


def drawn(seed, n=60, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, np.where(rng.random(n) < 0.6, labels, rng.integers(0, classes, n))


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_scores_of_confusion_matrices_are_scikit_learns(seed, classes):
    labels, predicted = drawn(seed, classes=classes)
    matrix = confusion(labels, predicted, classes)
    assert accuracy(matrix) == pytest.approx((labels == predicted).mean())
    assert matthews(matrix) == pytest.approx(matthews_corrcoef(labels, predicted))
    for average in ("macro", "micro", "weighted"):
        assert f1(matrix, average) == pytest.approx(f1_score(labels, predicted, average=average))
    for k in range(classes):
        assert f1(matrix, k) == pytest.approx(f1_score(labels == k, predicted == k))
    stacked = np.stack([matrix, matrix.T])
    assert f1(stacked, "macro").shape == matthews(stacked).shape == accuracy(stacked).shape == (2,)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_baseline_is_the_best_of_all_constant_predictions(labels):
    labels = np.array(labels)
    constants = [np.full_like(labels, k) for k in range(4)]
    assert constant_score("accuracy", labels, num_labels=4)["score"] == max((c == labels).mean() for c in constants)
    for average in ("macro", "weighted", "micro"):
        scores = [f1_score(labels, c, average=average, zero_division=0) for c in constants]
        found = constant_score(f"f1_{average}", labels, constants[0], 4, scores[0])
        assert found["score"] == pytest.approx(max(scores))
    values = labels + 0.25
    if np.ptp(values) == 0:
        assert constant_score("mse", values) is constant_score("mae", values) is None
        return
    assert constant_score("mse", values)["score"] == pytest.approx(((values - values.mean()) ** 2).mean())
    assert constant_score("rmse", values)["score"] == pytest.approx(((values - values.mean()) ** 2).mean() ** 0.5)
    candidates = [np.abs(values - c).mean() for c in np.linspace(0, 5, 501)]
    assert constant_score("mae", values)["score"] <= min(candidates) + 1e-9


def test_the_f1_of_two_classes_is_that_of_the_positive_one():
    labels = np.repeat([0, 1], [129, 279])  # MRPC's development set: always positive has an F1 of 0.812
    assert constant_score("f1", labels) == {"score": pytest.approx(2 * 279 / (408 + 279)), "constant": 1}


@pytest.mark.parametrize("average", ["macro", "weighted", "micro", "binary"])
def test_the_reported_score_shows_which_f1_it_is(average):
    labels, predicted = drawn(3, classes=2)
    score = f1_score(labels, predicted, average=average)
    scorer = classification_scorer("f1", labels, predicted, 2, round(score, 4))
    assert float(scorer(confusion(labels, predicted, 2))) == pytest.approx(score)
    assert classification_scorer("f1", labels, predicted, 2, 0.01) is None  # none of them


@pytest.mark.parametrize("metric", ["matthews_correlation", "pearson", "eval_spearmanr", "r2", "mcc"])
def test_no_constant_correlates(metric):
    assert constant_score(metric, [0, 1, 1]) == {"score": 0.0}


def test_an_unknown_metric_has_no_baseline():
    assert constant_score("rouge1", [0, 1]) is None
    assert constant_score("accuracy", [0.5, 1.0]) is None
    assert family("eval_f1") == "f1" and family("bleu") is None and family(None) is None


@pytest.mark.parametrize(
    ("metric", "greater", "expected"),
    [
        ("eval_mse", True, True),  # transformers sets greater_is_better for all but losses
        *(
            (name, None, True)
            for name in ("rmse", "eval_loss", "perplexity", "wer", "error_rate", "mean_absolute_error")
        ),
        *((name, None, False) for name in ("accuracy", "f1", "r2", "my_score", "power", "answer")),
        ("my_score", False, True),
        ("accuracy", False, False),
    ],
)
def test_which_way_is_better(metric, greater, expected):
    assert smaller_is_better(metric, greater) is expected


def f1_by_hand(labels, predicted):
    """F1 of class 1; 0 where no example has it. scikit-learn's takes a hundred times as long: see the test below."""
    return 2 * ((labels == 1) & (predicted == 1)).sum() / max(1, (labels == 1).sum() + (predicted == 1).sum())


@pytest.mark.parametrize("seed", range(5))
def test_f1_by_hand_is_scikit_learns(seed):
    labels, predicted = drawn(seed, classes=2)
    for other in (predicted, np.ones(60), np.zeros(60)):
        assert f1_by_hand(labels, other) == f1_score(labels, other)
    assert f1_by_hand(np.zeros(60), np.zeros(60)) == f1_score(np.zeros(60), np.zeros(60), zero_division=0) == 0


def test_the_lead_over_the_baseline_is_a_paired_bootstrap():
    labels = np.repeat([0, 1], [93, 7])
    predicted = labels.copy()
    predicted[:7] = 1
    score = f1_score(labels, predicted)
    lead = lead_over_constant("f1", labels, predicted, 2, score)
    low, high = lead["low"], lead["high"]
    assert lead == {
        "score": score,
        "baseline": pytest.approx(f1_score(labels, np.ones(100))),
        "low": low,
        "high": high,
    }
    rng, leads = np.random.default_rng(1), []
    for _ in range(2000):  # slow and obvious
        i = rng.integers(0, 100, 100)
        leads.append(f1_by_hand(labels[i], predicted[i]) - f1_by_hand(labels[i], np.ones(100)))
    np.testing.assert_allclose([low, high], np.quantile(leads, [0.025, 0.975]), atol=0.03)
    assert low > 0
    always = np.ones(100, int)
    scorer = classification_scorer("f1", labels, predicted, 2, score)
    assert lead_interval(scorer, labels, always, 2, constant=1) == (0.0, 0.0)


@pytest.mark.parametrize("metric", ["f1_macro", "f1_micro", "f1_weighted", "matthews"])
@pytest.mark.parametrize("seed", range(3))
def test_the_lead_is_over_the_best_of_all_constants(metric, seed):
    labels, predicted = drawn(seed)
    scorer = classification_scorer(metric, labels, predicted, 3, None)
    score = float(scorer(confusion(labels, predicted, 3)))
    lead = lead_over_constant(metric, labels, predicted, 3, score)
    constants = [float(scorer(confusion(labels, np.full(len(labels), k), 3))) for k in range(3)]
    assert lead["baseline"] == pytest.approx(max(constants))
    interval = lead_interval(scorer, labels, predicted, 3, int(np.argmax(constants)))
    assert (lead["low"], lead["high"]) == interval


def test_a_metric_that_is_not_known_has_no_lead():
    labels, predicted = drawn(0)
    assert lead_over_constant("rouge1", labels, predicted, 3, 0.5) is None
    assert lead_over_constant("f1", labels, predicted, 3, 0.001) is None  # none of the F1s is this
