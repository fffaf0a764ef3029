"""Every command and every block of code on the README and on the site's pages is run, as it stands on the page."""

from __future__ import annotations

import shutil

import pytest

from tests.docs import workshop
from tests.prose import ROOT, pages, relative


FAST = ("README.md",)
"""Pages that are run in the fast suite."""


@pytest.fixture(scope="session")
def furnished(tmp_path_factory, make_tiny_model):
    """A reader's folder, to be copied."""
    folder = tmp_path_factory.mktemp("furnished")
    workshop.furnish(folder, make_tiny_model("bert"))
    workshop.leave_a_run(folder)
    return folder


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=relative(page), marks=() if relative(page) in FAST else pytest.mark.slow)
        for page in pages()
        if any(True for _ in workshop.blocks(page))
    ],
)
def test_what_a_page_says_to_type_runs(page, furnished, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(furnished, folder)
    for block in workshop.blocks(page):
        workshop.run_block(block, folder)


def test_few_blocks_are_not_run():
    """Each has its reason; they are a small part of all."""
    found = [block for page in pages() for block in workshop.blocks(page) if block.language in ("bash", "python")]
    assert len([block for block in found if block.not_run]) <= 0.1 * len(found)
    assert (ROOT / "README.md").is_file() and len(found) > 30
