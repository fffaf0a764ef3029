"""A study from Python: the command's folder byte for byte, the result, what is refused, and a plan that writes nothing."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hf_stability
from hf_stability import StudyPlan, cli, plan_study, run_study
from hf_stability.cli.flags import (
    DataArguments,
    ExecutionArguments,
    ModelArguments,
    PolicyArguments,
    StudyArguments,
    names_of,
)
from hf_stability.diagnose.rescue import rescue_jobs
from hf_stability.errors import InputError
from hf_stability.recipe import load_recipe
from hf_stability.study import api, prepare
from hf_stability.study.given import check_retries


RESULTS = ("runs/*/*/run.json", "runs/*/*/steps.rec", "runs/*/*/predictions.npz", "summary.*", "figures/*")


@pytest.fixture(scope="session")
def tiny(tiny_model, tiny_csv):
    """The keywords of a study on the tiny model and data, of few steps and in this process."""
    return {
        "model_name_or_path": tiny_model(),
        "train_file": tiny_csv[0],
        "validation_file": tiny_csv[1],
        "workers": 0,
        "use_cpu": True,
        "max_steps": 4,
    }


def flags(keywords: dict, *more: str) -> list[str]:
    return [str(word) for name, value in keywords.items() for word in (f"--{name}", value)] + list(more)


def results(folder) -> dict[str, bytes]:
    found = [path for pattern in RESULTS for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def both(tiny, tmp_path_factory):
    """A study of two recipes and two seeds from the command, and from Python with its result. Not to be changed."""
    folder = tmp_path_factory.mktemp("both")
    recipes = ["devlin2019", "mosbach2021"]
    command = flags(tiny, "--seeds", "2", "--output_dir", str(folder / "command"), "--recipe", *recipes)
    assert cli.main(command) == 0
    result = run_study(**tiny, seeds=2, output_dir=folder / "python", recipes=recipes, quiet=True)
    return folder, result


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take longer than all the rest."""
    monkeypatch.setattr(api, "draw_study", lambda folder: ([], ""))


# ---- a run study ----------------------------------------------------------------------------------------------------


def test_from_python_it_is_the_commands_folder_byte_for_byte(both):
    folder, _ = both
    command, python = results(folder / "command"), results(folder / "python")
    assert python == command and len(python) == 4 * 3 + 3 + 6
    ids = [json.loads(path.read_text())["id"] for path in sorted(folder.glob("*/runs/*/*/config.json"))]
    assert ids[:4] == ids[4:] and len(set(ids)) == 4


def test_the_result_has_the_summary_and_a_frame_of_a_row_per_run(both):
    folder, result = both
    assert result.folder == folder / "python" and result.conclusion == result.picture_error == ""
    assert result.summary == json.loads((folder / "python" / "summary.json").read_text())
    assert sorted(path.name for path in result.pictures) == [
        "gradient_norms.png",
        "score_against_train_loss.png",
        "scores.png",
    ]
    frame = result.frame
    assert list(frame["recipe"]) == ["devlin2019"] * 2 + ["mosbach2021"] * 2 and list(frame["seed"]) == [1, 2, 1, 2]
    assert list(frame["last"]) == [run.last for run in result.runs] == list(frame["eval_accuracy"])
    assert list(frame["id"]) == [run.id for run in result.runs] and set(frame["steps"]) == {4}
    assert not {"metrics", "cell", "schema"} & set(frame.columns)


def test_quiet_prints_nothing_and_otherwise_only_the_progress(both, tiny, tmp_path, capsys, caplog, no_figures):
    folder, _ = both
    keywords = {**tiny, "seeds": 2, "recipes": ["devlin2019", "mosbach2021"], "output_dir": folder / "python"}
    run_study(**keywords, quiet=True)
    assert capsys.readouterr() == ("", "")
    said = []
    run_study(**keywords, say=said.append)
    assert said[0] == "4 finished runs found, kept" and capsys.readouterr().out == ""
    caplog.set_level(logging.WARNING)
    (tmp_path / "one.csv").write_text("sentence,label\ngood film,1\nfine book,1\n")
    one_class = {**tiny, "validation_file": tmp_path / "one.csv", "seeds": [3], "output_dir": tmp_path / "one"}
    run_study(**one_class, quiet=True, recipes="devlin2019")
    assert caplog.text == ""
    run_study(**one_class, say=said.append, recipes="devlin2019")
    assert "all 2 examples are of the class 1" in caplog.text


