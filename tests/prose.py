"""The English of this project, taken out of its files: messages, docstrings, comments and pages; and rules about it.

    python -m tests.prose messages [FILE ...]    every text that a user may read: errors, warnings, help, sentences, notes
    python -m tests.prose faults [FILE ...]      what breaks a rule of `RULES`, with its place
    python -m tests.prose lengths [FILE ...]     words per sentence of pages: median, 90%, longest
    python -m tests.prose long N [FILE ...]      all sentences of more than N words, with their place

Without files: the whole project.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGES.md", "docs/**/*.md", "recipes/README.md", "examples/*.md")
CODE = ("hf_stability/**/*.py", "examples/*.py", "benchmarks/**/*.py", "run_glue_stable.py", "docs/*.py")
RECIPES = ("recipes/*.yaml", "examples/*.yaml")

RULES = {
    "begins with Of or What": r"^(Of|What)\b(?!.*\?$)",
    "whose": r"\bwhose\b",
    "the constant's (say: the majority-class baseline)": r"\b(the|best) constant's\b",
    "is said": r"\b(is|are) said\b",
    "goes over": r"\b(goes|go|went) over\b(?! all| the (runs|data|rows))",
    "of one's own": r"\bof one's own\b",
    "a number without its zero": r"(?<![\w.)\]\\*/}|:$%`\"'])\.\d+(?![\w.]*[A-Za-z%])",
    "who at the start": r"^Who\b(?!.*\?$)",
}
"""Name of a rule -> a pattern that no sentence may have."""

ABBREVIATIONS = r"\b(et al|e\.g|i\.e|vs|cf|etc|Eq|Fig|Sec|p|pp|no|approx)\."


class Text(NamedTuple):
    """A piece of English: where it is, what kind (`raise`, `warn`, `help`, `text`, `docstring`, `comment`, `page`), and itself."""

    path: str
    line: int
    kind: str
    text: str


# ---- out of Python --------------------------------------------------------------------------------------------------


def python_texts(path: Path) -> Iterator[Text]:
    """Messages, docstrings and comments of a Python file. In an f-string a value is `{}`."""
    name, source = relative(path), path.read_text()
    tree = ast.parse(source)
    kinds = _kinds(tree)
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner.update(id(part) for part in ast.walk(node) if part is not node and isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            text = _literal(node)
            if id(node) in inner or len(text.split()) < 3:
                continue
            yield Text(name, node.lineno, kinds.get(id(node), "text"), text)
    yield from _comments(name, source)


def _kinds(tree: ast.AST) -> dict[int, str]:
    """id of a string's node -> its kind."""
    kinds: dict[int, str] = {}

    def mark(node: ast.AST, kind: str) -> None:
        for part in ast.walk(node):
            kinds[id(part)] = kind

    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            mark(node, "raise")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.search(r"(^|\.)(warn|warning|warn_once|info|error)$", called):
                mark(node, "warn")
            for keyword in node.keywords:
                if keyword.arg in ("help", "description", "epilog"):
                    mark(keyword.value, "help")
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help":
                    mark(value, "help")
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            # A string that is a statement: a docstring, or the text below a constant.
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                kinds[id(statement.value)] = "docstring"
    return kinds


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)


def _comments(name: str, source: str) -> Iterator[Text]:
    """Comments; lines that follow each other are one text."""
    lines: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# ?(noqa|type:|fmt:|shellcheck|----)|#!", token.string):
            lines.append((token.start[0], token.string.lstrip("# ")))
    yield from _joined(name, lines)


def _joined(name: str, lines: Sequence[tuple[int, str]]) -> Iterator[Text]:
    start, words = 0, []
    for number, text in lines:
        if words and number != start + len(words):
            yield Text(name, start, "comment", " ".join(words))
            words = []
        if not words:
            start = number
        words.append(text)
    if words:
        yield Text(name, start, "comment", " ".join(words))


# ---- out of pages and recipes ---------------------------------------------------------------------------------------


