"""JSON files that a Hugging Face Trainer leaves in its output folder."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ..errors import InputError


def last_state(output: Path) -> Path | None:
    """The `trainer_state.json` of the furthest checkpoint of the latest run.

    The highest number may belong to an earlier, longer run in the same folder. A checkpoint belongs to the latest run if
    its log begins with the whole log of the newest file.
    """
    states: dict[Path, int] = {}
    for file in output.glob("checkpoint-*/trainer_state.json"):
        number = file.parent.name.removeprefix("checkpoint-")
        if number.isdigit():
            states[file] = int(number)
    contents = {}
    for file in states:
        with contextlib.suppress(InputError):  # killed while it wrote
            contents[file] = read_object(file)
    if not contents:
        return max(states, key=lambda file: states[file], default=None)
    latest = contents[max(contents, key=lambda file: (file.stat().st_mtime, states[file]))]
    log, total = latest.get("log_history") or [], latest.get("max_steps")
    same_run = [
        file
        for file, content in contents.items()
        if content.get("max_steps") == total and (content.get("log_history") or [])[: len(log)] == log
    ]
    return max(same_run, key=lambda file: states[file])


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that has an object. Raises InputError for any other file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, as the Trainer writes it")
    return content
