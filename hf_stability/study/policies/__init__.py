"""Policies: ways to run a recipe's seeds other than each to its end.

`policy` is the base class. Each other file is one policy: `early_stopping` (`--restarts`), `two_way` (`--two_way`), `until`
(`--until`).
"""
