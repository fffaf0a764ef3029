"""Runs made elsewhere as run records.

| files | what |
| --- | --- |
| `read` | from Trainer folders, tables of scores, and arrays |
| `trainer_folders` | the files that the Trainer leaves |
| `run_records` | from what was found to records; what is not known is not guessed |
"""
