"""Runs from the Trainer's model cards. The oracle of the format is the Trainer's own `create_model_card`."""

from __future__ import annotations

import math

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError
from transformers import Trainer, TrainingArguments

from hf_stability.diagnose import diagnose
from hf_stability.diagnose.causes import find
from hf_stability.diagnose.model_card import read_card, read_path
from hf_stability.errors import InputError
from tests import toy
from tests.diagnose.tools import of


def card_of(folder, losses, train_losses=None, accuracies=None, **arguments):
    """The model card that a Trainer writes after evaluations every 100 of 50 steps an epoch, with this log."""
    given = {"num_train_epochs": 2 * len(losses), "learning_rate": 5e-5, **arguments}
    args = TrainingArguments(str(folder), **{**toy.QUIET, **given})
    trainer = Trainer(toy.model(), args)
    for i, loss in enumerate(losses):
        step = 100 * (i + 1)
        if train_losses:
            trainer.state.log_history.append({"loss": train_losses[i], "step": step, "epoch": 2.0 * (i + 1)})
        row = {"eval_loss": loss, "eval_runtime": 1.0, "step": step, "epoch": 2.0 * (i + 1)}
        row |= {"eval_accuracy": accuracies[i]} if accuracies else {}
        trainer.state.log_history.append(row)
    trainer.state.log_history.append(
        {"train_runtime": 9.0, "train_loss": 1.0, "step": step, "epoch": 2.0 * len(losses)}
    )
    folder.mkdir(exist_ok=True)
    trainer.create_model_card(model_name="deberta", finetuned_from="microsoft/deberta-v3-large")
    return folder / "README.md"


def test_a_card_is_read_as_the_trainer_wrote_it(tmp_path):
    values = {"warmup_steps": 0.1, "gradient_accumulation_steps": 2, "adam_beta2": 0.98, "lr_scheduler_type": "cosine"}
    card = card_of(tmp_path / "out", [0.7, 0.5123456, 0.4], [0.69, 0.6, 0.5], [0.5, 0.75, 0.875], **values)
    for path in (card, card.parent):
        run = read_path(path)
        assert run.is_card and run.source == str(card)
        assert run.history[1] == {"loss": 0.6, "epoch": 4.0, "step": 200, "eval_loss": 0.5123, "eval_accuracy": 0.75}
        assert (run.step, run.total_steps) == (300, 300)
    expected = {
        "learning_rate": 5e-5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "seed": 42,
        "warmup_steps": 0.1, "num_train_epochs": 6, "lr_scheduler_type": "cosine", "adam_beta1": 0.9, "adam_beta2": 0.98,
        "optim": TrainingArguments(str(tmp_path)).optim,
    }  # fmt: skip
    assert run.args == expected


def test_rows_without_a_logged_loss_and_a_run_that_stopped_early(tmp_path):
    card = card_of(tmp_path / "out", [0.7, 0.6], num_train_epochs=10)
    run = read_path(card)
    assert "No log" in card.read_text() and all("loss" not in row for row in run.history)
    assert (run.step, run.total_steps) == (200, 500) and run.args["warmup_steps"] == 0
    by_steps = read_path(card_of(tmp_path / "steps", [0.7, 0.6], max_steps=400))
    assert by_steps.total_steps == 400 and "num_train_epochs" not in by_steps.args


def test_a_loss_that_stays_at_ln_5_is_a_likely_cause(tmp_path, run):
    """As in a public card of deberta-v3-large at 5e-5: six epochs at ln 5."""
    losses = [math.log(5) + noise for noise in (0.004, 0.001, 0.0, 0.002, -0.001, 0.0)]
    card = card_of(tmp_path / "out", losses, [1.615] * 6, [0.2] * 6)
    code, out, err = run(card)
    text = " ".join(out.split())
    assert code == 0 and err == ""
    assert "stuck loss: The evaluation loss stays at 1.6 from step 400 to step 600. This is ln 5: the loss of" in text
    assert "The number of classes is not known; it is inferred from the loss." in text
    report = diagnose(card)
    found = of(report, "stuck loss")
    assert found.likelihood == "likely" and found.figures["classes"] == 5 and found.recipe == "--recipe mosbach2021"
    rate = of(report, "learning rate")
    assert rate.figures["peak"] == 5e-5 and of(report, "update steps").figures["total_steps"] == 600
    assert "--learning_rate 5e-05" in report.rescue


