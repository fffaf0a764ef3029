import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_stability
from hf_stability.diagnostics.failures import judge
from hf_stability.diagnostics.step_record import SCHEMA, StepRecord, read_steps, steps_frame, training_evidence
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
WIDTH = 4 * len(COLUMNS)


def rows(first, last, columns=COLUMNS):
    values = np.random.default_rng(first).random((last - first + 1, len(columns) - 1))
    return np.column_stack([np.arange(first, last + 1), values]).astype("f4")


def leave_record(path, steps=4, columns=COLUMNS, **info):
    StepRecord(columns, path, info=info).append(rows(1, steps, columns))
    return path


def test_what_is_appended_is_read(tmp_path):
    record = StepRecord(COLUMNS, tmp_path / "steps.rec", info={"warmup_steps": 3})
    record.append(rows(1, 4))
    record.append(rows(5, 6))
    read = read_steps(tmp_path / "steps.rec")
    assert read["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert read["layers"] == ["embeddings", "layer_00"]
    assert read["layer_norms"].shape == (6, 2) and read["labels"].shape == (6, 2)
    assert read["info"] == {"warmup_steps": 3}
    for kind in ("layer_norms", "update_ratio", "distance", "predicted", "loss"):
        assert np.array_equal(read[kind], record.to_dict()[kind])


def test_further_diagnostics_are_groups_and_columns(tmp_path):
    layers = ["embeddings", "layer_00", "classifier"]
    groups = [f"{kind}/{layer}" for kind in ("update_ratio", "distance", "grad_norm") for layer in layers]
    leave_record(tmp_path / "steps.rec", columns=["step", "clip_factor", "cls_variance", *groups])
    read, values = read_steps(tmp_path / "steps.rec"), rows(1, 4, ["step", "a", "b", *groups])
    assert read["layers"] == layers
    for i, kind in enumerate(("update_ratio", "distance", "layer_norms")):
        np.testing.assert_array_equal(read[kind], values[:, 3 + 3 * i : 6 + 3 * i])
    np.testing.assert_array_equal(read["cls_variance"], values[:, 2])
    assert read_steps(leave_record(tmp_path / "few.rec"))["distance"].shape == (4, 0)


# ---- it is whole, whatever happens


def test_a_file_that_was_cut_at_any_byte_of_its_last_block_loses_only_that(tmp_path):
    path = tmp_path / "steps.rec"
    record = StepRecord(COLUMNS, path, info={"max_steps": 10})
    record.append(rows(1, 6))
    record.append(rows(7, 10))
    content = path.read_bytes()
    for lost in range(4 * WIDTH + 1):
        path.write_bytes(content[: len(content) - lost])
        read = read_steps(path)
        whole = 10 - -(-lost // WIDTH)
        assert read["step"].tolist() == list(range(1, whole + 1)) and read["info"] == {"max_steps": 10}
        np.testing.assert_array_equal(read["layer_norms"][:6], rows(1, 6)[:, 6:])


def test_a_record_that_was_cut_is_resumed_in_line(tmp_path):
    path = leave_record(tmp_path / "steps.rec", 10)
    path.write_bytes(path.read_bytes()[:-5])
    StepRecord(COLUMNS, path, last_step=9).append(rows(10, 12))
    assert read_steps(path)["step"].tolist() == list(range(1, 13))


def test_after_a_write_that_failed_half_way_the_next_one_stands_in_line(tmp_path):
    record = StepRecord(COLUMNS, tmp_path / "steps.rec")
    record.append(rows(1, 4))
    with record.path.open("ab") as file:
        file.write(b"half a row")  # as a full disk leaves it
    record.append(rows(5, 6))
    np.testing.assert_array_equal(read_steps(record.path)["loss"], np.concatenate([rows(1, 4), rows(5, 6)])[:, 1])


ENDLESS = """
import sys
from pathlib import Path
import numpy as np
from hf_stability.diagnostics.step_record import StepRecord

record = StepRecord(["step", *(f"grad_norm/layer_{i:03d}" for i in range(249))], Path(sys.argv[1]), info={"max_steps": 7})
block, steps = 0, 1000
while True:  # blocks of 1 MB, so that the kill often comes in mid-write
    step = np.arange(block * steps + 1, (block + 1) * steps + 1)
    record.append(np.repeat(step[:, None], 250, axis=1))
    block += 1
    print(block, flush=True)
"""


@pytest.mark.parametrize("blocks", [1, 5, 12])
def test_a_killed_process_loses_at_most_its_last_block(tmp_path, blocks):
    path = tmp_path / "steps.rec"
    command = [sys.executable, "-c", ENDLESS, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(hf_stability.__file__).parents[1]
    ) as run:
        for _ in range(blocks):
            run.stdout.readline()
        run.kill()
        said = run.stdout.read().split()  # what it wrote before the kill reached it
    assert run.returncode == -9
    done = int(said[-1]) if said else blocks
    read = read_steps(path)
    assert 1000 * done <= len(read["step"]) <= 1000 * (done + 1)
    assert read["info"] == {"max_steps": 7}
    steps = np.arange(1, len(read["step"]) + 1)
    assert np.array_equal(read["step"], steps) and np.array_equal(read["layer_norms"][:, 248], steps)


# ---- resumed, begun anew, another version


def test_a_resumed_record_has_no_step_twice(tmp_path):
    path = leave_record(tmp_path / "steps.rec", 10)
    StepRecord(COLUMNS, path, last_step=7).append(rows(8, 12))
    assert read_steps(path)["step"].tolist() == list(range(1, 13))


def test_a_new_run_begins_a_new_record(tmp_path):
    path = leave_record(tmp_path / "steps.rec", 10)
    StepRecord(COLUMNS, path)
    assert len(read_steps(path)["step"]) == 0


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        (COLUMNS[:-1], r"\(-grad_norm/layer_00\)"),
        ([*COLUMNS, "clip_factor"], r"\(\+clip_factor\)"),
        (
            [*COLUMNS, *(f"distance/{i}" for i in range(9))],
            r"\(\+distance/0, \+distance/1, \+distance/2, \+distance/3, ...\)",
        ),
        (["step", *COLUMNS[:0:-1]], "their order"),
    ],
)
def test_a_record_with_other_columns_is_not_resumed(tmp_path, columns, difference):
    path = leave_record(tmp_path / "steps.rec", 10)
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=rf"other columns {difference}.*`diagnostics`" if "(" in difference else difference
    ):
        StepRecord(columns, path, last_step=5)
    assert path.read_bytes() == before


