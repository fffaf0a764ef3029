"""Which subcommand is meant, and what each says of itself."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_stability import cli
from hf_stability.cli import command
from hf_stability.cli.command import COMMANDS
from hf_stability.cli.flags import PolicyArguments, StudyArguments
from hf_stability.cli.parser import study_parser
from hf_stability.cli.plain_parser import Texts, parse
from hf_stability.errors import InputError
from hf_stability.methods import argument_names
from hf_stability.recipe.arguments import argument_types


EXAMPLES = Path(__file__).parents[2] / "examples"
GROUPS = ("model", "data", "study", "training", "methods", "diagnostics")


def help_of(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    out, err = capsys.readouterr()
    assert end.value.code == 0 and err == ""
    return out


def flags_of(text: str) -> list[str]:
    """The flags that have a line of their own."""
    return re.findall(r"^  (?:-h, )?(--\w+)", text, re.M)


@pytest.mark.parametrize("argv", [(), *((name,) for name in COMMANDS)], ids=lambda argv: " ".join(argv) or "bare")
def test_help_is_a_screenful_with_examples(capsys, argv):
    lines = help_of(capsys, *argv, "--help").splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    name = f" {argv[0]}" if argv and argv[0] != "run" else ""
    assert lines[0].startswith(f"usage: hf-stability{name}")
    assert any(line.startswith("examples:") for line in lines)
    assert any(re.match(rf" +hf-stability{name}( |$)", line) for line in lines)


def test_the_bare_help_lists_the_commands_and_its_own_flags_in_groups(capsys):
    text = help_of(capsys, "--help")
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", text, re.M), name
    assert [line[:-1] for line in text.splitlines() if line[:-1] in GROUPS] == list(GROUPS)
    assert all(f"--{name}" in text for name in argument_names())
    assert set(flags_of(text)) - {"--help_all"} == set(flags_of(help_of(capsys, "run", "--help"))) - {"--help_all"}


def test_help_all_has_every_flag_once_in_its_group(capsys):
    text = help_of(capsys, "--help_all")
    shown = flags_of(text)
    twins = [flag for flag in shown if flag.startswith("--no_")]
    assert len(shown) == len(set(shown)) and {f"--{name}" for name in argument_types()} <= set(shown)
    assert len(twins) < 10  # of switches that are on by default
    part = {title: text.partition(f"\n{title}:\n")[2].split("\n\n")[0] for title in GROUPS}
    for title, flag in {
        "model": "--tokenizer_name",
        "data": "--max_eval_samples",
        "study": "--output_dir",
        "training": "--adam_beta1",
        "methods": "--r3f_eps",
        "diagnostics": "--audit_alarms",
    }.items():
        assert [name for name, own in part.items() if f"  {flag} " in own] == [title]


def test_run_in_front_changes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = ["--dry_run", "--recipe", "devlin2019", "--seeds", "2", "--max_steps", "3"]
    assert cli.main(flags) == 0
    bare = capsys.readouterr()
    assert cli.main(["run", *flags]) == 0
    assert capsys.readouterr() == bare and bare.out.startswith("task demo_pair")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["diagnos"], "diagnos: no such command (did you mean diagnose?). Commands: run, recipes, diagnose, "),
        (["two-way", "folder"], "two-way: no such command (did you mean two_way?)"),
        (["xyz"], "xyz: no such command. Commands: run"),
        (["mosbach2021"], "mosbach2021: no such command; recipes go after --recipe: --recipe mosbach2021"),
        (["run", "--recip", "x"], "--recip: no such argument (did you mean --recipe?)"),
        (["recipes", "--al"], "--al"),
        (["restarts", "folder", "--budgt", "3"], "--budgt: no such argument (did you mean --budget?)"),
        (["rescue", "--min_step", "3"], "--min_step: no such argument (did you mean --min_steps?)"),
        (["diagnose", "--memoriz"], "--memoriz: no such argument (did you mean --memorize?)"),
        (["two_way"], "two_way: give the study's folder first"),
        (["run", "folder"], "folder: no such argument; a flag begins with --"),
    ],
)
def test_a_typo_is_one_line_with_the_nearest_name(capsys, argv, message):
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("hf-stability: error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "argv",
    ["--recipe {}", "run --seeds 2 --recipe devlin2019 {} --use_cpu", "rescue --recipe={}", "--dry_run --recipe {}"],
)
@pytest.mark.parametrize("name", ["devlin", "reinit+devlin", "devlin,learning_rate=1", "devlin.yaml"])
def test_an_unknown_recipe_is_refused_before_anything_is_imported(capsys, monkeypatch, argv, name):
    monkeypatch.setattr(command, "_command", lambda argv: pytest.fail("too late"))
    monkeypatch.setattr(command, "early_server", lambda: pytest.fail("too late"))
    assert cli.main(argv.format(name).split()) == 2
    assert capsys.readouterr().err.startswith(f"hf-stability: error: --recipe {name}: no such recipe")


def test_what_refuses_it_imports_nothing_heavy():
    code = """
