"""Three additions of the site to Markdown: files of the repository that pages link to, the methods' cards, training arguments.

A page links to a file of the repository by its path (`../benchmarks/demo_study/PROTOCOL.md`), as on a code host. The site
carries that file, below `repo/`: Markdown as a page, code and YAML as a page with its text, everything else as it is. So no link
leaves the site.
"""

from __future__ import annotations

import dataclasses
import inspect
import posixpath
import re
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import yaml
from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A link to a file: `](`, its path, the anchor with `)`. Addresses with a scheme have a colon."""
CODE = {".py": "python", ".yaml": "yaml", ".cfg": "ini", ".cff": "yaml", ".toml": "toml"}
"""Files that become a page with their text, and the language of the text."""
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n"


# ---- events of mkdocs -----------------------------------------------------------------------------------------------


def on_files(files, config):
    """Add each file of the repository that a page links to, and what these link to."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for target in _linked(repository_path(page.src_uri), expanded(page.content_string)):
            uri = site_uri(target)
            if files.get_file_from_path(uri) is None:
                added = _file(config, target, uri)
                files.append(added)
                if target.endswith(".md"):
                    waiting.append(added)
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the repository's files lead to the site's copies; marks become what is made from the package."""
    here = repository_path(page.file.src_uri)

    def relink(found: re.Match) -> str:
        target = _target(here, found[2])
        if target is None:
            return found[0]
        return found[1] + posixpath.relpath(site_uri(target), posixpath.dirname(page.file.src_uri) or ".") + found[3]

    return LINK.sub(relink, expanded(markdown))


# ---- files of the repository ----------------------------------------------------------------------------------------


def repository_path(uri: str) -> str:
    """Where a page of the site is in the repository: `demo.md` -> `docs/demo.md`, `repo/a/b.yaml.md` -> `a/b.yaml`."""
    if not uri.startswith("repo/"):
        return f"docs/{uri}"
    path = uri.removeprefix("repo/")
    stem = path.removesuffix(".md")
    return stem if Path(stem).suffix in CODE else path


def site_uri(path: str) -> str:
    """Where a file of the repository is on the site: the inverse of `repository_path`."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repo/{path}.md" if Path(path).suffix in CODE else f"repo/{path}"


def _target(here: str, link: str) -> str | None:
    """The file of the repository, outside of docs/, that a link leads to; None where it is no such file."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    is_ours = not path.startswith("..") and (ROOT / path).is_file()
    return path if is_ours and not (path.startswith("docs/") and here.startswith("docs/")) else None


def _linked(here: str, markdown: str) -> Iterator[str]:
    for _, link, _ in LINK.findall(markdown):
        target = _target(here, link)
        if target is not None and not target.startswith("docs/"):
            yield target


def _file(config, path: str, uri: str) -> File:
    source = ROOT / path
    language = CODE.get(source.suffix)
    if language:
        return File.generated(
            config,
            uri,
            content=f"{UNSEARCHED}# {source.name}\n\n`{path}`\n\n````{language}\n{source.read_text(encoding='utf-8')}\n````\n",
        )
    if source.suffix == ".md":
        return File.generated(config, uri, content=UNSEARCHED + source.read_text(encoding="utf-8"))
    return File.generated(config, uri, abs_src_path=str(source))


# ---- the methods' cards ---------------------------------------------------------------------------------------------

SECTION = re.compile(r"^([A-Z][A-Za-z ]+):$", re.M)
RESULTS = "benchmarks/recipes_study/results.md"
MEASURED = {
    "`demo_pair`, each": "`demo_pair`, its own rate",
    "`demo_cola`, each": "`demo_cola`, its own rate",
    "`demo_pair`, all": "`demo_pair`, 2.5e-4",
}
"""Part of a heading of the results -> what the card calls that table."""
MEASURED_HEADER = (
    "| task, learning rate | recipe | failed = share (95% interval) | mean | std |\n| --- | --- | --- | --- | --- |"
)


def method_cards() -> list[str]:
    """A card for each packaged method: the sections of its class's docstring, its settings, and what was measured."""
    from hf_stability.methods import METHODS

    return [method_card(method) for method in METHODS]


