"""The folder for `evaluate.load`. It contains the metric script of the same name."""
