"""Policies: what a study does with a recipe's seeds, other than to run each to its end.

`policy` is their shape; each of the others is one policy: `early_stopping` (`--restarts`), `two_way` (`--two_way`).
"""