import sys
from hf_stability.cli import main
main(["--recipe", "nonesuch"])
print(sorted({"torch", "transformers", "datasets", "pandas", "scipy", "matplotlib"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n" and "--recipe nonesuch" in done.stderr


def test_help_comes_before_an_unknown_recipe(capsys):
    assert help_of(capsys, "--recipe", "nonesuch", "--help") == help_of(capsys, "--help")


def test_a_parser_takes_the_arguments_of_a_users_own_method():
    own, texts = {"study": (StudyArguments, PolicyArguments)}, Texts("u", "d", "e")
    named = ["--method", f"{EXAMPLES / 'own_method.py'}:NoisyTune"]
    for argv in (named, ["--recipe", f"devlin2019+{EXAMPLES / 'own_method.yaml'}"]):
        known = study_parser(argv, own, texts, ("noisy_tune",))
        given = parse(known, [*argv, "--noisy_tune", "0.5", "--learning_rate", "1e-3"])
        assert given["noisy_tune"] == 0.5 and given["learning_rate"] == 1e-3
        methods = known.format_help().partition("\nmethods:\n")[2].partition("\n\ndiagnostics:")[0]
        assert "--noisy_tune X" in methods and "NoisyTune's lambda" in methods
        with pytest.raises(InputError, match="--noisy: no such argument .did you mean --noisy_tune"):
            parse(known, [*argv, "--noisy", "1"])
    with pytest.raises(InputError, match="--noisy_tune: no such argument"):
        parse(study_parser([], own, texts, ()), ["--noisy_tune", "1"])
    with pytest.raises(InputError, match="--method no_such_module:Mine: No module named"):
        study_parser(["--method", "no_such_module:Mine"], own, texts, ())


MINE = """
from dataclasses import dataclass, field

from hf_stability.methods import Method


@dataclass
class Arguments:
    mine: float = field(default=0.0, metadata={"help": "How much of it. 0: none."})


class Mine(Method):
    Arguments = Arguments
"""


def test_a_users_own_method_brings_its_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_method_of_mine.py").write_text(MINE)
    own = {"study": (StudyArguments, PolicyArguments)}
    argv = ["--method", "a_method_of_mine.py:Mine", "--mine", "0.5", "--learning_rate", "1e-3"]
    known = study_parser(argv, own, Texts("u", "d", "e"), ())
    given = {"method": ["a_method_of_mine.py:Mine"], "mine": 0.5, "learning_rate": 1e-3}
    assert parse(known, argv) == given
    methods = known.format_help().partition("\nmethods:\n")[2].partition("\n\ndiagnostics:")[0]
    assert "--mine X" in methods and "How much of it." in methods and "0: none" not in methods
    with pytest.raises(InputError, match="--min: no such argument .did you mean --mine"):
        parse(known, ["--min", "1"])
