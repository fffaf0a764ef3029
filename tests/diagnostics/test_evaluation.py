import numpy as np
import pytest
import torch

from hf_stability.diagnostics.evaluation import Evaluation, answers_of, labels_of, slim
from hf_stability.diagnostics.named_output import named_output


RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 20)
LOGITS = np.eye(3)[LABELS] + 0.1


def read(predictions, labels, metrics=None, **more):
    names = more.pop("names", ())
    return answers_of(Evaluation(metrics or {}, predictions, labels, output_names=names), **more)


@pytest.mark.parametrize(
    "predictions",
    [
        LOGITS,
        LOGITS.astype("float16"),
        LABELS,
        (LOGITS, np.zeros((20, 4, 8))),
        {"logits": LOGITS, "features": np.zeros(20)},
        {"outputs": {"logits": LOGITS}},
        torch.tensor(LOGITS),
        torch.tensor(LOGITS, dtype=torch.bfloat16),
    ],
)
def test_classes(predictions):
    found = read(predictions, LABELS)
    assert (found.kind, found.num_labels) == ("classes", 3)
    np.testing.assert_array_equal(found.classes, LABELS)
    np.testing.assert_array_equal(found.labels, LABELS)


def test_a_tuple_counts_by_its_output_called_logits():
    features = np.zeros((20, 5))
    assert read((features, LOGITS), LABELS, names=["features", "logits"]).num_labels == 3
    assert read((features, LOGITS), LABELS).num_labels == 5  # names not known: the first
    assert named_output({"a": None, "b": 3}) == 3 and named_output(()) is None


def test_batches_that_were_not_joined():
    batches = [LOGITS[:8], LOGITS[8:]], [LABELS[:8], LABELS[8:]]
    np.testing.assert_array_equal(read(*batches).classes, LABELS)
    tuples = [(LOGITS[:8], np.zeros(8)), (LOGITS[8:], np.zeros(12))], batches[1]
    np.testing.assert_array_equal(read(*tuples).classes, LABELS)


def test_two_to_five_choices():
    batches = [np.eye(2)[[0, 1]], np.eye(5)[[4, 0]]]
    found = read(batches, [np.array([0, 1]), np.array([4, 0])])
    assert found.num_labels == 5 and found.classes.tolist() == found.labels.tolist() == [0, 1, 4, 0]


def test_ignored_labels_count_nowhere():
    labels = np.where(np.arange(20) < 5, -100, LABELS)
    assert len(read(LOGITS, labels).labels) == 15


@pytest.mark.parametrize("ids", [False, True])
def test_tokens_without_padding(ids):
    labels = RNG.integers(0, 3, (4, 6))
    outputs = labels.copy() if ids else np.eye(3)[labels]
    labels[:, 4:] = -100
    found = read(outputs, labels)
    assert found.kind == "classes" and found.labels.shape == (16,)
    np.testing.assert_array_equal(found.classes, found.labels)


def test_tokens_of_batches_of_other_lengths():
    labels = [RNG.integers(0, 3, (4, 6)), RNG.integers(0, 3, (4, 9))]
    found = read([np.eye(3)[part] for part in labels], labels)
    assert len(found.labels) == 4 * 15 and (found.classes == found.labels).all()


def test_a_causal_models_label_is_the_next_token():
    labels = RNG.integers(0, 7, (4, 6))
    outputs = np.eye(7)[np.roll(labels, -1, axis=1)]
    found = read(outputs, labels, causal=True)
    assert len(found.labels) == 20 and (found.classes == found.labels).all()


def test_labels_alone():
    assert labels_of(Evaluation(labels=np.array([1, -100, 0]))).tolist() == [1, 0]
    assert labels_of(Evaluation(labels=[np.array([[1]]), np.array([[0]])])).tolist() == [1, 0]
    assert labels_of(Evaluation(labels=np.zeros((4, 6)))) is None is labels_of(Evaluation())


def test_generated_texts_are_no_answers():
    labels = RNG.integers(0, 7, (4, 6))
    assert read(labels, labels, generates=True) is None and read(labels, labels).kind == "classes"
    assert read(np.eye(7)[labels], labels, generates=True).kind == "classes"  # logits have the positions of the labels


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_a_regression(shape):
    values = RNG.normal(size=20)
    found = read(values.reshape(shape), values.reshape(shape))
    assert (found.kind, found.outputs.shape, found.num_labels) == ("values", (20,), 1)


