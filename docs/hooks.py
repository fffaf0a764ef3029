"""What the site adds to Markdown: files of the repository that pages link to, and the methods' cards.

A page links to a file of the repository by its path (`../benchmarks/demo_study/PROTOCOL.md`), as on a code host. The site
carries that file, below `repo/`: Markdown as a page, code and YAML as a page with its text, everything else as it is. So no link
leaves the site.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File


ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
"""A link to a file: `](`, its path, the anchor with `)`. Addresses with a scheme have a colon."""
CODE = {".py": "python", ".yaml": "yaml", ".cfg": "ini", ".cff": "yaml", ".toml": "toml"}
"""Files that become a page with their text, and the language of the text."""
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n"
CARDS = "<!-- method cards -->"


# ---- events of mkdocs -----------------------------------------------------------------------------------------------


def on_files(files, config):
    """Add each file of the repository that a page links to, and what these link to."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for target in _linked(repository_path(page.src_uri), page.content_string):
            uri = site_uri(target)
            if files.get_file_from_path(uri) is None:
                added = _file(config, target, uri)
                files.append(added)
                if target.endswith(".md"):
                    waiting.append(added)
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to the repository's files lead to the site's copies; the mark of the methods' cards becomes the cards."""
    here = repository_path(page.file.src_uri)
    if CARDS in markdown:
        markdown = markdown.replace(CARDS, "\n".join(_cards()))

    def relink(found: re.Match) -> str:
        target = _target(here, found[2])
        if target is None:
            return found[0]
        return found[1] + posixpath.relpath(site_uri(target), posixpath.dirname(page.file.src_uri) or ".") + found[3]

    return LINK.sub(relink, markdown)


# ---- files of the repository ----------------------------------------------------------------------------------------


def repository_path(uri: str) -> str:
    """Where a page of the site is in the repository: `demo.md` -> `docs/demo.md`, `repo/a/b.yaml.md` -> `a/b.yaml`."""
    if not uri.startswith("repo/"):
        return f"docs/{uri}"
    path = uri.removeprefix("repo/")
    stem = path.removesuffix(".md")
    return stem if Path(stem).suffix in CODE else path


def site_uri(path: str) -> str:
    """Where a file of the repository is on the site: the inverse of [`repository_path`]."""
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
            content=f"{UNSEARCHED}# {source.name}\n\n`{path}`\n\n````{language}\n{source.read_text()}\n````\n",
        )
    if source.suffix == ".md":
        return File.generated(config, uri, content=UNSEARCHED + source.read_text())
    return File.generated(config, uri, abs_src_path=str(source))


# ---- the methods' cards ---------------------------------------------------------------------------------------------


def _cards() -> Iterator[str]:
    """A card for each packaged method, from its class."""
    from hf_stability.methods.packaged import METHODS

    for method in METHODS:
        yield f"## {method.__name__}\n\n{method.__doc__ or ''}\n"
