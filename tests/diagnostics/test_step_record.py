import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_stability
from hf_stability.diagnostics.step_record import (
    SCHEMA,
    StepRecord,
    missing_steps,
    read_rows,
    read_steps,
    steps_frame,
    training_evidence,
)
from hf_stability.errors import InputError
from hf_stability.study.job import run_name
from hf_stability.verdicts.verdict import judge


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


def test_a_resumed_record_keeps_what_its_first_line_says(tmp_path):
    path = leave_record(
        tmp_path / "steps.rec", 10, max_steps=10, own_loss="focal", since={"layer_00": 4, "layer_01": 9}
    )
    record = StepRecord(COLUMNS, path, last_step=8, info={"max_steps": 20})
    expected = {"max_steps": 20, "own_loss": "focal", "since": {"layer_00": 4}}  # step 9 is done again
    assert record.info == read_steps(path)["info"] == expected
    assert StepRecord(COLUMNS, path, info={"max_steps": 20}).info == {"max_steps": 20}  # a new run


def test_values_of_the_first_line_can_be_set_in_mid_training(tmp_path):
    record = StepRecord(COLUMNS, tmp_path / "steps.rec", info={"max_steps": 9})
    record.append(rows(1, 4))
    record.update_info(since={"layer_00": 3}, max_steps=10)
    record.append(rows(5, 6))
    read = read_steps(tmp_path)
    assert read["info"] == {"max_steps": 10, "since": {"layer_00": 3}} == record.to_dict()["info"]
    np.testing.assert_array_equal(read["loss"], np.concatenate([rows(1, 4), rows(5, 6)])[:, 1])
    with pytest.raises(TypeError):
        record.update_info(max_steps=object())  # no JSON: nothing is changed
    assert read_steps(tmp_path)["info"] == record.info == read["info"]
    in_memory = StepRecord(COLUMNS)
    in_memory.update_info(a=1)
    assert in_memory.to_dict()["info"] == {"a": 1}


# ---- rows that were lost


def the_warning(caplog):
    """The one warning; none after that."""
    (found,) = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def without_rows(path, *lost):
    """Take rows (by update step) out of a record."""
    line, _, data = path.read_bytes().partition(b"\n")
    kept = [row for row in np.frombuffer(data, "<f4").reshape(-1, len(COLUMNS)) if row[0] not in lost]
    path.write_bytes(line + b"\n" + np.array(kept, "<f4").tobytes())


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (range(7, 11), "lacks 4 of the 10 update steps before the checkpoint, the first is 7."),
        ((4, 5), "lacks 2 of the 10 update steps before the checkpoint, the first is 4."),
        (range(1, 4), "lacks 3 of the 10 update steps before the checkpoint, the first is 1."),
        (range(1, 13), "lacks 10 of the 10 update steps before the checkpoint, the first is 1."),
    ],
)
def test_a_record_that_lost_rows_goes_on_without_them_and_says_so(tmp_path, caplog, lost, says):
    path = leave_record(tmp_path / "steps.rec", 12)
    assert missing_steps(path, 10) == 0
    without_rows(path, *lost)
    assert missing_steps(path, 10) == missing_steps(tmp_path, 10) == len(set(lost) & set(range(11)))
    record = StepRecord(COLUMNS, path, last_step=10)
    text = the_warning(caplog)
    assert says in text and "It continues from step 11. Statistics over the missing steps are unknown" in text
    record.append(rows(11, 12))
    kept = [step for step in range(1, 11) if step not in lost]
    read = read_steps(path)
    assert read["step"].tolist() == [*kept, 11, 12]
    np.testing.assert_array_equal(
        read["loss"], np.concatenate([rows(1, 12)[:, 1][[s - 1 for s in kept]], rows(11, 12)[:, 1]])
    )
    assert np.isfinite(read["loss"]).all()  # a row of NaN would be read as divergence


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: 0 * row,  # blocks of zeros, as a power loss leaves them
        lambda row: np.roll(row, 1),
        lambda row: row * np.nan,
        lambda row: row * 0 + np.inf,
        lambda row: np.r_[2, row[1:]],  # a step that was there already
        lambda row: -row,
    ],
)
def test_rows_are_kept_up_to_the_first_that_is_out_of_order(tmp_path, caplog, damage):
    path = tmp_path / "steps.rec"
    values = rows(1, 8)
    values[4] = damage(values[4])
    StepRecord(COLUMNS, path).append(values)
    StepRecord(COLUMNS, path, last_step=8).append(rows(9, 10))
    assert read_steps(path)["step"].tolist() == [1, 2, 3, 4, 9, 10]
    assert "lacks 4 of the 8 update steps before the checkpoint, the first is 5" in the_warning(caplog)