@pytest.mark.parametrize("labels", [LABELS % 2, (LABELS % 2).astype("float32")])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_one_output_for_two_classes(labels, sigmoid):
    logits = np.where(labels == 1, 2.0, -1.0)[:, None]
    outputs = 1 / (1 + np.exp(-logits)) if sigmoid else logits
    found = read(outputs, labels, {"eval_accuracy": 1.0})
    assert (found.kind, found.num_labels) == ("classes", 2)
    np.testing.assert_array_equal(found.classes, labels)


def test_the_threshold_is_the_one_that_gives_the_reported_accuracy():
    labels = LABELS % 2
    outputs = np.where(labels == 1, 0.9, 0.2) + np.where(np.arange(20) == 0, 3, 0)  # fitted by squared error: 0.5
    assert (
        read(outputs, labels, {"eval_accuracy": (labels == (outputs > 0.5)).mean()}).classes == (outputs > 0.5)
    ).all()


def test_zeros_and_ones_are_values_if_the_config_says_regression():
    labels = (LABELS % 2).astype(float)
    assert read(labels, labels, {"eval_mse": 0.0}, problem_type="regression").kind == "values"
    assert read(labels - 0.5, labels, {"eval_mse": 0.0}).kind == "classes"
    assert read(labels, labels, {"eval_accuracy": 1.0}, problem_type="regression").kind == "classes"


def test_several_labels_an_example():
    labels = RNG.integers(0, 2, (20, 4)).astype("float32")
    found = read(labels * 2 - 1, labels)
    assert (found.kind, found.num_labels) == ("several", 4)
    np.testing.assert_array_equal(found.classes, labels)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        (None, LABELS),
        (LOGITS, None),
        ((LOGITS, LOGITS), (LABELS, LABELS)),  # start and end of an answer
        (LOGITS[:7], LABELS),
        (np.array(["a"] * 20), LABELS),
        (RNG.normal(size=(20, 3)), RNG.normal(size=20)),
        (RNG.integers(0, 9, (20, 5)), RNG.integers(0, 9, (20, 7))),  # generated texts
        (np.eye(2)[LABELS % 2], LABELS),  # a label beyond the outputs
        ([], []),
        (LOGITS, np.full(20, -100)),
    ],
)
def test_an_unknown_form_is_not_guessed(predictions, labels):
    assert read(predictions, labels) is None


SEVERAL = RNG.integers(0, 2, (20, 4))


@pytest.mark.parametrize("outputs", [SEVERAL * 2.0 - 1, SEVERAL * 0.6 + 0.2, SEVERAL * 1.0])
def test_several_labels_from_logits_or_probabilities(outputs):
    found = read(outputs, SEVERAL.astype("float32"), {"eval_f1": 1.0})
    assert found.kind == "several" and (found.classes == SEVERAL).all()
    assert read(outputs, SEVERAL.astype("float32"), {"eval_accuracy": 0.01}) is None  # read in another way
    masked = SEVERAL.astype("float32")
    masked[0, 0] = -100
    assert read(outputs, masked) is None


@pytest.mark.parametrize("labels", [np.eye(3)[LABELS], np.eye(3)[LABELS] * 0.7 + 0.1])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_one_hot_and_soft_labels_are_classes(labels, shift):
    found = read(LOGITS + shift, labels, {"eval_accuracy": 1.0})
    assert found.kind == "classes" and (found.classes == LABELS).all() and (found.labels == LABELS).all()
    assert read(LOGITS, np.eye(3)[LABELS], problem_type="multi_label_classification").kind == "several"


def test_several_values_count_about_each_columns_mean():
    labels = RNG.normal(size=(20, 2)) + [100, 0]
    found = read(np.broadcast_to(labels.mean(0), (20, 2)), labels, problem_type="regression")
    assert found.kind == "values" and np.allclose(found.outputs, 0)
    assert read(labels, labels) is None  # the config does not say regression


def test_outputs_with_other_positions_than_the_labels_are_not_read():
    assert read(RNG.normal(size=(4, 9, 5)), RNG.integers(0, 5, (4, 6))) is None


def test_only_what_a_verdict_needs_is_kept():
    tokens = np.eye(5)[RNG.integers(0, 5, (4, 6))]
    assert slim(tokens).dtype == np.int32 and slim(tokens).shape == (4, 6)
    assert slim((LOGITS, tokens)) is LOGITS and slim(tokens, generates=True) is tokens
    assert [part.shape for part in slim([tokens, tokens[:2]])] == [(4, 6), (2, 6)]
    assert slim(None) is None and slim(LOGITS) is LOGITS
    assert np.isnan(slim(np.full((2, 3, 4), np.nan))).all()  # a diverged run stays one
