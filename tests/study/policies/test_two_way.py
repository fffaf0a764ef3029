"""`--two_way`: a real tiny study through the command, its jobs, and what it ends with."""

from __future__ import annotations

import json
import re
import shutil
from itertools import product

import numpy as np
import pytest

from hf_stability import cli
from hf_stability.diagnostics.step_record import read_steps, steps_frame
from hf_stability.study.folder import read_runs
from hf_stability.study.job import Job
from hf_stability.study.policies.two_way import cell_streams, check_sizes, conclusion, two_way_jobs
from hf_stability.study.report.two_way_page import components_table
from hf_stability.study.report.variance_components import analyse
from hf_stability.study.run import make_trainer, quiet, training_arguments
from hf_stability.training_args import seed_streams


pytestmark = pytest.mark.usefixtures("no_heat_maps")

STREAMS = ("init_seed", "data_seed", "dropout_seed")


@pytest.fixture(scope="module")
def arguments(tiny_study):
    return [*tiny_study, *"--max_steps 3 --per_device_train_batch_size 16 --learning_rate 5e-3".split()]


@pytest.fixture(scope="module")
def finished(arguments, tmp_path_factory):
    """A study of 2 initialisations x 2 data orders x 2 replicates. Not to be changed."""
    folder = tmp_path_factory.mktemp("two_way") / "study"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_stability.study.report.figures.draw_figures", lambda *_: [])
        assert cli.main([*arguments, "--two_way", "2", "2", "--output_dir", str(folder)]) == 0
    return folder


def config(folder, run):
    return json.loads((folder / "runs" / run.name / "config.json").read_text())


def test_every_cell_is_a_run_with_the_seeds_of_its_row_and_column(finished):
    runs = read_runs(finished)
    cells = list(product((1, 2), repeat=3))
    assert [run.name for run in runs] == [f"devlin2019/init-0{i}_order-0{j}_dropout-{k}" for i, j, k in cells]
    assert [tuple(run.cell.values()) for run in runs] == cells
    assert [run.seed for run in runs] == [i * 10**6 + j * 1000 + k for i, j, k in cells]
    assert len({run.id for run in runs}) == 8
    for run in runs:
        made = config(finished, run)
        assert made["streams"] == cell_streams(*run.cell.values()) == {k: made["job"]["args"][k] for k in STREAMS}
        assert made["job"]["sources"]["init_seed"] == "--two_way" and made["args"]["seed_streams"] is True


def test_a_row_shares_its_initialisation_a_column_its_order_and_nothing_shares_dropout(finished, tmp_path):
    steps = {
        tuple(run.cell.values()): read_steps(finished / "runs" / run.name / "steps.rec") for run in read_runs(finished)
    }
    batches = {cell: record["labels"].tolist() for cell, record in steps.items()}
    for (i, j, k), counts in batches.items():
        assert counts == batches[3 - i, j, 3 - k]  # the order's batches, whatever the rest
    assert batches[1, 1, 1] != batches[1, 2, 1]
    assert len({record["loss"].tobytes() for record in steps.values()}) == 8
    heads = {}
    for run in read_runs(finished):
        job = Job.from_dict(config(finished, run)["job"])
        with quiet():
            trainer = make_trainer(job, training_arguments(job, tmp_path))
        heads[tuple(run.cell.values())] = trainer.model.classifier.weight.detach().numpy().tobytes()
    assert len(set(heads.values())) == 2 and all(head == heads[cell[0], 1, 1] for cell, head in heads.items())


def test_its_records_are_one_frame_that_tells_the_cells_apart(finished):
    frame = steps_frame(finished)
    assert frame.index.names == ["recipe", "init", "order", "dropout", "step"]
    cells = list(product((1, 2), repeat=3))
    assert frame.index.tolist() == [("devlin2019", *cell, step) for cell in cells for step in (1, 2, 3)]
    for run in read_runs(finished):
        record = read_steps(finished / "runs" / run.name / "steps.rec")
        own = frame.loc[("devlin2019", *run.cell.values())]
        np.testing.assert_array_equal(own["loss"], record["loss"])
        assert frame.attrs[run.name]["max_steps"] == 3
    batches = frame.groupby(["order", "step"])[["labels/0", "labels/1"]].nunique()
    assert (batches == 1).all(axis=None)  # of each order's batch, whatever the initialisation and the dropout


def test_the_study_ends_with_the_table_and_it_is_made_again_from_the_folder(finished, tmp_path, capsys):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    text = (folder / "two_way.md").read_text()
    scores = np.array([run.last for run in read_runs(folder)]).reshape(2, 2, 2)
    assert components_table(analyse(scores, np.random.default_rng(0))) in text
    assert (
        "### accuracy" in text
        and "### Failed runs" in text
        and "share initialisations" in (folder / "summary.md").read_text()
    )
    (folder / "two_way.md").unlink()
    assert cli.main(["two_way", str(folder), "--recipe", "devlin2019"]) == 0
    assert (folder / "two_way.md").read_text() == text and text in capsys.readouterr().out