def test_a_whole_record_is_resumed_without_a_word(tmp_path, caplog):
    path = leave_record(tmp_path / "steps.rec", 10)
    StepRecord(COLUMNS, path, last_step=7)
    StepRecord(COLUMNS, path)
    assert not caplog.records


def test_without_a_file_a_resumed_record_begins_at_the_checkpoint(tmp_path, caplog):
    path = tmp_path / "stability" / "steps.rec"
    assert missing_steps(path, 6) == 6
    StepRecord(COLUMNS, path, last_step=6).append(rows(7, 8))
    assert "lacks all 6 update steps before the checkpoint. It continues from step 7" in the_warning(caplog)
    assert read_steps(path)["step"].tolist() == [7, 8]
    StepRecord(COLUMNS, path, last_step=8).append(rows(9, 9))
    assert "lacks 6 of the 8 update steps" in the_warning(caplog)
    assert read_steps(path)["step"].tolist() == [7, 8, 9]


@pytest.mark.parametrize("content", [b"", b"junk", b'{"schema": "hf_stability.steps/2", "columns": ["step"]}\n'])
def test_a_file_that_cannot_be_read_is_put_aside(tmp_path, caplog, content):
    path = tmp_path / "steps.rec"
    path.write_bytes(content)
    assert missing_steps(path, 6) == 6
    StepRecord(COLUMNS, path, last_step=6).append(rows(7, 8))
    text = the_warning(caplog)
    assert "lacks all 6 update steps before the checkpoint" in text and "is now steps.rec.unreadable" in text
    assert (tmp_path / "steps.rec.unreadable").read_bytes() == content
    assert read_steps(path)["step"].tolist() == [7, 8]


# ---- columns that come and go


def test_layers_that_are_unfrozen_have_columns_from_then_on(tmp_path, monkeypatch):
    first = ["step", "loss", "grad_norm/layer_01", "grad_norm/classifier"]
    then = ["step", "loss", "grad_norm/embeddings", "grad_norm/layer_01", "grad_norm/classifier"]
    record = StepRecord(first, tmp_path / "steps.rec", info={"max_steps": 4})
    record.append(rows(1, 2, first))
    record.set_columns(then)
    assert record.columns == record.file_columns == then
    record.append(rows(3, 4, then))
    read = read_steps(tmp_path)
    assert read["layers"] == ["embeddings", "layer_01", "classifier"] and read["info"] == {"max_steps": 4}
    np.testing.assert_array_equal(read["layer_norms"][:2, 0], [np.nan, np.nan])
    np.testing.assert_array_equal(read["layer_norms"][:2, 1:], rows(1, 2, first)[:, 2:])
    np.testing.assert_array_equal(read["layer_norms"][2:], rows(3, 4, then)[:, 2:])
    # frozen again: NaN from then on, and nothing to rewrite
    monkeypatch.setattr(StepRecord, "_write", None)
    record.set_columns(first)
    record.append(rows(5, 5, first))
    assert record.columns == first and record.file_columns == then
    read = read_steps(tmp_path)
    assert read["layers"] == ["embeddings", "layer_01", "classifier"] and np.isnan(read["layer_norms"][4, 0])
    np.testing.assert_array_equal(read["layer_norms"][4, 1:], rows(5, 5, first)[0, 2:])
    for kind in ("layer_norms", "loss", "step"):
        np.testing.assert_array_equal(record.to_dict()[kind], read[kind])


def test_a_column_that_went_keeps_its_place_in_the_models_order(tmp_path):
    layers = [f"grad_norm/{name}" for name in ("embeddings", "layer_00", "layer_01", "classifier")]
    record = StepRecord(["step", *layers[:2], layers[3]], tmp_path / "steps.rec")
    record.append(rows(1, 2, [0] * 4))
    record.set_columns(["step", layers[1], layers[2], layers[3]])
    assert record.file_columns == ["step", *layers]


