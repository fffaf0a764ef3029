"""What is written to disk."""

from __future__ import annotations

import json
import math

import numpy as np

from hf_stability.utils.files import finite, plain, write_json, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old, and longer than the new one")
    write_json(path, {"a": [1, 2.5]})
    assert path.read_bytes() == b'{\n  "a": [\n    1,\n    2.5\n  ]\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_plain_values_are_what_json_can_hold():
    content = {
        1: np.float32(0.5),
        "counts": np.array([[1, 2]]),
        "share": np.array(math.nan),
        "norms": (1.0, math.inf, np.float64("-inf")),
        "flag": np.bool_(True),
        "text": "nan",
        "none": None,
    }
    expected = {
        "1": 0.5,
        "counts": [[1, 2]],
        "share": None,
        "norms": [1.0, None, None],
        "flag": True,
        "text": "nan",
        "none": None,
    }
    assert finite(plain(content)) == expected
    assert json.loads(json.dumps(finite(plain(content)), allow_nan=False)) == expected
