"""A folder that `evaluate.load` can be given: the metric script of the same name lies in it."""
