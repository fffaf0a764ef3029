"""What the demo's tests share."""

from __future__ import annotations

import pytest

from hf_stability.tasks.demo.data import DEMO_TASKS, demo_splits


@pytest.fixture(scope="session")
def splits() -> dict[str, dict[str, list[dict]]]:
    """Task -> split -> rows, as they are drawn. Not to be changed."""
    return {name: demo_splits(name) for name in DEMO_TASKS}
