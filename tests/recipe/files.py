"""Recipe files for the tests: written to a folder, and what is in force in a recipe."""

from hf_stability.recipe.resolve import resolve, resolve_model_config


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def files(tmp_path, **contents):
    """A file for each, and their names composed."""
    paths = []
    for name, text in contents.items():
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(text)
    return "+".join(map(str, paths))


def found(recipe, model_type=None):
    """What is in force, by name, with its source."""
    both = {**resolve(recipe, model_type), **resolve_model_config(recipe, model_type)}
    return {name: (r.value, r.source) for name, r in both.items()}
