"""Versions of the libraries, Python and the platform, for a report."""

from __future__ import annotations

import platform

import torch

from ..study.checkpoints import versions


def environment() -> dict[str, str]:
    """The installed versions, the platform, and the accelerator, by name. It has no name of a user or of a machine."""
    gpu = torch.cuda.is_available()
    return {
        **versions(),
        "platform": platform.platform(),
        "cuda": str(torch.version.cuda or "none"),
        "device": torch.cuda.get_device_name(0) if gpu else "cpu",
    }
