"""`--until`: looks, decisions and refusals on made-up runs; (slow) a real tiny study that is decided at its first look."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import pytest
from scipy import stats

from hf_stability import cli
from hf_stability.errors import InputError
from hf_stability.statistics import pocock_level
from hf_stability.study.execution import Execution
from hf_stability.study.executors.event import Event
from hf_stability.study.folder import read_runs
from hf_stability.study.job import Job
from hf_stability.study.policies.policy import Policy
from hf_stability.study.policies.until import Until, default_looks, make_plan, smallest_p, take_look
from hf_stability.study.progress_file import read_progress
from hf_stability.study.records import RunRecord
from hf_stability.study.report.page.compare import comparison
from hf_stability.study.report.page.page import write_report
from hf_stability.study.report.until import UNTIL, look_sentence, until_notes
from hf_stability.study.status import StatusReader, status_text
from hf_stability.study.study import run_jobs
from hf_stability.utils.files import write_json
from tests.study.tools import Killed, results


def jobs_of(*recipes: str, seeds: int = 8, **values) -> list[Job]:
    return [
        Job(recipe, seed, "rte", {"max_steps": 10}, {}, "model", "data", **values)
        for recipe in recipes
        for seed in range(1, seeds + 1)
    ]


def record(job: Job, failed: bool, **values) -> RunRecord:
    score = 0.47 if failed else 0.7 + 0.01 * (job.seed % 3)
    status = "failed" if failed else "ok"
    given = {"last": score, "best": score, "baseline": 0.53, "steps": 10, "planned_steps": 10, **values}
    return RunRecord(job.id, job.recipe, job.seed, job.task, given.pop("status", status), "accuracy", **given)


@dataclasses.dataclass(frozen=True)
class Made(Execution):
    """Leaves records without any training: recipe -> how many of its first seeds fail. `breaks`: names that crash, or kill."""

    fails: dict = dataclasses.field(default_factory=dict)
    breaks: dict = dataclasses.field(default_factory=dict)
    executed: list = dataclasses.field(default_factory=list)

    def execute(self, jobs, folders, listen):
        for job, folder in zip(jobs, folders, strict=True):
            if self.breaks.get(job.name) == "kill":
                raise Killed
            if self.breaks.get(job.name) == "crash":
                listen(Event(job, "crashed", error="a bug"))
                continue
            folder.mkdir(parents=True)
            run = record(job, job.seed <= self.fails[job.recipe])
            write_json(folder / "config.json", {"job": job.to_dict()})
            write_json(folder / "run.json", run.to_dict())
            self.executed.append(job.name)
            listen(Event(job, "finished", run=run))


BAD = {"bad": 8, "good": 0}
"""bad always fails, good never: Fisher's p is 0.029 after 4 seeds, below 0.0294, Pocock's level for two looks."""


def study(folder, fails, policy=None, breaks=None, jobs=None):
    """Run a study of made-up runs: the names of the executed runs, and what was said."""
    said: list[str] = []
    jobs = jobs or jobs_of(*fails)
    policy = policy or Until("failed_share", [4])
    policy.jobs(jobs)
    policy.check_runs(jobs, read_runs(folder), folder)
    how = Made(fails=fails, breaks=breaks or {})
    run_jobs(jobs, folder, how, say=said.append, policy=policy)
    return how.executed, said


# ---- looks and decisions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "looks"), [(20, [5, 10, 15, 20]), (25, [7, 13, 19, 25]), (8, [4, 6, 8]), (5, [4, 5]), (4, [4]), (2, [2])]
)
def test_the_default_looks_are_quarters_from_4_seeds_on(seeds, looks):
    assert default_looks(seeds) == looks


def test_the_plan_has_the_level_of_its_looks_and_pairs():
    plan = make_plan(jobs_of("a", "b", "c", seeds=20), "score", None)
    assert plan["looks"] == [5, 10, 15, 20] and plan["seeds"] == list(range(1, 21))
    assert plan["level"] == pytest.approx(pocock_level([1, 2, 3, 4], 0.05 / 3), abs=1e-8)
    assert make_plan(jobs_of("a", "b"), "failed_share", [3])["looks"] == [3, 8]  # the last look is at all seeds
    assert make_plan(jobs_of("a", "b"), "failed_share", [3, 8])["looks"] == [3, 8]


def test_failed_shares_are_tested_by_fishers_test_for_every_pair():
    jobs, fails = jobs_of("a", "b", "c"), {"a": 6, "b": 5, "c": 0}
    runs = [record(job, job.seed <= fails[job.recipe]) for job in jobs]
    plan = make_plan(jobs, "failed_share", [6])
    look = take_look(plan, runs, 1)
    assert (look["look"], look["seeds"], look["decided"]) == (1, 6, False)  # a and b: 6 and 5 of 6
    for pair, (a, b) in zip(look["pairs"], combinations("abc", 2), strict=True):
        counts = [min(fails[name], 6) for name in (a, b)]
        assert pair["recipes"] == [a, b] and pair["values"] == [count / 6 for count in counts]
        assert pair["p"] == pytest.approx(stats.fisher_exact([[n, 6 - n] for n in counts]).pvalue)
    fails["b"] = 0
    runs = [record(job, job.seed <= fails[job.recipe]) for job in jobs]
    assert not take_look(plan, runs, 1)["decided"]  # b and c are equal now
    two = make_plan(jobs_of("a", "c"), "failed_share", [6])
    assert take_look(two, [run for run in runs if run.recipe != "b"], 1)["decided"]


def test_scores_are_compared_within_seeds_and_a_diverged_run_counts_with_the_baseline():
    jobs = jobs_of("a", "b", seeds=9)
    scores = {
        "a": [0.70, 0.65, 0.72, 0.68, 0.66, 0.69, 0.71, None, 0.1],
        "b": [0.6, 0.56, 0.61, 0.6, 0.55, 0.59, 0.6, 0.52, 0.9],
    }
    runs = [record(job, False, last=scores[job.recipe][job.seed - 1]) for job in jobs]
    plan = make_plan(jobs, "score", [8])
    assert take_look(plan, runs, 1)["pairs"] == [{"recipes": ["a", "b"], "values": [None, None], "p": None}]
    runs = [dataclasses.replace(run, status="diverged") if run.last is None else run for run in runs]
    (pair,) = take_look(plan, runs, 1)["pairs"]
    a, b = [*scores["a"][:7], 0.53], scores["b"][:8]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    oracle = stats.permutation_test((differences,), lambda d: d.mean(), permutation_type="samples", n_resamples=256)
    assert pair["p"] == pytest.approx(oracle.pvalue) == 2 / 256
    assert pair["values"] == pytest.approx([sum(a) / 8, sum(b) / 8])


def test_a_look_names_decided_and_undecided_pairs_and_counts_the_others():
    jobs = jobs_of("a", "b", "c")
    runs = [record(job, job.recipe == "a" or job.seed == 1) for job in jobs]
    plan = make_plan(jobs, "failed_share", [6])
    assert (
        look_sentence(plan, take_look(plan, runs, 1))
        == (
            "look 1 of 2, 6 seeds per recipe: not decided by failed shares: a 1 against b 0.17, p = 0.015; a 1 against c 0.17, "
            "p = 0.015; b 0.17 against c 0.17, p = 1.000 (Fisher's exact test, level 0.0107)"  # pocock_level([6, 8], 0.05 / 3)
        )
    )
    runs = [record(job, job.recipe == "a") for job in jobs]
    assert (
        "decided by failed shares: a 1 against b 0, p = 0.002; a 1 against c 0, p = 0.002; not decided by"
        in look_sentence(plan, take_look(plan, runs, 1))
    )
    many = jobs_of(*"abcde")
    plan = make_plan(many, "failed_share", [6])
    assert "; 6 more pairs (" in look_sentence(plan, take_look(plan, [record(job, False) for job in many], 1))


def test_runs_without_a_verdict_decide_nothing():
    jobs = jobs_of("a", "b")
    runs = [record(job, job.recipe == "a", **({"status": "unknown"} if job.seed == 1 else {})) for job in jobs]
    look = take_look(make_plan(jobs, "failed_share", [4]), runs, 1)
    assert look["pairs"][0]["p"] is None and not look["decided"]


@pytest.mark.parametrize(
    ("decides", "seeds", "p"), [("failed_share", 4, 2 / 70), ("score", 5, 2 / 32), ("score", 9, 2 / 512)]
)
def test_the_smallest_p_is_that_of_the_clearest_runs(decides, seeds, p):
    jobs = jobs_of("a", "b", seeds=seeds + 1)
    runs = [record(job, job.recipe == "a") for job in jobs]
    assert smallest_p(decides, seeds) == pytest.approx(p)
    assert take_look(make_plan(jobs, decides, [seeds]), runs, 1)["pairs"][0]["p"] == pytest.approx(p)


# ---- a study --------------------------------------------------------------------------------------------------------


def test_a_decided_study_stops_and_the_same_command_says_so_again(tmp_path, monkeypatch):
    sent: list[str] = []
    monkeypatch.setattr("hf_stability.study.study.send_summary", lambda *arguments: sent.append("once") or [])
    executed, said = study(tmp_path, BAD)
    assert executed == [f"{recipe}/seed-00{seed}" for recipe in ("bad", "good") for seed in (1, 2, 3, 4)]
    decision = (
        "look 1 of 2, 4 seeds per recipe: decided by failed shares: bad 1 against good 0, p = 0.029 (Fisher's exact test, "
        "level 0.0294)"
    )
    assert decision in said
    before, until = results(tmp_path), (tmp_path / UNTIL).read_bytes()
    executed, said = study(tmp_path, BAD)
    assert executed == [] and said[:2] == ["8 finished runs found, kept", decision]
    assert results(tmp_path) == before and (tmp_path / UNTIL).read_bytes() == until
    assert sent == ["once"]  # to the trackers: the second call has nothing new
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [figures["runs"] for figures in summary["recipes"]] == [4, 4]


def test_progress_and_status_do_not_wait_for_the_runs_that_were_left_out(tmp_path):
    study(tmp_path, BAD)
    told = read_progress(tmp_path)
    assert (told.state, told.finished, len(told.planned), told.share) == ("ended", 8, 8, 1.0)
    status = StatusReader(tmp_path).read()
    assert status.left == 0 and status.to_dict()["decided"] == "decided after 4 of 8 seeds"
    text = status_text(status, 200)
    assert ", decided after 4 of 8 seeds" in text and "8 of 8 runs finished" in text and "To continue" not in text


def test_everything_that_shows_its_figures_says_that_it_stopped_early(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_stability.study.report.page.page.page_figures", lambda *arguments: ([], []))
    study(tmp_path, BAD)
    said = Until("failed_share").conclusion(tmp_path, ["bad", "good"])
    assert said.startswith(
        "This study stopped early, at look 1 of 2 (--until), after 4 of 8 seeds per recipe. It was decided by"
    )
    assert "lie too far apart on average; docs/until.md" in said and "not adjusted for the looks" in said
    assert all(line in (tmp_path / "summary.md").read_text() for line in said.split("\n"))
    write_report(tmp_path)
    contents = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(contents["verdict"]) == 4 and contents["verdict"][3] == said.replace("\n", " ")
    assert contents["notes"] == [said.split("\n")[0]]
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("This study stopped early") == 2 and page.count("lie too far apart") == 1
    assert comparison([tmp_path]).count("This study stopped early") == 1


def test_without_the_flag_the_other_seeds_are_run_and_the_mark_changes(tmp_path):
    study(tmp_path, BAD)
    executed, said = study(tmp_path, BAD, Policy())
    assert len(executed) == 8 and executed[0] == "bad/seed-005" and not [line for line in said if "look" in line]
    assert read_progress(tmp_path).decided == "" and StatusReader(tmp_path).read().left == 0
    text = (tmp_path / "summary.md").read_text()
    assert (
        "stopped early" not in text
        and "More seeds were run after look 1 of 2 (--until), at 4 seeds per recipe. It was decided" in text
    )
    executed, said = study(tmp_path, BAD)
    assert executed == [] and "decided" in said[1]  # all runs are there: the first look still decides
    assert read_progress(tmp_path).decided == ""


def test_a_plain_study_has_no_mark_and_the_same_bytes(tmp_path):
    study(tmp_path / "plain", BAD, Policy())
    study(tmp_path / "all", {"bad": 1, "good": 0}, Until("failed_share", [4]))
    study(tmp_path / "same", {"bad": 1, "good": 0}, Policy())
    assert until_notes(tmp_path / "plain", [("bad", 1)]) == [] and not (tmp_path / "plain" / UNTIL).exists()
    assert "decided" not in json.loads((tmp_path / "plain" / "progress.json").read_text())
    marked, plain = results(tmp_path / "all"), results(tmp_path / "same")
    assert marked.pop("summary.md") != plain.pop("summary.md") and marked == plain


def test_an_undecided_study_runs_all_seeds(tmp_path):
    executed, said = study(tmp_path, {"bad": 1, "good": 0})
    assert len(executed) == 16 and executed[7:9] == ["good/seed-004", "bad/seed-005"]
    looks = [line for line in said if line.startswith("look")]
    assert [line.split(":")[0] for line in looks] == [f"look {k} of 2, {4 * k} seeds per recipe" for k in (1, 2)]
    assert all(": not decided by failed shares: bad 0." in line for line in looks)
    until = json.loads((tmp_path / UNTIL).read_text())
    assert [look["decided"] for look in until["taken"]] == [False, False]
    said = Until("failed_share").conclusion(tmp_path, ["bad", "good"])
    assert (
        said.startswith("All 8 seeds were run, with look 2 of 2 (--until). It was not decided")
        and "too far apart" not in said
    )


def test_a_study_that_is_killed_between_looks_goes_on_to_the_same_end(tmp_path):
    fails = {"bad": 3, "good": 0}
    study(tmp_path / "whole", fails)
    for name in ("bad/seed-002", "good/seed-004", "bad/seed-005", "good/seed-008"):
        with pytest.raises(Killed):
            study(tmp_path / "killed", fails, breaks={name: "kill"})
        assert (tmp_path / "killed" / UNTIL).is_file()
    study(tmp_path / "killed", fails)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert (tmp_path / "killed" / UNTIL).read_bytes() == (tmp_path / "whole" / UNTIL).read_bytes()


def test_a_look_is_not_taken_while_a_run_is_crashed(tmp_path):
    executed, said = study(tmp_path, BAD, breaks={"bad/seed-002": "crash"})
    assert len(executed) == 7  # the second group is not begun
    assert "look 1 of 2 was not taken, because 1 run crashed; run the same command again" in said
    assert json.loads((tmp_path / UNTIL).read_text())["taken"] == []
    assert Until("failed_share").conclusion(tmp_path, ["bad", "good"]) == ""
    told = StatusReader(tmp_path).read()
    assert told.left == 8 and "To continue" in status_text(told, 200) and told.snapshot.decided == ""
    executed, said = study(tmp_path, BAD)
    assert executed == ["bad/seed-002"] and any("look 1 of 2, 4 seeds per recipe: decided" in line for line in said)


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "jobs", "message"),
    [
        (
            Until("failed_share", [3, 6]),
            jobs_of("bad", "good"),
            r"--until_looks 3 6 8: this study was begun with 4 8 .*give these",
        ),
        (Until("score", [4]), jobs_of("bad", "good"), "--until score: this study was begun with failed_share"),
        (Until("failed_share", [4]), jobs_of("bad", "good", seeds=12), r"--until_looks 4 12: .*begun with 4 8"),
        (
            Until("failed_share", [4]),
            jobs_of("bad", "good", "c"),
            "--recipe bad good c: this study was begun with bad good",
        ),
    ],
)
def test_a_plan_cannot_be_changed_once_there_are_results(tmp_path, policy, jobs, message):
    write_json(tmp_path / UNTIL, make_plan(jobs_of("bad", "good"), "failed_share", [4]))
    policy.check_runs(jobs, [], tmp_path)  # without results it can
    runs = [record(job, False) for job in jobs_of("bad", seeds=1)]
    with pytest.raises(InputError, match=message) as error:
        policy.check_runs(jobs, runs, tmp_path)
    assert "made after results does not keep the error rate" in str(error.value) and "leave out --until" in str(
        error.value
    )
    assert "\n" not in str(error.value)


def test_other_seeds_of_the_same_number_are_another_plan(tmp_path):
    write_json(tmp_path / UNTIL, make_plan(jobs_of("a", "b"), "failed_share", [4]))
    others = [dataclasses.replace(job, seed=job.seed + 1) for job in jobs_of("a", "b")]
    with pytest.raises(InputError, match=r"--seeds 2 3 4 \.\.\. 9: this study was begun with 1 2 3 \.\.\. 8"):
        Until("failed_share", [4]).check_runs(others, [record(others[0], False)], tmp_path)


def test_a_folder_with_results_cannot_get_looks_afterwards(tmp_path):
    jobs, runs = jobs_of("a", "b"), [record(job, False) for job in jobs_of("a", "other", seeds=1)]
    with pytest.raises(InputError, match=f"has 1 finished runs but no {UNTIL}, and a plan that is made after results"):
        Until("failed_share").check_runs(jobs, runs, tmp_path)
    Until("failed_share").check_runs(jobs, runs[1:], tmp_path)  # another recipe's


@pytest.mark.parametrize(
    ("looks", "jobs", "message"),
    [
        (None, jobs_of("a"), "--until score: compares recipes, but there is one"),
        (
            None,
            jobs_of("a", "b", seeds=4),
            "--until score: 4 seeds leave no look before the last; give 5 or more --seeds",
        ),
        ([8], jobs_of("a", "b"), "--until_looks 8: no look is before the last seed"),
        ([4, 9], jobs_of("a", "b"), "--until_looks 4 9: there are only 8 seeds"),
        (None, jobs_of("a", "b", processes=2), "--until: not possible where several processes train a run together"),
    ],
)
def test_jobs_that_do_not_fit_are_refused(looks, jobs, message):
    with pytest.raises(InputError, match=message):
        Until("score", looks).jobs(jobs)


@pytest.mark.parametrize("looks", [[], [1, 5], [5, 5], [9, 5], [5.0], ["5"], "5 10", [True, 5]])
def test_looks_are_increasing_whole_numbers(looks):
    with pytest.raises(InputError, match="--until_looks .*: give (whole|increasing) "):
        Until("score", looks)


# ---- the dry run ----------------------------------------------------------------------------------------------------


def test_the_dry_run_tells_the_looks_the_level_and_which_look_can_decide_nothing():
    (line, early) = Until("score").describe(jobs_of("a", "b", "c", seeds=20))
    assert line == (
        "--until score: looks after 5, 10, 15 and 20 seeds per recipe; it stops when all 3 pairs of recipes are decided "
        "(permutation test within seeds, p <= 0.00564 at each look: 0.05 over all looks and pairs)"
    )
    assert early == "With 5 seeds this test can decide nothing"
    assert len(Until("failed_share").describe(jobs_of("a", "b", seeds=20))) == 1


# ---- a real study ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_study_stops_at_its_first_look_and_can_be_completed(
    tiny_model, tiny_csv, tmp_path, capsys, no_heat_maps, no_figures
):
    for name, rate in (("learns", "1e-3"), ("stands", "1e-9")):
        (tmp_path / f"{name}.yaml").write_text(
            f"extends: devlin2019\nargs: {{learning_rate: {rate}}}\nreplaces: [learning_rate]\n"
        )
    folder = tmp_path / "study"
    command = [
        *("--model_name_or_path", tiny_model(), "--train_file", tiny_csv[0], "--validation_file", tiny_csv[1]),
        *("--recipe", str(tmp_path / "learns.yaml"), str(tmp_path / "stands.yaml"), "--seeds", "5", "--use_cpu"),
        *("--max_steps", "24", "--per_device_train_batch_size", "16", "--eval_strategy", "no"),
        *("--workers", "0", "--output_dir", str(folder)),
    ]  # fmt: skip
    until = ["--until", "failed_share", "--until_looks", "4"]
    assert cli.main([*command, *until]) == 0
    out = capsys.readouterr().out
    assert len(read_runs(folder)) == 8 and out.rstrip().endswith("hold for one look only.")
    assert "This study stopped early, at look 1 of 2 (--until), after 4 of 5 seeds per recipe. It was decided" in out
    before = results(folder)
    assert cli.main([*command, *until]) == 0
    assert "This study stopped early" in capsys.readouterr().out and results(folder) == before
    assert cli.main([*command, "--until", "failed_share", "--until_looks", "3"]) == 2  # other looks
    assert "--until_looks 3 5: this study was begun with 4 5" in capsys.readouterr().err
    assert cli.main(command) == 0
    after = results(folder)
    assert len(read_runs(folder)) == 10 and {k: after[k] for k in before if "runs/" in k} == {
        k: v for k, v in before.items() if "runs/" in k
    }
