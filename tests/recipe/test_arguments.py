"""Our own training arguments: each is explained, on the command line and in the API reference."""

from __future__ import annotations

import dataclasses

import pytest

from hf_stability.methods import MethodArguments
from hf_stability.recipe.arguments import StabilityArguments


OF_METHODS = {field.name for field in dataclasses.fields(MethodArguments)}


@pytest.mark.parametrize("field", dataclasses.fields(StabilityArguments), ids=lambda field: field.name)
def test_each_argument_has_a_help_and_ours_have_their_default(field):
    text = field.metadata["help"]
    assert text
    if field.name not in OF_METHODS:
        assert (
            text[0].isupper()
            and text.endswith(".")
            and "Default" in text
            and (not field.default or str(field.default) in text)
        )