def test_rows_of_another_width_are_refused(tmp_path):
    record = StepRecord(COLUMNS, tmp_path / "steps.rec")
    for wrong in (rows(1, 4)[:, 1:], rows(1, 4)[0]):
        with pytest.raises(InputError, match=r"\(steps, 8\), columns step, loss"):
            record.append(wrong)
    assert len(read_steps(record.path)["step"]) == 0


HEADER = {"schema": SCHEMA, "columns": ["step"]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[1]\n",
        b"\xff\xfe",
        json.dumps(HEADER).encode()[:-5],
        json.dumps({**HEADER, "schema": "hf_stability.steps/2"}).encode() + b"\n",
        json.dumps({**HEADER, "columns": []}).encode() + b"\n",
        json.dumps({"schema": SCHEMA}).encode() + b"\n",
    ],
)
def test_what_is_no_record_or_of_another_version_is_refused(tmp_path, content):
    (tmp_path / "steps.rec").write_bytes(content)
    for path in (tmp_path / "steps.rec", tmp_path):
        for read in (read_steps, steps_frame):
            with pytest.raises(InputError, match="steps.rec"):
                read(path)


def test_another_version_is_named(tmp_path):
    (tmp_path / "steps.rec").write_bytes(json.dumps({"schema": "hf_stability.steps/2"}).encode() + b"\n")
    with pytest.raises(InputError, match="schema hf_stability.steps/2, this version reads hf_stability.steps/1"):
        read_steps(tmp_path)


def test_ten_thousand_steps_of_28_layers_stay_under_3_mb(tmp_path):
    columns = ["step", "learning_rate", "loss", "logit_std", "grad_norm", "clipped"]
    columns += [f"{kind}/{k}" for kind in ("labels", "predicted") for k in range(3)]
    columns += [f"grad_norm/layer_{i:02d}" for i in range(28)]
    record = StepRecord(columns, tmp_path / "steps.rec", info={"max_steps": 10_000, "warmup_steps": 1000})
    for first in range(1, 10_001, 250):
        record.append(rows(first, first + 249, columns))
    assert read_steps(record.path)["step"].tolist() == list(range(1, 10_001))
    assert record.path.stat().st_size < 3_000_000


# ---- for a loop of one's own


def test_the_evidence_for_a_verdict_comes_from_the_record(tmp_path):
    values = rows(1, 40)
    values[:, 1], values[:, 2:6] = 0.69, [8, 8, 3, 13]
    values[36:, 4:6] = [16, 0]
    record = StepRecord(COLUMNS, tmp_path / "steps.rec", info={"max_steps": 40, "warmup_steps": 4})
    record.append(values)
    verdict = judge(**training_evidence(read_steps(tmp_path)))
    explicit = judge(
        steps=np.arange(1, 41),
        losses=values[:, 1],
        layer_norms=values[:, 6:],
        layers=["embeddings", "layer_00"],
        warmup_steps=4,
        total_steps=40,
        train_label_counts=[320, 320],
        train_predicted_counts=[64, 0],
    )
    assert verdict == explicit and verdict.status == "failed" and verdict.evidence["train_predicted_class"] == 0


