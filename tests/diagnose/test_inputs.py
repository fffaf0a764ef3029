"""The data, model and tokenizer that a check needs: named by the user, or a live Trainer's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers
from datasets import ClassLabel

from hf_stability.diagnose import diagnose
from hf_stability.errors import InputError
from hf_stability.study.run import quiet
from tests import toy
from tests.diagnose.tools import of, trainer_of


def test_data_and_model_flags_let_it_look_at_more(run, output, tiny_model, tiny_csv):
    train, dev = tiny_csv
    model = ["--model_name_or_path", tiny_model()]
    code, out, _ = run(output / "trainer_state.json", *model)
    assert code == 0 and "new weights: Only the head is new" in out and "labels: --task_name" in out
    code, out, _ = run(output / "trainer_state.json", *model, "--train_file", train, "--validation_file", dev)
    assert (
        code == 0
        and "class shares: The largest class has 50% of train" in out
        and "Ids, classes and names agree" in out
    )
    assert f"hf-stability rescue {' '.join(model)} --train_file {train} --validation_file {dev} " in out
    code, out, _ = run(output, *model, "--train_file", train, "--validation_file", dev, "--max_seq_length", "5")
    assert "of the training examples are longer than 5 tokens" in " ".join(out.split())


def test_columns_by_other_names(output, tiny_model, tiny_csv, tmp_path):
    files = {}
    for name, source in zip(("train_file", "validation_file"), tiny_csv, strict=True):
        files[name] = str(tmp_path / Path(source).name)
        rows = Path(source).read_text().splitlines()[1:]
        Path(files[name]).write_text("\n".join(["note,review,stars", *(f"x,{row}" for row in rows)]))
    columns = {"text_column_names": ["review"], "label_column_name": "stars"}
    report = diagnose(output, model_name_or_path=tiny_model(), **files, **columns)
    own = diagnose(output, model_name_or_path=tiny_model(), train_file=tiny_csv[0], validation_file=tiny_csv[1])
    assert report.findings == own.findings and of(report, "labels").likelihood == "unlikely"
    assert " --text_column_names review --label_column_name stars " in report.rescue
    for name, value in columns.items():
        with pytest.raises(InputError, match=f"--{name} (review|stars): goes with --train_file"):
            diagnose(output, **{name: value})


def test_weights_that_were_saved_in_half_precision(output, tiny_model, tmp_path):
    with quiet():
        model = transformers.AutoModel.from_pretrained(tiny_model(), dtype=torch.float16)
        model.save_pretrained(tmp_path / "half")
        transformers.AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "half")
    half = {"model_name_or_path": str(tmp_path / "half")}
    assert of(diagnose(output, **half), "weights' precision").likelihood == "likely"  # as transformers loads them
    for dtype, likelihood in (("float32", "unlikely"), ("bfloat16", "likely"), ("auto", "likely")):
        report = diagnose(output, **half, dtype=dtype)
        assert of(report, "weights' precision").likelihood == likelihood
        assert (f" --dtype {dtype} " in report.rescue) is (dtype != "float32")  # the study's default
    with pytest.raises(InputError, match="--dtype half: give float32, bfloat16, float16 or auto"):
        diagnose(output, **half, dtype="half")


def test_data_that_cannot_be_read_is_a_finding(run, output, tiny_csv, tmp_path):
    (tmp_path / "dev.csv").write_text("sentence,label\ngood film,1\nbad film,2\n")
    code, out, err = run(output, "--train_file", tiny_csv[0], "--validation_file", "dev.csv")
    text = " ".join(out.split())
    assert code == 0 and err == ""
    assert (
        "likely - labels: The data cannot be read as they are: --validation_file dev.csv, line 3: label 2, but there are 2 classes"
        in text
    )
    assert "Fix first: labels." in text and "labels: --task_name" not in text


def test_weights_that_the_pretrained_files_lack_are_found(output, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_model(), folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1.attention.self.query" not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    finding = of(diagnose(output, model_name_or_path=str(folder)), "new weights")
    assert finding.likelihood == "likely" and len(finding.figures["encoder"]) == 2
    assert "2 weights of the encoder are not in the pretrained files" in finding.sentence


def test_another_models_tokenizer_is_found(output, tiny_model, tiny_csv):
    names = {"train_file": tiny_csv[0], "validation_file": tiny_csv[1], "model_name_or_path": tiny_model("bert")}
    report = diagnose(output, tokenizer_name=tiny_model("roberta"), **names)
    assert of(report, "tokenizer").likelihood == "likely"
    assert "pad is token 1 in the tokenizer, but 0 in the model" in of(report, "tokenizer").sentence
    assert of(diagnose(output, **names), "tokenizer").likelihood == "unlikely"


def test_classes_that_train_and_dev_name_differently(tmp_path):
    train = toy.data(64).cast_column("label", ClassLabel(names=["no", "yes"]))
    dev = toy.data(40).cast_column("label", ClassLabel(names=["yes", "no"]))
    finding = of(diagnose(trainer_of(tmp_path, train=train, dev=dev)), "labels")
    assert finding.likelihood == "likely" and "in different orders: no, yes against yes, no" in finding.sentence


@pytest.mark.parametrize(
    ("column", "values", "name"),
    [("label", [0, 1, 2, 2] * 16, "labels"), ("input_ids", [[5, toy.VOCABULARY]] * 64, "tokenizer")],
)
def test_what_would_be_an_index_error_is_a_finding(tmp_path, column, values, name):
    data = toy.data(64).remove_columns(column).add_column(column, values)
    report = diagnose(trainer_of(tmp_path, train=data), memorize=True)
    assert of(report, name).likelihood == "likely"
    assert report.not_looked_at["memorize"] == "labels and token ids that fit the model"


def ragged(rows=64):
    """A label for each token."""
    data = toy.data(rows)
    return data.remove_columns("label").add_column("labels", [[0, 1, 1][: 1 + i % 3] for i in range(rows)])


def of_several(rows=64):
    """Several classes an example."""
    return toy.data(rows).remove_columns("label").add_column("labels", [[0.0, 1.0]] * rows)


@pytest.mark.parametrize("data", [ragged, of_several])
def test_labels_that_are_not_one_an_example_are_said_to_be_no_case_for_it(tmp_path, data):
    report = diagnose(trainer_of(tmp_path, train=data(), dev=data()), memorize=True)
    assert "labels" in report.not_looked_at
    assert report.not_looked_at["memorize"] == "examples with one label each (a class id or a value)"


def test_examples_of_several_texts_have_no_token_ids_to_look_at(tmp_path):
    data = toy.data(8).remove_columns("input_ids").add_column("input_ids", [[[5, 6], [7]]] * 8)
    report = diagnose(trainer_of(tmp_path, train=data, dev=data), memorize=True)
    assert of(report, "labels").likelihood == "unlikely" and "memorize" in report.not_looked_at
