import sys
import textwrap
from pathlib import Path

import pytest

from hf_stability.errors import InputError
from hf_stability.methods import Method, load_method, method_name, source_hash


SOURCE = """
    from hf_stability.methods import Method

    class Mine(Method):
        '''Mine.'''

    class NotOne:
        pass
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a user's, in the working folder; its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "their_module_of_methods.py"
    path.write_text(textwrap.dedent(SOURCE))
    yield path
    for name in (path.stem, "other_module_of_methods"):
        sys.modules.pop(name, None)


def test_a_module_of_the_working_folder_and_a_file_are_found(module, tmp_path):
    by_module = load_method("their_module_of_methods:Mine")
    assert issubclass(by_module, Method) and by_module.__name__ == "Mine"
    assert load_method("their_module_of_methods.py:Mine") is by_module  # loaded once
    assert load_method(f"{module}:Mine") is by_module
    other = tmp_path / "elsewhere" / "other_module_of_methods.py"
    other.parent.mkdir()
    other.write_text(module.read_text())
    found = load_method("other_module_of_methods.py:Mine", other.parent)  # beside a recipe file
    assert found is not by_module and sys.modules[found.__module__].Mine is found
    sys.path.insert(0, str(other.parent))
    assert load_method("other_module_of_methods:Mine") is found  # the same file by its module's name


def test_another_source_has_another_hash(module):
    first = load_method("their_module_of_methods:Mine")
    before = source_hash(first)
    assert before == source_hash(first) and len(before) == 64
    module.write_text(module.read_text() + "\n")
    assert source_hash(first) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("their_module_of_methods", "must be MODULE:CLASS"),
        (":Mine", "must be MODULE:CLASS"),
        ("no_such_module:Mine", "No module named 'no_such_module'"),
        ("no_such_file.py:Mine", "no such file in"),
        ("their_module_of_methods:Mien", r"no Mien in this module \(did you mean Mine\?\). It has Mine."),
        ("their_module_of_methods:NotOne", "NotOne is not a subclass of hf_stability.methods.Method"),
    ],
)
def test_what_is_no_method_is_refused_in_a_line(module, name, message):
    with pytest.raises(InputError, match=f"--method {name}: .*{message}") as error:
        load_method(name)
    assert "\n" not in str(error.value)


def test_an_error_in_their_module_says_what_it_was(module):
    module.write_text("1 / 0")
    with pytest.raises(InputError, match="importing it raised ZeroDivisionError: division by zero"):
        load_method("their_module_of_methods:Mine")


def test_a_file_hides_no_module_of_its_name(module, tmp_path):
    (tmp_path / "wave.py").write_text(module.read_text())
    load_method(f"{tmp_path / 'wave.py'}:Mine")
    import wave

    assert hasattr(wave, "open") and Path(wave.__file__).parent != tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("@dataclass\nclass Arguments:\n    a: int\n", "its argument a has no default. Give it one"),
        ("class Arguments:\n    a: int = 1\n", "its Arguments are not a dataclass. Put @dataclass before"),
    ],
)
def test_arguments_that_could_not_be_flags_are_refused(module, arguments, message):
    source = "from dataclasses import dataclass\n" + arguments
    module.write_text(source + textwrap.dedent(SOURCE).replace("'''Mine.'''", "Arguments = Arguments"))
    with pytest.raises(InputError, match=message):
        load_method("their_module_of_methods:Mine")


def test_a_class_that_other_processes_cannot_read_is_refused(module):
    class Local(Method):
        pass

    scope = {"__name__": "__main__", "Method": Method}
    exec("class Typed(Method):\n    pass", scope)
    for method in (Local, scope["Typed"]):
        with pytest.raises(InputError, match="Put the class at the top level of a file"):
            method_name(method)
    assert method_name(load_method("their_module_of_methods:Mine")) == "their_module_of_methods:Mine"
    assert method_name("their_module_of_methods.py:Mine") == f"{module}:Mine"
