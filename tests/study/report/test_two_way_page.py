"""`two_way.md` from the folder of hand-made runs: nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from itertools import product

import numpy as np
import pytest

from hf_stability.errors import InputError
from hf_stability.study.report.two_way_page import write_two_way
from hf_stability.study.study import read_runs
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
    assert "3 of 32 runs failed: these counts are what there is to read" in text
    assert "| 1                           | 2/2 | 1/2 | 0/2 | 0/2 | 3/8  |" in text


def test_of_many_failures_the_components_come_first(tmp_path):
    leave_design(tmp_path, failed=set(range(0, 32, 2)))
    text = write_two_way(tmp_path)
    assert headings(text) == ["# Two-way seeds", "## a", "### accuracy", "### Failed runs"]
    assert text.index("Components of the response") < text.index("Failed runs of each cell:")


def test_no_failures_and_one_run_a_cell(tmp_path):
    leave_design(tmp_path, failed=(), replicates=1)
    text = write_two_way(tmp_path)
    assert "No run of 16 failed: there is nothing to take apart." in text and "not separable" in text


def test_a_recipe_that_is_not_whole_has_a_sentence_and_the_others_their_table(tmp_path):
    leave_design(tmp_path, failed=(), size=2)
    leave_design(tmp_path, failed=(), size=2, recipe="b")
    shutil.rmtree(tmp_path / "runs/b/init-02_order-01_dropout-1")
    leave_run(tmp_path, 1, recipe="plain")
    text = write_two_way(tmp_path)
    assert "Not analysed: initialisation seed 2 with data-order seed 1: 1 runs, others have 2" in text
    assert "Not analysed: plain: 1 of 1 runs are of plain seeds" in text and text.count("### accuracy") == 1
    (tmp_path / "two_way.md").unlink()
    with pytest.raises(InputError, match="1 runs, others have 2.*; plain: 1 of 1 runs are of plain seeds"):
        write_two_way(tmp_path, ["b", "plain"])
    assert not (tmp_path / "two_way.md").exists()


def test_a_diverged_run_counts_with_its_last_score(tmp_path):
    leave_design(tmp_path, failed=(), size=2)
    (run,) = (run for run in read_runs(tmp_path) if run.seed == 1001001)
    path = tmp_path / "runs" / run.name / "run.json"
    path.write_text(json.dumps(dataclasses.replace(run, status="diverged").to_dict()))
    text = write_two_way(tmp_path)
    assert "1 diverged: the score of their last predictions counts." in text and "1 of 8 runs failed" in text