def page_texts(path: Path) -> Iterator[Text]:
    """Paragraphs and list items of a Markdown page: no code, tables, headings, pictures; links as their text."""
    name, start, block, fenced = relative(path), 0, [], False
    lines = re.sub(r"<!--.*?-->", lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.S).split("\n")
    for number, line in enumerate([*lines, ""], 1):
        fence = re.match(r"\s*(```|~~~)", line)
        breaks = fence or not line.strip() or re.match(r"\s*(#|\||!\[|>? ?:::|\?\?\?|!!!|===)", line)
        item = re.match(r"\s*(?:[-*] |\d+\. |> |\[\^\w+\]: )", line)
        if block and (fenced or breaks or item):
            yield Text(name, start, "page", _plain(" ".join(block)))
            block = []
        if fence:
            fenced = not fenced
        elif not fenced and not breaks:
            if not block:
                start = number
            block.append(re.sub(r"^\s*(?:[-*] |\d+\. |> )?", "", line))


def _plain(text: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[([^\]]*)\]\[[^\]]*\]", r"\1", text)
    return re.sub(r"\*\*|__", "", text)


def yaml_texts(path: Path) -> Iterator[Text]:
    """Comments of a YAML file; lines that follow each other are one text."""
    found = [
        (number, line.split("#", 1)[1].strip())
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if re.search(r"(^|\s)#", line)
    ]
    yield from _joined(relative(path), found)


# ---- sentences ------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """A text's sentences. Code in backticks is one word."""
    text = re.sub(r"`[^`]+`", "`code`", " ".join(text.split()))
    text = re.sub(ABBREVIATIONS, lambda found: found[0][:-1] + "\0", text)
    parts = re.split(r"(?:(?<=[.!?])|(?<=[.!?][\")*]))\s+(?=[\"(`*\[]*[A-Z0-9`])", text)
    return [part.replace("\0", ".").strip() for part in parts if len(part.split()) > 1]


def words(sentence: str) -> int:
    """How many words a sentence has; numbers and signs by themselves count, brackets do not."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def faults(text: Text) -> list[str]:
    """The rules that a text breaks, each with the sentence."""
    parts = sentences(text.text) or [text.text]
    return [f"{rule}: {part}" for part in parts for rule, pattern in RULES.items() if re.search(pattern, part)]


# ---- the project ----------------------------------------------------------------------------------------------------


def relative(path: Path) -> str:
    """The path in the project."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def texts(paths: Sequence[Path] = ()) -> Iterator[Text]:
    """All texts of these files; of the whole project if none are given."""
    files = [Path(path) for path in paths]
    files = [file for path in files for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    for path in files or [path for pattern in (*PAGES, *CODE, *RECIPES) for path in sorted(ROOT.glob(pattern))]:
        readers = {".py": python_texts, ".md": page_texts, ".yaml": yaml_texts}
        if path.suffix in readers:
            yield from readers[path.suffix](path)


def pages() -> list[Path]:
    """README and the site's pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def lengths(path: Path) -> list[int]:
    """Words per sentence of a page."""
    return [words(sentence) for text in page_texts(path) for sentence in sentences(text.text)]


def main(argv: Sequence[str]) -> int:
    command, rest = (argv[0] if argv else ""), list(argv[1:])
    limit = int(rest.pop(0)) if command == "long" else 0
    paths = [Path(word) for word in rest]
    if command == "lengths":
        counts = {relative(path): lengths(path) for path in paths or pages()}
        counts["all"] = [count for page in counts.values() for count in page]
        for name, found in counts.items():
            if found:
                median, long = statistics.median(found), sorted(found)[int(0.9 * len(found))]
                print(
                    f"{name}: {len(found)} sentences, median {median:g}, 90% up to {long}, longest {max(found)} words"
                )
        return 0
    number = 0
    for text in texts(paths):
        if command == "messages" and text.kind not in ("docstring", "comment", "page"):
            print(f"{text.path}:{text.line}: [{text.kind}] {' '.join(text.text.split())}")
        elif command == "faults":
            for fault in faults(text):
                number += 1
                print(f"{text.path}:{text.line}: [{text.kind}] {fault}")
        elif command == "long":
            for sentence in sentences(text.text):
                if words(sentence) > limit:
                    print(f"{text.path}:{text.line}: [{text.kind}] {words(sentence)} words: {sentence}")
    return 1 if number else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
