import numpy as np
import pytest

from hf_stability.diagnostics.step_record import StepRecord, read_steps
from hf_stability.errors import InputError


COLUMNS = [
    "step",
    "loss",
    "labels/0",
    "labels/1",
    "predicted/0",
    "predicted/1",
    "grad_norm/embeddings",
    "grad_norm/layer_00",
]


def rows(first, last):
    return np.column_stack([np.arange(first, last + 1), np.random.default_rng(first).random((last - first + 1, 7))])


def test_what_is_appended_is_read(tmp_path):
    record = StepRecord(COLUMNS, tmp_path / "steps.rec", info={"warmup_steps": 3})
    record.append(rows(1, 4))
    record.append(rows(5, 6))
    read = read_steps(tmp_path / "steps.rec")
    assert read["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert read["layers"] == ["embeddings", "layer_00"]
    assert read["layer_norms"].shape == (6, 2) and read["labels"].shape == (6, 2)
    assert read["info"] == {"warmup_steps": 3}
    assert np.array_equal(read["layer_norms"], record.to_dict()["layer_norms"])


@pytest.mark.parametrize("lost", [1, 31, 33])
def test_a_file_that_was_cut_short_loses_its_last_rows_only(tmp_path, lost):
    path = tmp_path / "steps.rec"
    StepRecord(COLUMNS, path).append(rows(1, 10))
    path.write_bytes(path.read_bytes()[:-lost])
    assert read_steps(path)["step"].tolist() == list(range(1, 10 if lost < 32 else 9))


def test_a_resumed_record_has_no_step_twice(tmp_path):
    path = tmp_path / "steps.rec"
    StepRecord(COLUMNS, path).append(rows(1, 10))
    StepRecord(COLUMNS, path, last_step=7).append(rows(8, 12))
    assert read_steps(path)["step"].tolist() == list(range(1, 13))


def test_a_new_run_begins_a_new_record(tmp_path):
    path = tmp_path / "steps.rec"
    StepRecord(COLUMNS, path).append(rows(1, 10))
    StepRecord(COLUMNS, path)
    assert len(read_steps(path)["step"]) == 0


def test_a_record_of_another_model_is_not_resumed(tmp_path):
    path = tmp_path / "steps.rec"
    StepRecord(COLUMNS, path).append(rows(1, 10))
    with pytest.raises(InputError, match="other columns"):
        StepRecord(COLUMNS[:-1], path, last_step=5)


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b'{"schema": "hf_stability.steps/9", "columns": []}\n', b"\xff\xfe"]
)
def test_what_is_no_record_is_refused(tmp_path, content):
    (tmp_path / "steps.rec").write_bytes(content)
    with pytest.raises(InputError, match="steps.rec"):
        read_steps(tmp_path / "steps.rec")


def test_ten_thousand_steps_of_28_layers_stay_under_3_mb(tmp_path):
    columns = [*COLUMNS[:6], *(f"grad_norm/layer_{i:02d}" for i in range(28))]
    StepRecord(columns, tmp_path / "steps.rec").append(np.ones((10_000, len(columns))))
    assert (tmp_path / "steps.rec").stat().st_size < 3_000_000