def test_two_way_seeds_have_their_table_and_their_cells_in_the_frame(tiny, tmp_path, no_figures):
    result = run_study(**tiny, recipes="devlin2019", two_way=[2, 2, 1], output_dir=tmp_path, quiet=True)
    assert result.conclusion.split()[:2] == ["recipe", "source"] and "initialisation" in result.conclusion
    assert result.conclusion.endswith(str(tmp_path / "two_way.md")) and (tmp_path / "two_way.md").is_file()
    cells = result.frame[["init", "order", "dropout"]].to_numpy().tolist()
    assert cells == [[1, 1, 1], [1, 2, 1], [2, 1, 1], [2, 2, 1]]


def test_restarts_end_the_worst_early(tiny, tmp_path, no_figures):
    policy = {"restarts": 2, "look_at": 0.5, "finish": 1}
    result = run_study(**tiny, recipes="devlin2019", **policy, output_dir=tmp_path, quiet=True)
    assert sorted(result.frame["steps"]) == [2, 4] and list(result.frame["ended_at_look"]).count(True) == 1


# ---- a plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_writes_nothing_and_describes_itself_as_the_dry_run(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = plan_study(**tiny, recipes=["devlin2019", "mosbach2021"], seeds=3)
    assert isinstance(plan, StudyPlan) and capsys.readouterr() == ("", "")
    assert str(plan.folder) == "results/custom" and plan.execution.workers == 0 and plan.doubts == []
    assert [job.name for job in plan.jobs][:3] == [f"devlin2019/seed-00{seed}" for seed in (1, 2, 3)]
    assert cli.main(flags(tiny, "--recipe", "devlin2019", "mosbach2021", "--seeds", "3", "--dry_run")) == 0
    assert capsys.readouterr().out == plan.describe() + "\n"
    assert list(tmp_path.iterdir()) == []


def test_settings_are_resolved_and_arguments_built_once_per_recipe(tiny, tmp_path, monkeypatch):
    counts = dict.fromkeys(("resolve", "resolve_model_config", "arguments_class"), 0)
    for name in counts:
        original = getattr(prepare, name)

        def counted(*args, name=name, original=original, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(prepare, name, counted)
    plan_study(**tiny, recipes=["devlin2019", "mosbach2021"], seeds=3, output_dir=tmp_path)
    assert set(counts.values()) == {2}


def test_arms_make_the_jobs(tiny, tmp_path):
    def arms(jobs, data, config):
        return rescue_jobs(jobs, len(data.train), config, min_steps=6)[0]

    plan = plan_study(**tiny, recipes="transformers_default", seeds=2, arms=arms, output_dir=tmp_path)
    assert list(dict.fromkeys(job.recipe for job in plan.jobs)) == ["same", "third_of_rate", "6_steps", "reinit_top"]
    assert len(plan.jobs) == 8
    with pytest.raises(InputError, match="no run is planned"):
        plan_study(**tiny, arms=lambda jobs, data, config: [], output_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"seeds": 2}, [1, 2]),
        ({"seeds": [7]}, [7]),
        ({"seeds": (9, 3)}, [9, 3]),
        ({"seeds": range(4, 6)}, [4, 5]),
        ({"seeds": "1000-1001 5"}, [1000, 1001, 5]),
        ({"seeds": ["2"]}, [1, 2]),
        ({"restarts": 3, "look_at": 0.5, "finish": 1}, [1, 2, 3]),
        ({"restarts": 2, "look_at": 0.5, "finish": 1, "seeds": [8, 9]}, [8, 9]),
    ],
)
def test_seeds_are_a_count_a_list_or_words(tiny, tmp_path, given, seeds):
    plan = plan_study(**tiny, recipes="devlin2019", output_dir=tmp_path, **given)
    assert [job.seed for job in plan.jobs] == seeds