LN3 = math.log(3)


def rows(losses, train=None, accuracy=None):
    return [(100 * (i + 1), train, loss, accuracy) for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("evaluations", "classes", "likelihood"),
    [
        (rows([LN3, LN3 + 0.015, LN3]), None, "likely"),
        (rows([1.9, 1.4, LN3, LN3]), None, "likely"),  # it came down to ln 3
        (rows([LN3, LN3, 0.9, 0.7]), None, "unlikely"),  # it began late
        (rows([0.9, 0.8, LN3, LN3]), None, "unlikely"),  # it had learned, and overfits
        (rows([LN3, LN3], train=0.3), None, "unlikely"),  # the training loss is far lower
        (rows([LN3, LN3], train=LN3), None, "likely"),
        (rows([LN3, LN3], accuracy=0.6), None, "unlikely"),
        (rows([LN3, LN3], accuracy=1 / 3), None, "likely"),
        (rows([LN3, LN3]), 4, "unlikely"),  # it is known that there are four
        (rows([LN3, LN3]), 3, "likely"),
        (rows([math.nan, LN3]), None, None),
        (rows([LN3]), None, None),
        (None, None, None),
    ],
)
def test_when_a_loss_is_stuck(evaluations, classes, likelihood):
    found = find("stuck loss", {"evaluations": evaluations, "num_labels": classes})
    assert likelihood == (None if found is None else found.likelihood)
    if likelihood == "likely":
        assert ("inferred" in found.sentence) == (classes is None) and found.figures["classes"] == 3


@pytest.mark.parametrize("classes", range(2, 17))
def test_the_number_of_classes_is_that_of_the_nearest_ln_k(classes):
    found = find("stuck loss", {"evaluations": rows([math.log(classes) + noise for noise in (0.01, -0.01, 0.015)])})
    assert found.likelihood == "likely" and found.figures["classes"] == classes


def test_a_models_name_on_the_hub(tmp_path, monkeypatch):
    card_of(tmp_path / "out", [0.7, 0.4], [0.6, 0.3])
    asked = []

    class NotThere(HfHubHTTPError):
        def __init__(self):
            """The hub's own needs a response."""

    def head(url, **kwargs):
        asked.append("/".join(url.split("/")[3:5]))
        if asked[-1] == "user/unreachable":
            raise OSError("no network")
        if asked[-1] != "user/model":
            raise NotThere

    def download(name, file, local_files_only):
        assert local_files_only == (name == "user/unreachable")
        if local_files_only:
            raise OSError("not in the cache")
        return tmp_path / "out" / file

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", head)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    report = diagnose("user/model")
    assert report.source == "user/model (its model card on the hub)" and asked == ["user/model"]
    assert of(report, "stuck loss").likelihood == "unlikely"
    with pytest.raises(
        InputError, match="user/other: no such file or folder, and no model card of this name on the hub"
    ):
        diagnose("user/other")
    with pytest.raises(InputError, match="user/unreachable: no such file or folder, and the hub cannot be reached"):
        diagnose("user/unreachable")
    for wrong in ("nowhere", "./user/model", "/user/model", "out/mistyped"):  # the last: its folder exists
        with pytest.raises(InputError, match="no such file or folder; give"):
            diagnose(wrong)
    assert asked == ["user/model", "user/other", "user/unreachable"]


def test_a_card_without_a_table_and_a_folder_with_a_run(tmp_path, output):
    with pytest.raises(InputError, match="README.md: no table of training results"):
        read_card("# A model\n\n| a | b |\n| - | - |\n| 1 | 2 |\n", "README.md")
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(InputError, match="no table of training results"):
        diagnose(tmp_path)
    (output / "README.md").write_text("nothing")  # the run's files count
    try:
        assert not read_path(output).is_card
    finally:
        (output / "README.md").unlink()