def test_the_study_prints_each_sources_share_and_where_the_rest_is(finished, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    text = conclusion(folder, ["devlin2019"])
    page = (folder / "two_way.md").read_text()
    table = text.partition("\n\n")[0].splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in table[2:]]
    assert [row[-2] for row in rows] == ["initialisation", "data order", "interaction", "dropout"]
    assert rows[0][0] == "devlin2019" and all(row[-1] in page for row in rows)
    assert text.endswith(f"\n\nVariances, failed runs of each cell and notes: {folder / 'two_way.md'}")
    assert max(map(len, table)) <= 100


def test_more_of_each_add_to_it_and_plain_seeds_are_refused(arguments, finished, tmp_path, capsys, no_figures):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    before = {path: path.read_bytes() for path in folder.glob("runs/*/*/run.json")}
    (folder / "runs/devlin2019/init-02_order-01_dropout-2/run.json").unlink()  # as after a kill
    reason = conclusion(folder, ["devlin2019"])
    assert (
        reason.startswith("two_way.md was not written: ")
        and "others have 2; each pair of seeds needs the same number" in reason
    )
    assert not (folder / "two_way.md").exists()
    assert cli.main([*arguments, "--two_way", "3", "2", "1", "--output_dir", str(folder)]) == 2
    assert "needs the same number of runs; give --two_way 3 2 2, or another --output_dir" in capsys.readouterr().err
    assert cli.main([*arguments, "--two_way", "3", "2", "2", "--output_dir", str(folder)]) == 0
    assert "7 finished runs found, kept" in capsys.readouterr().out and (folder / "two_way.md").exists()
    assert {path: path.read_bytes() for path in before} == before
    assert cli.main([*arguments, "--seeds", "1", "--output_dir", str(folder)]) == 2
    assert "cell: two-way seeds -> (not set)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, message",
    [
        (["--two_way", "5"], "--two_way 5: give the number of initialisations, of data orders"),
        (["--two_way", "5", "1"], "--two_way 5 1: give 2 to 999 initialisations, 2 to 999 data orders"),
        (["--two_way", "2", "2", "0"], "1 to 999 replicates"),
        (["--two_way", "2", "2", "--seeds", "3"], "--two_way 2 2: makes its own seeds; leave out --seeds"),
        (["--two_way", "2", "2", "--on_alarm", "stop"], "--on_alarm stop: not allowed with --two_way"),
    ],
)
def test_what_is_no_design_is_refused_before_anything_is_written(arguments, tmp_path, capsys, given, message):
    assert cli.main([*arguments, *given, "--output_dir", str(tmp_path / "study")]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_dry_run_names_the_runs(arguments, tmp_path, capsys):
    assert (
        cli.main([*arguments, "--two_way", "2", "3", "1", "--dry_run", "--output_dir", str(tmp_path / "study")]) == 0
    )
    assert "devlin2019: 6 run(s), seeds init-01_order-01_dropout-1, init-01_order-02" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_seeds_do_not_depend_on_how_many_there_are_and_dropout_is_each_runs_own(tiny_jobs, tmp_path):
    planned = tiny_jobs(tmp_path, seeds=(1,))
    small, large = ({job.name: job.id for job in two_way_jobs(planned, *sizes)} for sizes in ((2, 2, 1), (3, 4, 2)))
    assert small.items() < large.items() and len(set(large.values())) == 24
    dropout = [cell_streams(*cell)["dropout_seed"] for cell in product(range(1, 11), repeat=3)]
    assert len(set(dropout)) == 1000
    plain = seed_streams(3)
    assert (
        cell_streams(3, 3, 1)["init_seed"] == plain["init_seed"]
        and cell_streams(3, 3, 1)["data_seed"] == plain["data_seed"]
    )
    assert plain["dropout_seed"] not in dropout
    assert check_sizes([5, 4]) == (5, 4, 2) and check_sizes([5, 4, 1]) == (5, 4, 1)


def test_a_recipe_without_a_complete_design_is_named_below_the_table(finished, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder)
    shutil.copytree(folder / "runs" / "devlin2019", folder / "runs" / "other")
    for file in (folder / "runs" / "other").rglob("run.json"):
        file.write_text(file.read_text().replace('"devlin2019"', '"other"'))
    shutil.rmtree(next((folder / "runs" / "other").glob("*")))
    text = conclusion(folder, ["devlin2019", "other"])
    assert "initialisation" in text and "Not analysed: " in text and "other" in text.partition("Not analysed: ")[2]
    alone = conclusion(folder, ["other"])
    assert alone.startswith("Not analysed: ") and "share of the score's variance" not in alone