def test_a_rewriting_that_fails_changes_nothing(tmp_path, monkeypatch):
    record = StepRecord(COLUMNS[:-1], tmp_path / "steps.rec")
    record.append(rows(1, 2, COLUMNS[:-1]))
    before = record.path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match="no space left"):
            record.set_columns(COLUMNS)
    assert record.columns == record.file_columns == COLUMNS[:-1] and record.path.read_bytes() == before
    record.append(rows(3, 3, COLUMNS[:-1]))
    assert read_steps(tmp_path)["step"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        (COLUMNS[:-1], "(-grad_norm/layer_00)"),
        ([*COLUMNS, "clip_factor"], "(+clip_factor)"),
        (
            [*COLUMNS, *(f"distance/{i}" for i in range(9))],
            "(+distance/0, +distance/1, +distance/2, +distance/3, ...)",
        ),
        (["step", *COLUMNS[:0:-1]], None),  # their order alone
    ],
)
def test_a_record_with_other_columns_is_resumed(tmp_path, caplog, columns, difference):
    path = leave_record(tmp_path / "steps.rec", 10)
    record = StepRecord(columns, path, last_step=5)
    assert (
        difference is None
        and not caplog.records
        or f"the columns changed since the record was begun {difference}." in the_warning(caplog)
    )
    record.append(rows(6, 7, columns))
    frame = steps_frame(path)
    assert frame.index.tolist() == [1, 2, 3, 4, 5, 6, 7]
    for i, name in enumerate(columns[1:], start=1):
        np.testing.assert_array_equal(frame[name].loc[6:], rows(6, 7, columns)[:, i])
        before = rows(1, 10)[:5, COLUMNS.index(name)] if name in COLUMNS else np.full(5, np.nan)
        np.testing.assert_array_equal(frame[name].loc[:5], before)
    assert set(frame.columns) == set(COLUMNS[1:]) | set(columns[1:])
    assert frame.drop(columns=columns[1:]).loc[6:].isna().all(axis=None)


def test_columns_of_steps_that_are_done_again_are_forgotten(tmp_path, caplog):
    record = StepRecord(COLUMNS[:-1], tmp_path / "steps.rec")
    record.append(rows(1, 5, COLUMNS[:-1]))
    record.set_columns(COLUMNS)  # unfrozen after the checkpoint at step 4
    record.append(rows(6, 7))
    resumed = StepRecord(COLUMNS[:-1], record.path, last_step=4)
    assert resumed.file_columns == COLUMNS[:-1] == read_rows(record.path)[0]["columns"] and not caplog.records


def test_columns_are_named_once_and_begin_with_the_step(tmp_path):
    record = StepRecord(COLUMNS)
    for wrong in ([], COLUMNS[1:], [*COLUMNS, "loss"]):
        for take in (StepRecord, record.set_columns):
            with pytest.raises(InputError, match="the first must be `step`, and no name may occur twice"):
                take(wrong)


NAMES = ["loss", *(f"grad_norm/{name}" for name in "abcd")]


