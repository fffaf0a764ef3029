"""The project's own files: CI, issue forms, the citation, the wheel; what they say about each other is true."""

import ast
import configparser
import contextlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from hf_stability.cli import main
from hf_stability.version import __version__


ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def requirements():
    """name -> bound of each requirement and of each one in an extra."""
    parts = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    found = re.findall(r"^([\w-]+)(?:\[\w+\])?([<>=].+)$", "\n".join(parts), re.M)
    return dict(found)


# ---- GitHub --------------------------------------------------------------------------------------------------------------


def test_the_workflow_calls_the_same_script_as_everyone():
    workflow = yaml.load(read(".github/workflows/ci.yml"), yaml.BaseLoader)  # plain text: YAML reads `on` as true
    assert set(workflow["on"]) == {"push", "pull_request"}
    test = workflow["jobs"]["test"]
    steps = test["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    oldest = SETUP["options"]["python_requires"].removeprefix(">=")
    assert test["strategy"]["matrix"]["python"] == [oldest, "3.13"]
    setup = next(step["with"] for step in steps if step.get("uses", "").startswith("actions/setup-python@"))
    assert setup["cache"] == "pip" and setup["cache-dependency-path"] == "setup.cfg"


def test_the_site_is_published_from_main_only():
    jobs = yaml.load(read(".github/workflows/ci.yml"), yaml.BaseLoader)["jobs"]
    assert any("mkdocs build --strict" in step.get("run", "") for step in jobs["site"]["steps"])
    assert "refs/heads/main" in jobs["publish"]["if"] and jobs["publish"]["needs"] == "site"
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)  # GitHub's own, none of somebody else


def test_ci_runs_each_check_that_contributing_names():
    script = read(".ci/run")
    for command in ("ruff check .", "ruff format --check .", "mypy", "mkdocs build", "pytest"):
        assert re.search(rf"^(python -m )?{re.escape(command)}", script, re.M), command
        assert command in read("CONTRIBUTING.md"), command


@pytest.mark.parametrize("path", [form for form in FORMS if form.name != "config.yml"], ids=lambda path: path.stem)
def test_an_issue_form_is_one_that_github_takes(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert form["name"] and form["description"] and form["body"]
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]
        assert set(part) <= {"type", "id", "attributes", "validations"}


def test_the_form_for_a_failed_run_asks_for_the_diagnosis(capsys):
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/run.yml"))
    needed = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}
    assert needed == {"diagnose", "command"}
    diagnose = next(part["attributes"] for part in form["body"] if part.get("id") == "diagnose")
    assert "hf-stability diagnose RUN --json" in diagnose["label"]
    with contextlib.suppress(SystemExit):
        main(["diagnose", "--help"])
    assert "--json" in capsys.readouterr().out


# ---- the versions that pages name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/quick_start.md"])
def test_the_versions_on_a_page_are_those_of_setup_cfg(page):
    text = read(page)
    for oldest in re.findall(r"Python (\d\.\d+) or (?:later|newer)", text):
        assert f">={oldest}" == SETUP["options"]["python_requires"]
    torch = requirements()["torch"].removeprefix(">=")
    for low, high in re.findall(r"(\d\.\d+) to (\d\.\d+) are tested", text):
        assert low == torch and f"torch=={high}." in read(".ci/run")
    for pinned in re.findall(r"torch==([\d.]+\d)", text):
        assert f"torch=={pinned}\n" in read(".ci/run")


def test_every_extra_that_a_page_names_is_there():
    extras = set(SETUP["options.extras_require"])
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for names in re.findall(r"pip install (?:-e )?\"?(?:\.|hf_stability)\[([\w,]+)\]", page.read_text("utf-8")):
            assert set(names.split(",")) <= extras, page.name


# ---- citation and changes ------------------------------------------------------------------------------------------------


def test_the_citation_is_valid():
    cffconvert = pytest.importorskip("cffconvert", reason="in the dev extra")
    citation = cffconvert.Citation(read("CITATION.cff"))
    citation.validate()
    assert "hf_stability" in citation.as_bibtex()


def test_the_citation_says_what_the_other_files_say():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__ and citation["license"] == SETUP["metadata"]["license"]
    assert f"## {__version__} ({citation.get('date-released', 'unreleased')})" in read("CHANGES.md")
    assert "2006.04884" in citation["references"][0]["url"]


def test_changes_has_a_line_per_feature():
    heading = None
    for line in read("CHANGES.md").splitlines():
        assert len(line) <= 119, line
        if line.startswith("### "):
            heading = line
        elif line.startswith("- "):
            assert heading is not None and line.endswith("."), line
        else:
            assert not line.startswith(" "), f"goes on from the line before: {line}"


# ---- the wheel -----------------------------------------------------------------------------------------------------------


def test_every_function_of_the_package_has_type_hints():
    """What mypy refuses, in a second: a function whose parameters or result have no type."""
    for path in sorted((ROOT / "hf_stability").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                given = node.args
                named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                without = [a.arg for a in named if a and a.annotation is None and a.arg not in ("self", "cls")]
                assert not without, f"{path.name}:{node.lineno} {node.name}: {without}"
                has_some = node.returns is not None or any(a and a.annotation for a in named)
                assert has_some, f"{path.name}:{node.lineno} {node.name} has no result's type"


@pytest.mark.slow
def test_the_wheel_has_types_recipes_and_the_demo(tmp_path):
    pytest.importorskip("build", reason="in the dev extra")
    source = tmp_path / "source"  # setuptools leaves its own folders there
    for name in ("hf_stability", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"hf_stability-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(ROOT) for folder in ("hf_stability", "recipes") for path in (ROOT / folder).rglob("*.*")}
    wanted = {f"hf_stability/{path}" for path in files if path.parts[0] == "recipes" and path.suffix == ".yaml"}
    wanted |= {str(path) for path in files if path.suffix == ".py" and path.parts[0] == "hf_stability"}
    wanted |= {str(path) for path in files if "assets" in path.parts and path.suffix in (".json", ".safetensors")}
    assert (
        "hf_stability/recipes/mosbach2021.yaml" in wanted
        and "hf_stability/tasks/demo/assets/bert/config.json" in wanted
    )
    assert wanted | {"hf_stability/py.typed"} <= names, sorted(wanted - names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
