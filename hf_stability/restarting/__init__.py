"""Runs that begin again: after an alarm, or after the first loss or gradient norm that is not finite.

`settings.py` has what changes at a restart, `initial_weights.py` the copy of a ready model, `attempts.py` the loop over attempts,
`trainer.py` a `StableTrainer` between two attempts, `stock.py` the function for the stock Trainer.
"""