def test_the_evidence_of_a_meagre_record_is_what_there_is(tmp_path):
    record = StepRecord(["step", "loss"], tmp_path / "steps.rec")
    record.append(np.array([[1, 0.5], [2, 0.4]]))
    assert judge(**training_evidence(record.to_dict())) == judge(losses=np.array([0.5, 0.4], "f4"))


# ---- pandas


def test_a_frame_is_the_record(tmp_path):
    path = leave_record(tmp_path / "steps.rec", 5, max_steps=9, norms="before clipping")
    frame = steps_frame(path)
    assert frame.index.name == "step" and frame.index.tolist() == [1, 2, 3, 4, 5]
    assert frame.columns.tolist() == COLUMNS[1:] and set(frame.dtypes) == {np.dtype("float32")}
    np.testing.assert_array_equal(frame.to_numpy(), rows(1, 5)[:, 1:])
    assert frame.attrs == {"max_steps": 9, "norms": "before clipping"}
    frame["loss"] += 1  # a copy of its own, not the file's bytes
    assert hf_stability.steps_frame is steps_frame and hf_stability.read_steps is read_steps


@pytest.mark.parametrize("name", ["steps.rec", "stability/steps.rec"])
def test_a_runs_folder_will_do(tmp_path, name):
    leave_record(tmp_path / name, 3, max_steps=9)
    pd.testing.assert_frame_equal(steps_frame(tmp_path), steps_frame(tmp_path / name))
    assert read_steps(str(tmp_path))["step"].tolist() == [1, 2, 3]


def test_a_folder_without_a_record_is_named(tmp_path):
    for read in (read_steps, steps_frame):
        with pytest.raises(InputError, match="looked for steps.rec and stability/steps.rec"):
            read(tmp_path)
        with pytest.raises(InputError, match="nowhere"):
            read(tmp_path / "nowhere")


def test_a_study_is_one_frame(tmp_path):
    more = [*COLUMNS, "clip_factor"]
    for recipe, seed, steps, columns in (("b", 2, 3, more), ("a", 10, 4, COLUMNS), ("a", 9, 2, COLUMNS)):
        leave_record(tmp_path / f"runs/{recipe}/seed-{seed:03d}/steps.rec", steps, columns, max_steps=steps)
    (tmp_path / "runs" / "a" / "seed-011").mkdir()  # a run that has not begun
    frame = steps_frame(tmp_path)
    assert frame.index.names == ["recipe", "seed", "step"]
    assert frame.index.droplevel("step").unique().tolist() == [("a", 9), ("a", 10), ("b", 2)]
    assert frame.groupby(["recipe", "seed"]).size().tolist() == [2, 4, 3]
    np.testing.assert_array_equal(frame.loc[("a", 10), "grad_norm/layer_00"], rows(1, 4)[:, -1])
    assert frame["clip_factor"].isna().tolist() == [True] * 6 + [False] * 3
    assert frame.attrs["a/seed-010"] == {"max_steps": 4} and len(frame.attrs) == 3


def test_pandas_is_imported_where_it_is_used():
    code = """
import sys
sys.modules["pandas"] = None
from hf_stability.diagnostics.step_record import read_steps, steps_frame
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(hf_stability.__file__).parents[1]).returncode == 0


def evidence_of_rows(tmp_path, columns, rows):
    record = StepRecord(["step", *columns], tmp_path / "steps.rec", info={"max_steps": 20, "warmup_steps": 2})
    steps = np.arange(1, len(rows) + 1)[:, None]
    record.append(np.hstack([steps, rows]))
    return training_evidence(read_steps(tmp_path))


def test_the_evidence_leaves_out_what_nobody_showed(tmp_path):
    columns = ["loss", "labels/0", "labels/1", "predicted/0", "predicted/1", "grad_norm/a"]
    found = evidence_of_rows(tmp_path, columns, np.full((20, 6), np.nan))  # label smoothing, gradients hidden
    for name in ("losses", "layer_norms", "layers", "train_label_counts", "train_predicted_counts"):
        assert found[name] is None
    labels = np.array([0, 1, 1])
    assert judge(eval_labels=labels, eval_predictions=np.eye(2)[labels], **found).status == "ok"


def test_the_evidence_of_a_run_that_is_nan_from_its_first_step_is_its_nan(tmp_path):
    rows = np.tile([np.nan, 8.0, 8.0, 16.0, 0.0, np.nan], (20, 1))
    columns = ["loss", "labels/0", "labels/1", "predicted/0", "predicted/1", "grad_norm/a"]
    found = evidence_of_rows(tmp_path, columns, rows)
    assert np.isnan(found["losses"]).all() and found["train_label_counts"].tolist() == [160, 160]
    assert judge(**found).status == "diverged"
