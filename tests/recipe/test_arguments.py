"""Our own training arguments: each is explained, on the command line and in the API reference."""

from __future__ import annotations

import dataclasses
import re

import pytest

from hf_stability.methods import MethodArguments
from hf_stability.recipe.arguments import StabilityArguments
from hf_stability.training_args import StableTrainingArguments


OWN = [
    f
    for f in dataclasses.fields(StabilityArguments)
    if f.name not in {other.name for other in dataclasses.fields(MethodArguments)}
]


@pytest.mark.parametrize("field", OWN, ids=lambda field: field.name)
def test_each_field_has_a_help_with_its_default_and_is_in_the_class_docstring(field):
    assert "Default" in field.metadata["help"]
    described = re.search(
        rf"^        {field.name} \((.+?)\): (.*?)(?=^        \w|\n\n)", StableTrainingArguments.__doc__, re.M | re.S
    )
    assert described[1] == str(field.type) and "Default" in described[2]
    if field.default is not None:
        assert re.search(rf"Default:\s+`?\"?{re.escape(str(field.default))}", described[2])
