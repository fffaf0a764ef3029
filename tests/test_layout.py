"""The house's order: a room imports only what stands lower; importing the package stays light; the package is whole."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[1] / "hf_stability"
ORDER = [
    "errors",
    "version",
    "utils",
    "packed",
    "statistics",
    "verdicts",
    "methods",
    "diagnostics",
    "tasks",
    "recipe",
    "training_args",
    "callback",
    "restarting",
    "trainer",
    "study",
    "analysis",
    "diagnose",
    "cli",
]
LEVEL = {room: level for level, room in enumerate(ORDER)}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(parts):
    return parts[0].removesuffix(".py")


def imported_rooms(path):
    parts = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(parts[: len(parts) - node.level])
            target = base + (node.module.split(".") if node.module else [])
            yield from [target[0]] if target else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_stability."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_lower(path):
    room = room_of(path.relative_to(PACKAGE).parts)
    for other in imported_rooms(path):
        assert LEVEL[other] <= LEVEL[room], f"{room} imports {other}"


def imported_modules(name, modules):
    """The package's modules that one imports, at its top or inside a function."""
    path = modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                found = ".".join([*base, alias.name])
                yield found if found in modules else ".".join(base)


def test_no_modules_import_each_other():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    order = graphlib.TopologicalSorter()
    for name in modules:
        if name != "hf_stability":  # its names are imported when they are used
            order.add(name, *(set(imported_modules(name, modules)) - {name}))
    order.prepare()  # raises CycleError, with the circle


LONGEST = 450  # lines
THIN = {"callback.py": 300, "trainer.py": 300}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_too_long_to_be_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= THIN.get(str(path.relative_to(PACKAGE)), LONGEST)


def test_importing_the_package_is_light():
    code = """
import sys
import hf_stability
heavy = {"matplotlib", "ray", "sklearn", "tensorboard", "torch.utils.tensorboard", "hf_stability.study", "hf_stability.cli"}
print(sorted(heavy & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_public_names():
    import hf_stability

    names = "AdamW StabilityCallback StabilityMixin StableTrainer StableTrainingArguments layer_grad_norms load_recipe"
    assert set(names.split()) < set(hf_stability.__all__)
    for name in hf_stability.__all__:
        assert getattr(hf_stability, name) is not None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_public_function_and_class_says_what_it_is(path):
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_every_package_is_installed():
    configured = set(re.findall(r"^    (hf_stability[\w.]*)$", (PACKAGE.parent / "setup.cfg").read_text(), re.M))
    found = {".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")}
    assert found | {"hf_stability.recipes"} == configured
