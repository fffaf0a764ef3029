"""Memory over many runs: the regression, the criterion, and 20 real runs in one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

from benchmarks.memory import FIELDS, WAYS, judge, page, slope


ROOT = Path(__file__).parents[2]


def samples(rss, descriptors=8, threads=3):
    """Samples of one process, a row per run."""
    rss = np.asarray(rss, dtype=float)
    frame = pandas.DataFrame({"way": WAYS[0], "process": "process", "run": np.arange(1, len(rss) + 1)})
    return frame.assign(rss_mb=rss, uss_mb=rss / 2, descriptors=descriptors, threads=threads)


def test_slope_of_a_known_case():
    """A textbook case: slope 0.6, standard error sqrt(0.8 / 10), t of 3 degrees of freedom 3.182446."""
    values = slope(np.arange(1, 6), [2, 4, 5, 4, 5])
    assert values == pytest.approx((0.6, 0.6 - 3.182446 * np.sqrt(0.08), 0.6 + 3.182446 * np.sqrt(0.08)), rel=1e-6)


def test_flat_is_judged_by_the_interval_and_by_descriptors_and_threads():
    noise = np.random.default_rng(0).normal(0, 2, 200)
    flat, runs = 700 + noise, np.arange(200)
    leak = flat + 0.1 * runs
    one_more = np.where(runs > 150, 9, 8)
    cases = [samples(flat), samples(leak), samples(flat, descriptors=one_more), samples(flat, threads=one_more)]
    assert [judge(case)[0]["flat"] for case in cases] == [True, False, False, False]
    (row,) = judge(samples(np.where(runs < 15, runs * 10.0, 150.0)))  # caches that fill in the first runs
    assert row["flat"] and row["runs"] == 181
    assert "| yes " in page([row], {"cpus": 2}, 200)


TWENTY_RUNS = """
import sys
from pathlib import Path

import psutil

from benchmarks.memory import WAYS, sample, tiny_jobs
from hf_stability.study.executors.in_process import execute_in_process

ended = []

def listen(event):
    if event.kind != "progress":
        ended.append(event.kind)
        print(WAYS[0], "process", len(ended), *sample(psutil.Process()).values(), sep=",", file=samples, flush=True)

folder = Path(sys.argv[1])
jobs, folders = tiny_jobs(folder / "study", 20)
with open(folder / "samples.csv", "a") as samples:
    execute_in_process(jobs, folders, listen)
assert ended == ["finished"] * 20
"""


@pytest.mark.slow
def test_twenty_runs_in_one_process_leave_nothing_behind(tmp_path):
    """The slope of 20 runs is noisy: 1 MB per run is the bound. A Trainer that stays adds more than ten."""
    (tmp_path / "samples.csv").write_text(",".join(("way", "process", "run", *FIELDS)) + "\n")
    subprocess.run([sys.executable, "-c", TWENTY_RUNS, str(tmp_path)], check=True, cwd=ROOT)
    (row,) = judge(pandas.read_csv(tmp_path / "samples.csv"), first=5)
    assert row["rss_mb"][0] < 1.0, row
    assert row["descriptors"][0] <= 0 and row["threads"][0] <= 0, row
    assert json.loads(json.dumps(row))["runs"] == 16