def method_card(method: type) -> str:
    """The card of a method, as Markdown; its heading is the docstring's first word or words, before the colon."""
    head, *parts = SECTION.split(inspect.cleandoc(method.__doc__))
    name, _, rest = head.strip().partition(": ")
    sections = dict(zip(parts[::2], map(textwrap.dedent, parts[1::2]), strict=True))
    lines = [f"## {name}", rest[:1].upper() + rest[1:]]
    for title, text in sections.items():
        body = text.strip("\n").rstrip()
        if title == "Equation":
            lines += [f"**{title}**", f"```text\n{body}\n```"]
        elif title == "Measured here":
            continue
        else:
            lines += [f"**{title}**", body]
        if title == "When to use it":
            lines += ["**Settings**", _settings(method), _how_to(method)]
    rows = _measured(_recipes_of(method))
    if rows or "Measured here" in sections:
        lines += ["**Measured here**", sections.get("Measured here", "").strip()]
        lines += [f"{MEASURED_HEADER}\n{rows}", f"n = 20 seeds per row; [all tables](../{RESULTS})."] if rows else []
    return "\n\n".join(line for line in lines if line)


def _settings(method: type) -> str:
    """A table of the method's arguments."""
    rows = ["| argument, flag | default | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(method.Arguments):
        choices = field.metadata.get("choices")
        meaning = field.metadata["help"] + (f" Choices: {', '.join(map(str, choices))}." if choices else "")
        rows.append(f"| `{field.name}` | {field.default} | {_cell(meaning)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


@cache
def _recipes() -> dict[str, dict]:
    """Name -> content of each packaged recipe."""
    paths = sorted((ROOT / "recipes").glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}


def _recipes_of(method: type) -> list[str]:
    """Names of the add-on recipes that switch the method on: those that change its first argument and extend nothing."""
    switch = dataclasses.fields(method.Arguments)[0]
    return [
        name
        for name, recipe in _recipes().items()
        if recipe.get("args", {}).get(switch.name, switch.default) != switch.default
        and "num_train_epochs" not in recipe["args"]
        and "extends" not in recipe
    ]


def _how_to(method: type) -> str:
    names = _recipes_of(method)
    if not names:
        return ""
    links = " or ".join(f"[`--recipe devlin2019+{name}`](../recipes/{name}.yaml)" for name in names)
    return f"As a recipe: {links}."


def _measured(names: Sequence[str]) -> str:
    """The rows of the results' tables with these add-ons, and devlin2019's beside each; empty if none of them was run."""
    shown = {"`devlin2019`", *(f"`devlin2019+{name}`" for name in names)}
    rows, table, columns = [], "", []
    for line in (ROOT / RESULTS).read_text(encoding="utf-8").split("\n"):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            table = next((title for part, title in MEASURED.items() if part in line), "")
        elif table and cells[0] == "recipe":
            columns = cells
        elif table and cells[0] in shown:
            row = dict(zip(columns, cells, strict=True))
            failed = next(value for name, value in row.items() if name.startswith("failed"))
            rows.append(f"| {table} | {cells[0]} | {failed} | {row['mean']} | {row['std']} |")
    return "\n".join(rows) if any("`devlin2019+" in row for row in rows) else ""


# ---- the table of training arguments --------------------------------------------------------------------------------


def argument_table() -> str:
    """The training arguments that the package adds to Hugging Face's, methods' excepted."""
    from transformers import TrainingArguments

    from hf_stability import StableTrainingArguments
    from hf_stability.methods import argument_names

    known = {field.name for field in dataclasses.fields(TrainingArguments)} | set(argument_names())
    rows = ["| argument | default | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(StableTrainingArguments):
        if field.name not in known and field.metadata.get("help"):
            rows.append(f"| `{field.name}` | {field.default!r} | {_cell(field.metadata['help'])} |")
    return "\n".join(rows)


MARKS = {"<!-- method cards -->": lambda: "\n\n".join(method_cards()), "<!-- training arguments -->": argument_table}
"""Marks on pages -> what they become."""


def expanded(markdown: str) -> str:
    """The page with each mark replaced by what it stands for."""
    for mark, make in MARKS.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown
