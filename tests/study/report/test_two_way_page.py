"""`two_way.md` from the folder of hand-made runs: nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from itertools import product

import numpy as np
import pytest

from hf_stability.errors import InputError
from hf_stability.study.folder import read_runs
from hf_stability.study.report.two_way_page import components_table, counts_table, write_two_way
from hf_stability.study.report.variance_components import SOURCES, analyse, analyse_failures
from tests.study.report.test_scores import leave_run


def leave_design(folder, failed, replicates=2, recipe="a", size=4):
    """A design of `size` x `size` cells; runs whose number is in `failed` did."""
    rng = np.random.default_rng(0)
    for number, (i, j, k) in enumerate(product(range(1, size + 1), range(1, size + 1), range(1, replicates + 1))):
        cell = {"init": i, "order": j, "dropout": k}
        status, score = ("failed", 0.5) if number in failed else ("ok", 0.7 + 0.1 * rng.random())
        leave_run(folder, i * 10**6 + j * 1000 + k, (0.5, score), status=status, recipe=recipe, cell=cell)


def headings(text):
    return [line for line in text.splitlines() if line.startswith("#")]


def test_few_failures_come_first_as_counts(tmp_path):
    leave_design(tmp_path, failed={0, 1, 2})
    text = write_two_way(tmp_path)
    assert headings(text) == ["# Two-way seeds", "## a", "### Failed runs", "### accuracy"]
    assert "3 of 32 runs failed. Read these counts" in text
    assert "| 1                           | 2/2 | 1/2 | 0/2 | 0/2 | 3/8  |" in text


def test_of_many_failures_the_components_come_first(tmp_path):
    leave_design(tmp_path, failed=set(range(0, 32, 2)))
    text = write_two_way(tmp_path)
    assert headings(text) == ["# Two-way seeds", "## a", "### accuracy", "### Failed runs"]
    assert text.index("Variance components of a response") < text.index("Failed runs of each cell:")


def test_no_failures_and_one_run_a_cell(tmp_path):
    leave_design(tmp_path, failed=(), replicates=1)
    text = write_two_way(tmp_path)
    assert "No run of 16 failed: there is no variance to explain." in text and "not separable" in text


def test_a_recipe_that_is_not_whole_has_a_sentence_and_the_others_their_table(tmp_path):
    leave_design(tmp_path, failed=(), size=2)
    leave_design(tmp_path, failed=(), size=2, recipe="b")
    shutil.rmtree(tmp_path / "runs/b/init-02_order-01_dropout-1")
    leave_run(tmp_path, 1, recipe="plain")
    text = write_two_way(tmp_path)
    assert "Not analysed: initialisation seed 2 with data-order seed 1: 1 runs, others have 2" in text
    assert "Not analysed: plain: 1 of 1 runs have plain seeds" in text and text.count("### accuracy") == 1
    (tmp_path / "two_way.md").unlink()
    with pytest.raises(InputError, match="1 runs, others have 2.*; plain: 1 of 1 runs have plain seeds"):
        write_two_way(tmp_path, ["b", "plain"])
    assert not (tmp_path / "two_way.md").exists()


def test_a_diverged_run_counts_with_its_last_score(tmp_path):
    leave_design(tmp_path, failed=(), size=2)
    (run,) = (run for run in read_runs(tmp_path) if run.seed == 1001001)
    path = tmp_path / "runs" / run.name / "run.json"
    path.write_text(json.dumps(dataclasses.replace(run, status="diverged").to_dict()))
    text = write_two_way(tmp_path)
    assert "1 diverged: the score of their last predictions counts." in text and "1 of 8 runs failed" in text


# ---- its tables -----------------------------------------------------------------------------------------------------


def rng():
    return np.random.default_rng(0)


def test_the_table_has_a_row_for_each_component():
    text = components_table(analyse(rng().random((3, 3, 2)), rng(), draws=50))
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == list(SOURCES)
    assert "variance, 0 if negative" in lines[0] and "3 initialisation seeds x 3 data-order seeds x 2" in text
    assert "not separable" not in text


def test_the_table_says_what_is_not_separable_without_replicates():
    text = components_table(analyse(rng().random((4, 5, 1)), rng(), draws=50))
    assert "| interaction           | 12" not in text and text.count("| not separable") == 6
    assert "interaction and dropout are not separable" in text


def test_the_table_has_no_shares_of_scores_that_are_all_the_same():
    assert " - " in components_table(analyse(np.full((3, 3, 2), 0.1), rng(), draws=50))


def test_the_counts_have_the_sums_of_rows_and_columns():
    failed = np.zeros((2, 3, 2), dtype=bool)
    failed[1] = True
    failed[0, 2, 1] = True
    lines = counts_table(analyse_failures(failed, rng(), draws=20), [10, 11], [5, 6, 7]).splitlines()
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == ["11", "2/2", "2/2", "2/2", "6/6"]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == ["all", "2/4", "2/4", "3/4", "7/12"]