class SlowRecord:
    """The expected record, update step by update step: the test's oracle."""

    def __init__(self):
        self.steps: dict[int, dict[str, float]] = {}

    def append(self, columns, values):
        for row in values:
            self.steps[int(row[0])] = {name: value for name, value in zip(columns, row, strict=True) if value == value}

    def keep(self, steps):
        self.steps = {step: row for step, row in self.steps.items() if step in steps}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_record_is_a_table_by_step_and_name_whatever_happens(data):
    with tempfile.TemporaryDirectory() as folder:
        path, slow, done = Path(folder) / "steps.rec", SlowRecord(), 0
        columns = ["step", *data.draw(st.permutations(NAMES))[: data.draw(st.integers(0, 5))]]
        record = StepRecord(columns, path)
        for _ in range(data.draw(st.integers(1, 8))):
            event = data.draw(st.sampled_from(["append", "append", "columns", "info", "kill"]))
            wanted = ["step", *data.draw(st.permutations(NAMES))[: data.draw(st.integers(0, 5))]]
            if event == "append":
                block = rows(done + 1, done + data.draw(st.integers(0, 4)), columns)
                block[:, 1:][np.random.default_rng(done).random(block[:, 1:].shape) < 0.2] = np.nan
                record.append(block)
                slow.append(columns, block)
                done += len(block)
            elif event == "columns":
                columns = wanted
                record.set_columns(columns)
            elif event == "info":
                record.update_info(done=done)
            elif done:
                content = path.read_bytes()
                data_bytes = len(content) - content.index(b"\n") - 1
                lost = data.draw(st.integers(0, data_bytes))
                path.write_bytes(content[: len(content) - lost])
                done = data.draw(st.integers(1, done))  # the checkpoint's step
                there = read_rows(path)[1][:, 0]
                slow.keep(set(there[there <= done].astype(int)))
                assert missing_steps(path, done) == done - len(slow.steps)
                columns = wanted
                record = StepRecord(columns, path, last_step=done)
            frame = steps_frame(path)
            assert frame.index.tolist() == sorted(slow.steps) and set(columns[1:]) <= set(frame.columns)
            for step, row in slow.steps.items():
                read = {name: value for name, value in frame.loc[step].items() if value == value}
                assert read == {name: value for name, value in row.items() if name != "step"}
            in_memory = record.to_dict()
            for name, values in read_steps(path).items():
                np.testing.assert_array_equal(values, in_memory[name])


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
        json.dumps({**HEADER, "columns": 5}).encode() + b"\n",
        json.dumps({**HEADER, "columns": ["step", 5]}).encode() + b"\n",
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
    with pytest.raises(
        InputError, match="schema is hf_stability.steps/2, but this version .*reads hf_stability.steps/1"
    ):
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
    assert verdict == explicit and verdict.status == "unknown" and verdict.evidence["train_predicted_class"] == 0


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


def leave_cell(folder, init, order, dropout, steps=2):
    leave_record(
        folder / f"runs/a/init-{init:02d}_order-{order:02d}_dropout-{dropout}/steps.rec", steps, max_steps=steps
    )


def test_a_study_of_two_way_seeds_is_one_frame(tmp_path):
    for cell in ((2, 1, 1), (10, 3, 1), (1, 2, 1), (1, 2, 2)):
        leave_cell(tmp_path, *cell, steps=cell[0])
    frame = steps_frame(tmp_path)
    assert frame.index.names == ["recipe", "init", "order", "dropout", "step"]
    runs = frame.index.droplevel("step").unique().tolist()
    assert runs == [("a", 1, 2, 1), ("a", 1, 2, 2), ("a", 2, 1, 1), ("a", 10, 3, 1)]
    assert frame["loss"].groupby(["init"]).size().tolist() == [2, 2, 10]
    assert frame.attrs["a/init-10_order-03_dropout-1"] == {"max_steps": 10} and len(frame.attrs) == 4
    names = [run_name("a", 0, {"init": 1, "order": 2, "dropout": 2}), run_name("a", 7)]
    assert names[0] in frame.attrs  # as a study names its folders
    leave_record(tmp_path / "runs" / names[1] / "steps.rec", 3)
    leave_record(tmp_path / "runs" / "a" / "notes" / "steps.rec", 3)  # no run's
    both = steps_frame(tmp_path)
    assert both.index.names == ["recipe", "run", "step"] and len(both) == len(frame) + 3
    assert len(both.loc[("a", "seed-007")]) == 3


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


def test_steps_that_were_lost_are_no_divergence(tmp_path, caplog):
    values = rows(1, 40)
    values[:, 1], values[:, 2:6] = 0.05, [8, 8, 8, 8]
    path = tmp_path / "steps.rec"
    StepRecord(COLUMNS, path, info={"max_steps": 40, "warmup_steps": 4}).append(values[:9])
    StepRecord(COLUMNS, path, last_step=20).append(values[20:])
    assert len(read_steps(path)["step"]) == 29 and len(caplog.records) == 1
    found = training_evidence(read_steps(path))
    assert found["warmup_steps"] == 4 and found["train_label_counts"].tolist() == [232, 232]
    assert judge(**found).status == "unknown"  # not diverged
