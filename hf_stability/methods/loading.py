"""A user's own method: found by its name, identified by its source."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import InputError, nearest
from .base import Method


def load_method(name: str, folder: Path | None = None) -> type[Method]:
    """Load the class of a user's own method.

    Args:
        name: `my_module:Mine` (a module in `folder`, in the working folder, or installed), or `path/to/file.py:Mine`.
        folder: the folder of the recipe file that names the method. Relative names are looked for there first.

    Raises:
        InputError: there is no such module or class, importing it raises an error, or the class is not a subclass of `Method`.
    """
    module_name, colon, class_name = name.rpartition(":")
    if not (colon and module_name and class_name):
        raise InputError(f"--method {name}: must be MODULE:CLASS (my_module:Mine) or FILE.py:CLASS (my_file.py:Mine).")
    try:
        module = _load_module(module_name, [*([folder] if folder else []), Path.cwd()])
    except ModuleNotFoundError as error:
        if error.name is not None and error.name != module_name.partition(".")[0] and error.name != module_name:
            raise InputError(f"--method {name}: importing it needs {error.name}. Install that.") from None
        raise InputError(f"--method {name}: {error}. Put the file into {Path.cwd()}, or install the module.") from None
    except FileNotFoundError as error:
        raise InputError(f"--method {name}: {error}.") from None
    except Exception as error:  # the user's module
        raise InputError(f"--method {name}: importing it raised {type(error).__name__}: {error}") from error
    found = getattr(module, class_name, None)
    if found is None:
        classes = [
            k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Method) and v is not Method
        ]
        there = f"It has {', '.join(classes)}." if classes else "It has no method."
        raise InputError(f"--method {name}: no {class_name} in this module{nearest(class_name, classes)}. {there}")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise InputError(f"--method {name}: {class_name} is not a subclass of hf_stability.methods.Method.")
    _check_arguments(found)
    return found


def _check_arguments(method: type[Method]) -> None:
    """Refuse a method with arguments that cannot become flags."""
    arguments = method.Arguments
    if not dataclasses.is_dataclass(arguments):
        raise InputError(
            f"method {method.__name__}: its Arguments are not a dataclass. Put @dataclass before the class."
        )
    for field in dataclasses.fields(arguments):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"method {method.__name__}: its argument {field.name} has no default. Give it one.")


def method_name(method: str | type[Method]) -> str:
    """A name by which `load_method` finds a method from any folder and in any process.

    Raises:
        InputError: the class was made inside a function, or is not in a file.
    """
    if isinstance(method, str):
        module, _, name = method.rpartition(":")
        return f"{Path(module).resolve()}:{name}" if module.endswith(".py") and Path(module).is_file() else method
    try:
        file = Path(inspect.getfile(method))
    except (TypeError, OSError):
        file = None
    at_top = getattr(sys.modules.get(method.__module__), method.__name__, None) is method
    if file is None or not file.is_file() or not at_top:
        raise InputError(
            f"method {getattr(method, '__name__', method)}: worker processes could not load it. Put the class at the top level "
            "of a file."
        )
    return (
        f"{file.resolve()}:{method.__qualname__}"
        if method.__module__ == "__main__"
        else (f"{method.__module__}:{method.__qualname__}")
    )


def _load_module(name: str, folders: list[Path]) -> ModuleType:
    if name.endswith(".py"):
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no such file in {' or '.join(map(str, folders))}")
        return _loaded_from(path.resolve()) or _load_file(path.resolve())
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    known = _loaded_from(Path(spec.origin)) if spec is not None and spec.origin and spec.has_location else None
    return known or importlib.import_module(name)


def _loaded_from(path: Path) -> ModuleType | None:
    """The module that was loaded from a file, under any name; None if it was not."""
    for known in list(sys.modules.values()):
        file = getattr(known, "__file__", None)
        if file and file.endswith(path.name) and Path(file).resolve() == path:
            return known
    return None


def _load_file(path: Path) -> ModuleType:
    """Load a file as a module with a unique name, so that it hides no other module."""
    name = f"hf_stability_method_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle looks for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def source_hash(method: type[Method]) -> str:
    """SHA-256 of the file with a method's class, hexadecimal. It is in a run's id: a changed source gives other runs."""
    return hashlib.sha256(Path(inspect.getfile(method)).read_bytes()).hexdigest()
