"""Stages: intermediate trainings, each made once, and what starts from them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from hf_stability import cli
from hf_stability.errors import InputError
from hf_stability.study import run as run_module
from hf_stability.study.folder import encoder_folder, run_folder
from hf_stability.study.job import Job
from hf_stability.study.records import read_run
from hf_stability.study.run import make_trainer, run_job, training_arguments
from hf_stability.study.study import StageFailed, run_jobs


pytestmark = pytest.mark.usefixtures("no_heat_maps")


RECIPES = {
    "base": "args: {learning_rate: 1e-3, total_train_batch_size: 16, bias_correction: true, seed_streams: true}",
    "two": """
stages:
  - {train_file: TRAIN, validation_file: DEV, args: {max_steps: 30, learning_rate: 3e-3, warmup_steps: 0}}
  - {train_file: TRAIN, validation_file: DEV, seed: 2, args: {num_train_epochs: 4, warmup_steps: 0}}
""",
    "warm": "args: {warmup_steps: 2}",
    "rates": "grid: {learning_rate: [1e-3, 2e-3]}\nreplaces: [learning_rate]",
    "wild": "stages: [{train_file: TRAIN, validation_file: DEV, args: {learning_rate: 1e6, max_grad_norm: 0}}]",
}


class Killed(BaseException):
    """As abrupt as a kill: nothing of ours catches it."""


@pytest.fixture(scope="module")
def arguments(tiny_model, tiny_csv):
    """Of a study on the tiny task, cut, of 4 update steps."""
    train, dev = tiny_csv
    return [
        *("--model_name_or_path", tiny_model(), "--train_file", train, "--validation_file", dev, "--use_cpu"),
        *("--max_steps", "4", "--max_train_samples", "32", "--validation_half", "first", "--workers", "0"),
        *("--output_dir", "study", "--seeds", "1"),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, arguments, tiny_csv):
    """A folder with recipes and a `study` of one with a chain of two stages, and of the same without. Not to be changed."""
    folder = tmp_path_factory.mktemp("stages")
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text.replace("TRAIN", tiny_csv[0]).replace("DEV", tiny_csv[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main([*arguments, "--recipe", "base.yaml", "base.yaml+two.yaml"]) == 0
    return folder


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy of the finished study, for the test."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "study"


@pytest.fixture
def command(study, arguments, monkeypatch, capsys):
    """A function of recipes and more arguments that runs the command on the copy: exit code, stdout, stderr."""
    monkeypatch.setattr(
        "hf_stability.study.api.draw_study", lambda folder: ([], "")
    )  # figures take longer than all the rest

    def run(recipes: str, *more: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([*arguments, "--recipe", *recipes.split(), *more])
        return code, *capsys.readouterr()

    return run


def job_of(folder: Path) -> Job:
    return Job.from_dict(json.loads((folder / "config.json").read_text())["job"])


def chain_of(study: Path) -> list[Path]:
    return sorted((study / "stages").iterdir(), key=lambda path: len(job_of(path).stages))


def stamps(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def results(study: Path) -> list[bytes]:
    """What must be the same bytes each time: the stages' encoders, and the runs' results."""
    paths = [path / "encoder" / "model.safetensors" for path in chain_of(study)]
    paths += [*sorted(study.glob("runs/*/*/predictions.npz")), *sorted(study.glob("runs/*/*/run.json"))]
    return [path.read_bytes() for path in paths]


# --- what a study leaves ---------------------------------------------------------------------------------------------


def test_every_stage_leaves_its_folder_its_record_and_its_encoder(finished):
    first, second = chain_of(finished / "study")
    for path, steps, seed in ((first, 30, 1), (second, 12, 2)):
        job, run = job_of(path), read_run(path)
        assert path.name == job.name == f"train-{job.id}" == f"train-{run.id}" and job.seed == seed
        assert run.status == "ok" and run.steps == steps and run.last is not None  # 12: all 48 examples, 4 epochs
        assert {"metrics.json", "verdict.json", "steps.rec", "encoder"} < {p.name for p in path.iterdir()}
        names = load_file(path / "encoder" / "model.safetensors").keys()
        assert any(name.startswith("pooler.") for name in names) and not any("classifier" in name for name in names)
        assert (path / "encoder" / "tokenizer.json").is_file() and not (path / "model").exists()
    assert job_of(second).model == str(Path("study", "stages", first.name, "encoder"))
    assert job_of(second).stages == (job_of(first).id,) and job_of(first).stages == ()
    assert [job_of(path).args["learning_rate"] for path in (first, second)] == [3e-3, 1e-3]
    assert "max_steps" not in job_of(second).args


def test_runs_with_and_without_stages_stand_in_one_table_and_stages_do_not(finished):
    chain = chain_of(finished / "study")
    plain, staged = (job_of(finished / "study" / "runs" / name / "seed-001") for name in ("base", "base+two"))
    assert staged.stages == tuple(job_of(path).id for path in chain) and plain.stages == ()
    assert staged.model == str(Path("study", "stages", chain[1].name, "encoder"))
    assert staged.tokenizer == plain.tokenizer
    assert staged.model_fingerprint == plain.model_fingerprint == job_of(chain[0]).model_fingerprint
    assert dataclasses.replace(staged, recipe="base", stages=()).id == plain.id
    rows = json.loads((finished / "study" / "summary.json").read_text())["recipes"]
    assert [(row["recipe"], row["runs"]) for row in rows] == [("base", 1), ("base+two", 1)]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert"])
def test_the_encoder_is_the_stages_and_the_head_is_drawn_from_the_runs_own_stream(
    tiny_jobs, tiny_model, tmp_path, architecture
):
    """Bit for bit, though the stage has as many labels; and methods that go back to pretrained weights go back to these."""
    (plain,) = tiny_jobs(tmp_path, seeds=(3,), model=tiny_model(architecture), learning_rate=1e-2)
    stage = dataclasses.replace(plain, keep_model="encoder", seed=1)
    run_job(stage, run_folder(tmp_path, stage))
    target = dataclasses.replace(plain, model=str(encoder_folder(tmp_path, stage)), stages=(stage.id,))
    mixed = dataclasses.replace(target, args={**target.args, "mixout": 0.5, "mixout_where": "all"})
    trainers = [make_trainer(job, training_arguments(job, tmp_path / "run")) for job in (target, plain, mixed)]
    start, fresh = (trainer.model.state_dict() for trainer in trainers[:2])
    kept = load_file(encoder_folder(tmp_path, stage) / "model.safetensors")
    prefix = trainers[0].model.base_model_prefix + "."
    head = [name for name in start if not name.startswith(prefix)]
    assert len(head) == (4 if architecture == "roberta" else 2)
    for name, tensor in start.items():
        assert torch.equal(tensor, fresh[name] if name in head else kept[name.removeprefix(prefix)])
    assert any(not torch.equal(tensor, start[name]) for name, tensor in fresh.items())  # the stage changed something
    pretrained = {name: buffer for name, buffer in trainers[2].model.named_buffers() if "pretrained_weight" in name}
    assert pretrained
    for name, buffer in pretrained.items():
        assert torch.equal(buffer, start[name.replace("pretrained_weight", "weight")])
    configs = [trainer.model.config.to_dict() for trainer in trainers[:2]]
    encoders = [json.loads((Path(folder) / "config.json").read_text()) for folder in (plain.model, target.model)]
    assert encoders[0] == encoders[1]  # nothing of the stage's labels and dropout
    for config in configs:
        del config["_name_or_path"], config["architectures"]
    assert configs[0] == configs[1]


def test_a_stage_of_weights_saved_in_float16_leaves_a_float32_encoder(tiny_jobs, tiny_model, tmp_path):
    AutoModel.from_pretrained(tiny_model(), dtype=torch.float16).save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "half")
    (plain,) = tiny_jobs(tmp_path, seeds=(3,), model=str(tmp_path / "half"))
    stage = dataclasses.replace(plain, keep_model="encoder")
    run_job(stage, run_folder(tmp_path, stage))
    encoder = encoder_folder(tmp_path, stage)
    assert {tensor.dtype for tensor in load_file(encoder / "model.safetensors").values()} == {torch.float32}
    assert json.loads((encoder / "config.json").read_text())["dtype"] == "float32"
    target = dataclasses.replace(plain, model=str(encoder), stages=(stage.id,))
    assert make_trainer(target, training_arguments(target, tmp_path / "run")).model.dtype == torch.float32


# --- once, and found again -------------------------------------------------------------------------------------------


def test_more_seeds_and_another_recipe_share_the_stages(command, study):
    before = stamps(study / "stages")
    code, out, err = command("base.yaml+two.yaml base.yaml+warm.yaml+two.yaml", "--seeds", "2")
    assert code == 0, err
    assert "1 finished stage found, kept" in out and "1 finished run found, kept" in out
    assert stamps(study / "stages") == before
    runs = sorted(study.glob("runs/*two/*"))
    assert [run.parent.name for run in runs] == ["base+two", "base+two", "base+warm+two", "base+warm+two"]
    assert len({job_of(run).stages for run in runs}) == len({job_of(run).model for run in runs}) == 1
    assert len({(run / "run.json").read_bytes() for run in runs}) == 4


def test_no_stage_is_trained_that_no_missing_run_needs(command, study):
    shutil.rmtree(study / "stages")
    code, out, _ = command("base.yaml base.yaml+two.yaml")
    assert code == 0 and "2 finished runs found, kept" in out and not (study / "stages").exists()


def test_killed_in_a_stage_the_same_command_goes_on_to_the_same_bytes(command, study, monkeypatch):
    whole = results(study)
    first, second = (path.name for path in chain_of(study))
    shutil.rmtree(study / "stages" / second)
    shutil.rmtree(study / "runs" / "base+two")
    before = stamps(study / "stages" / first)

    def killed(*arguments):
        raise Killed

    with pytest.raises(Killed), monkeypatch.context() as patch:
        patch.setattr(run_module, "write_results", killed)
        command("base.yaml+two.yaml")
    assert (study / "stages" / second / "encoder").is_dir() and read_run(study / "stages" / second) is None
    assert not (study / "runs" / "base+two").exists()
    code, out, err = command("base.yaml+two.yaml", "--workers", "1")  # and in a process of its own
    assert code == 0, err
    assert f"stage {second}: ok" in out and "1 finished stage found, kept" in out
    assert stamps(study / "stages" / first) == before and results(study) == whole


def test_other_stages_under_the_same_name_are_refused_with_the_difference(command, study):
    Path("two.yaml").write_text(Path("two.yaml").read_text().replace("3e-3", "2e-3"))
    first, second = (job_of(path).id for path in chain_of(study))
    before = stamps(study)
    code, out, err = command("base.yaml+two.yaml")
    assert code == 2 and stamps(study) == before
    ids, difference = err.splitlines()[1:]
    assert ids.startswith(f"  stages: ['{first}', '{second}'] -> [") and "base+two/seed-001 was run with other" in err
    assert difference == "  stage 1, args.learning_rate: 0.003 -> 0.002"


# --- stages that came to nothing -------------------------------------------------------------------------------------


def test_a_stage_that_is_not_ok_stops_the_study_with_the_way_out(command, study):
    before = stamps(study / "runs")
    code, out, err = command("base.yaml+wild.yaml", "--seeds", "2")
    (wild,) = (path for path in (study / "stages").iterdir() if job_of(path).args["learning_rate"] == 1e6)
    run = read_run(wild)
    assert code == 1 and run.status in ("failed", "diverged") and stamps(study / "runs") == before
    assert f"hf-stability: stage {wild.name}: {run.sentence}\nNothing was started from it." in err
    assert "another seed or other args" in err and f"--model_name_or_path {Path('study/stages', wild.name)}" in err
    written = stamps(wild)
    code, again, err = command("base.yaml+wild.yaml", "--seeds", "2")
    assert code == 1 and run.sentence in err and stamps(wild) == written  # it would fail again


def test_a_stage_that_crashed_is_trained_again(command, study, monkeypatch):
    shutil.rmtree(study / "stages")
    shutil.rmtree(study / "runs" / "base+two")

    def fails(*arguments):
        raise RuntimeError("no luck")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "make_trainer", fails)
        code, out, err = command("base.yaml+two.yaml")
    assert code == 1 and "crashed: RuntimeError: no luck. See study/stages/train-" in err
    assert len(list(study.glob("stages/*/error.txt"))) == 1 and not (study / "runs" / "base+two").exists()


def test_a_run_without_its_stage_is_refused(finished, tmp_path):
    job = dataclasses.replace(job_of(finished / "study" / "runs" / "base+two" / "seed-001"), seed=9)
    with pytest.raises(InputError, match="base.two/seed-009 starts from stage .*, but no such stage is planned"):
        run_jobs([job], tmp_path, quiet=True, stages=[job_of(chain_of(finished / "study")[0])])
    assert not list(tmp_path.iterdir()) and issubclass(StageFailed, RuntimeError)


# --- planning --------------------------------------------------------------------------------------------------------


def test_dry_run_shows_each_stage_once_with_where_its_values_come_from(command, study):
    before = stamps(study)
    code, out, err = command("base.yaml+two.yaml base.yaml+two.yaml+rates.yaml", "--dry_run")
    assert code == 0 and stamps(study) == before, err
    stages = [line for line in out.splitlines() if line.startswith("stages/")]
    assert len(stages) == 3  # the second takes its rate from the recipe: one for each rate of the grid
    first, second = (path.name for path in chain_of(study))
    point = "base+two+rates,learning_rate="
    assert stages[0].startswith(f"stages/{first}: train 48, validation 24 examples, from files")
    assert stages[0].endswith(f"; for base+two, {point}0.001, {point}0.002")
    assert f"starts from {first}; for base+two, {point}0.001" in stages[1]
    assert stages[2].endswith(f"starts from {first}; for {point}0.002")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:1] == "|"]
    assert ["learning_rate", "0.003", "stage of recipe two"] in rows
    assert ["learning_rate", "0.002", "grid of recipe rates"] in rows
    assert f"base+two: 1 run(s), seeds 1; after stages/{first}, stages/{second}" in out


def test_all_arms_of_a_rescue_start_from_the_stages_of_the_failed_runs_recipe(command, study, arguments, capsys):
    """Before these are trained: what they are tried on is looked up in the pretrained model."""
    first, second = (path.name for path in chain_of(study))
    shutil.rmtree(study)
    assert cli.main(["rescue", *arguments, "--recipe", "base.yaml+two.yaml", "--dry_run"]) == 0
    out, _ = capsys.readouterr()
    arms = [line for line in out.splitlines() if " run(s), seeds " in line]
    assert len(arms) == 4 and all(line.endswith(f"; after stages/{first}, stages/{second}") for line in arms)


BAD = {
    "unknown task": ("{task_name: mnlii}", "--recipe base+bad, stage 1: --task_name mnlii: no such task"),
    "no such file": ("{train_file: a.csv, validation_file: b.csv}", "stage 1: --train_file a.csv: no such file"),
    "no such folder": ("{task_name: mnli, data_dir: nowhere}", "stage 1: --data_dir nowhere"),
    "settings": ("{task_name: demo_pair, args: {optim: sgd, bias_correction: false}}", "stage 1: --optim sgd"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_stage_could_start_with_is_refused_before_anything_is_written(command, study, case):
    stage, message = BAD[case]
    Path("bad.yaml").write_text(f"stages: [{stage}]")
    before = stamps(study)
    code, out, err = command("base.yaml base.yaml+bad.yaml")
    assert code == 2 and message in err and err.count("\n") == 1 and stamps(study) == before


def test_the_commands_glue_folder_serves_the_stages_too(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("entailment", "neutral", "contradiction")
    for name, size in (("MNLI/train", 24), ("MNLI/dev_matched", 12), ("MNLI/dev_mismatched", 9)):
        rows = [f"{i}\tgood film {i % 7}\tbad book\t{words[i % 3]}\n" for i in range(size)]
        path = tmp_path / "glue" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("index\tsentence1\tsentence2\tgold_label\n" + "".join(rows))
    for name in ("train", "dev"):
        rows = [f"{i}\tgood film\tbad book\t{'' if i % 2 else 'not_'}entailment\n" for i in range(8)]
        path = tmp_path / "glue" / "RTE" / f"{name}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(rows))
    model = ["--model_name_or_path", tiny_model(), "--task_name", "rte", "--data_dir", "glue", "--use_cpu"]
    recipes = ["--recipe", "devlin2019+stilts", "mosbach2021+stilts", "--dry_run", "--learning_rate", "1e-3"]
    assert cli.main([*model, *recipes]) == 0
    out, _ = capsys.readouterr()
    (stage,) = (line for line in out.splitlines() if line.startswith("stages/mnli-"))  # one for both
    assert "train 24, validation_matched 12" in stage and stage.endswith("for devlin2019+stilts, mosbach2021+stilts")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:1] == "|"]
    assert ["learning_rate", "2e-05", "stage of recipe stilts"] in rows  # a flag is the target's
    assert ["learning_rate", "0.001", "--learning_rate"] in rows