def test_training_arguments_have_the_types_of_the_command_line(tiny, tmp_path):
    plan = plan_study(**tiny, recipes="devlin2019", output_dir=tmp_path, learning_rate="3e-5", num_train_epochs=2)
    args = plan.jobs[0].args
    assert args["learning_rate"] == 3e-5 and type(args["num_train_epochs"]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, "learning_rat: no such argument (did you mean learning_rate?)"),
        ({"recipe": "devlin2019"}, "recipe: no such argument (did you mean recipes?)"),
        ({"max_steps": "x"}, "--max_steps: expected int, found 'x'"),
        ({"bias_correction": 1}, "--bias_correction: expected bool, found 1"),
        ({"learning_rate": float("nan")}, "--learning_rate nan: give a number of 0 or more"),
        ({"recipes": "mosbach2012"}, "--recipe mosbach2012: no such recipe"),
        ({"seeds": 0}, "--seeds 0: means no run"),
        ({"seeds": []}, "--seeds : means no run"),
        ({"seeds": [3, 3]}, "--seeds 3 3: 3 is given twice"),
        ({"seed": 3}, "--seed 3: not allowed in a study"),
        ({"workers": -1}, "--workers -1"),
        ({"threads_per_run": 0}, "--threads_per_run 0"),
        ({"dtype": "float64"}, "--dtype float64: give float32, bfloat16, float16 or auto"),
        ({"keep_model": "all"}, "--keep_model all: give none, last or failed_and_best"),
        ({"validation_half": "third"}, "--validation_half third"),
        ({"model_name_or_path": None}, "--model_name_or_path is missing"),
        ({"train_file": None, "validation_file": None}, "--task_name"),
        ({"two_way": [2, 2], "seeds": 3}, "--two_way 2 2: makes its own seeds; leave out --seeds"),
        ({"two_way": [1, 2]}, "--two_way 1 2: give 2 to"),
        ({"restarts": 3}, "--restarts 3: also give --look_at and --finish"),
        ({"restarts": 3, "look_at": 0.5, "finish": 1, "seeds": 2}, "--restarts 3: --seeds 2 makes 2; give 3 seeds"),
        ({"restarts": 3, "look_at": 0.5, "finish": 1, "two_way": [2, 2]}, "--restarts 3 with --two_way"),
        ({"until": "failed_share"}, "--until failed_share: compares recipes, but there is one"),
        ({"until": "mean", "recipes": ["devlin2019", "mosbach2021"]}, "--until mean: give failed_share or score"),
        ({"until_looks": [4]}, "--until_looks 4: also give --until failed_share or --until score"),
        ({"until": "score", "two_way": [2, 2]}, "--until score with --two_way: give only one of them"),
        ({"until": "score", "restarts": 3, "look_at": 0.5, "finish": 1}, "--until score with --restarts: give only"),
        ({"output_dir": "/proc/study"}, "--output_dir /proc/study: cannot write to /proc"),
    ],
)
def test_bad_input_is_an_input_error_and_nothing_is_written(tiny, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        run_study(**{**tiny, **given})
    assert message in str(error.value) and list(tmp_path.iterdir()) == []


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"workers": "2"}, "--workers '2': give a whole number"),
        ({"workers": 2.0}, "--workers 2.0: give a whole number"),
        ({"workers": True}, "--workers True: give a whole number"),
        ({"threads_per_run": None}, "--threads_per_run None: give 1 or more"),
        ({"max_train_samples": "100"}, "--max_train_samples '100': give a whole number"),
        ({"max_seq_length": "20"}, "--max_seq_length '20': give a whole number"),
        ({"two_way": 2}, "--two_way 2: give whole numbers"),
        ({"two_way": "2 2"}, "--two_way '2 2': give whole numbers"),
        ({"restarts": "3", "look_at": 0.5, "finish": 1}, "--restarts '3': give a whole number"),
        ({"restarts": 3, "look_at": "x", "finish": 1}, "--look_at 'x': must be a fraction"),
        ({"recipes": load_recipe("devlin2019")}, "recipes: give names, not Recipe"),
        ({"methods": [3]}, "methods: give names, not 3"),
        ({"seeds": b"3"}, "--seeds b'3'"),
    ],
)
def test_values_of_another_type_are_refused(tiny, tmp_path, keywords, message):
    with pytest.raises(InputError, match=message):
        plan_study(**{**tiny, "output_dir": tmp_path, **keywords})


