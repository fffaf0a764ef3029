"""Training arguments that a bundled task needs whatever the recipe: they go over the recipe's, under the command line's."""

from __future__ import annotations

from typing import Any


# The demo's models have 12 layers of 64 units, pretrained at 1e-3: their rates are about ten times those of the paper's
# models. demo_pair's is the one at which nearest to half of devlin2019's runs failed, by benchmarks/demo_study/PROTOCOL.md.
# The others' are from a few exploratory runs.
PRESETS: dict[str, dict[str, Any]] = {
    "demo_pair": {"learning_rate": 2.5e-4},
    "demo_cola": {"learning_rate": 1e-4},
    "demo_nli": {"learning_rate": 1e-4},
}


def task_preset(task_name: str) -> dict[str, Any]:
    """The preset of a task; empty for all but the bundled ones."""
    return dict(PRESETS.get(task_name, {}))
