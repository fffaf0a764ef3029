import pytest

from hf_stability.errors import InputError
from hf_stability.recipe import describe_recipe, load_recipe
from tests.recipe.files import write


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match="did you mean mosbach2021"):
        load_recipe("mosbach2020")


@pytest.mark.parametrize(
    "text", ["args: {adam_beta1: 0.8}\nargs: {adam_beta2: 0.9}", "args: {seed_streams: true, seed_streams: false}"]
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="not a YAML file: the key '(args|seed_streams)' comes twice, in .*, line"):
        load_recipe(write(tmp_path, text))


def test_a_file_may_have_a_plus_or_a_comma_in_its_path(tmp_path):
    folder = tmp_path / "c++, and more"
    folder.mkdir()
    assert load_recipe(write(folder, "args: {max_steps: 3}")).args == {"max_steps": 3}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "# Two lines: of\n#  one sentence. And more.\nargs: {max_steps: 3}  # steps. Not this.",
            "Two lines: of one sentence.",
        ),
        ("# At 2.5e-4, no stop at the end\n", "At 2.5e-4, no stop at the end"),
        ("args: {}\n# Not the head.", ""),
        ("", ""),
    ],
)
def test_a_recipe_is_described_by_the_first_sentence_of_its_file(tmp_path, text, sentence):
    assert describe_recipe(write(tmp_path, text)) == sentence


def test_there_is_no_description_of_what_is_not_there():
    with pytest.raises(InputError, match="--recipe mosbach2020: no such recipe .did you mean mosbach2021"):
        describe_recipe("mosbach2020")