def test_forms_that_are_as_good(tiny, tmp_path):
    plan = plan_study(**tiny, seeds=np.arange(3, 5), methods=None, diagnostics="all", output_dir=tmp_path)
    assert [job.seed for job in plan.jobs] == [3, 4] and plan.jobs[0].args["diagnostics"] == ["all"]


CLASH = """
from dataclasses import dataclass, field

from hf_stability.methods import Method


@dataclass
class Arguments:
    seeds: float = field(default=0.0, metadata={"help": "Not those seeds."})


class Clash(Method):
    Arguments = Arguments
"""


def test_own_methods_by_two_names_and_with_a_flags_name(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("clash_in_a_test.py").write_text(CLASH)
    with pytest.raises(InputError, match="method Clash: its argument seeds has the name of a study's flag"):
        plan_study(**tiny, methods="clash_in_a_test.py:Clash", output_dir=tmp_path)
    assert cli.main(["--method", "clash_in_a_test.py:Clash", "--dry_run"]) == 2
    assert "--method: argument --seeds: conflicting option" in capsys.readouterr().err
    Path("mine_in_a_test.py").write_text(CLASH.replace("seeds: ", "mine: ").replace("Clash", "Mine"))
    Path("mine.yaml").write_text("methods: [mine_in_a_test.py:Mine]\nargs: {mine: 0.5}\n")
    both = {"recipes": "devlin2019+mine.yaml", "methods": "mine_in_a_test:Mine"}
    (job,) = plan_study(**tiny, **both, seeds=1, output_dir=tmp_path).jobs
    assert len(job.methods) == len(job.method_hashes) == 1


def test_every_flag_is_a_keyword_with_the_same_default():
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(plan_study).parameters.items()
        if name not in ("arms", "training", "output_dir")  # output_dir is a flag of the Trainer
    }
    own = (ModelArguments, DataArguments, StudyArguments, ExecutionArguments, PolicyArguments)
    flags = {name: getattr(cls(), name) for cls in own for name in names_of(cls) if name != "dry_run"}
    (flags["recipes"],) = flags.pop("recipe")
    flags["methods"] = tuple(flags.pop("method") or ())
    assert flags == keywords


def test_the_public_names_are_these():
    assert hf_stability.run_study is api.run_study and hf_stability.StudyPlan is api.StudyPlan
    assert {"run_study", "plan_study", "StudyPlan"} <= set(hf_stability.__all__) <= set(dir(hf_stability))


GUARDLESS = """
from hf_stability import run_study

run_study(task_name="demo_pair", recipes="devlin2019", seeds=1, max_steps=2, workers=1, output_dir=OUT, use_cpu=True)
"""


@pytest.mark.slow
def test_a_script_without_the_main_guard_says_so(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(GUARDLESS.replace("OUT", repr(str(tmp_path / "out"))))
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert 'put the study below `if __name__ == "__main__":`' in ran.stderr and "--steal_lock" not in ran.stderr


@pytest.mark.parametrize(
    ("retries", "processes", "message"),
    [(-1, 1, "give 0 or more"), (1, 2, "several processes train each run together")],
)
def test_impossible_retries_are_refused(retries, processes, message):
    with pytest.raises(InputError, match=f"--retry_crashed {retries}: .*{message}"):
        check_retries(retries, processes)
