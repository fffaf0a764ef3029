"""A model card for the hub.

| files | what |
| --- | --- |
| `source`, `card` | its facts, its text |
| `rerun` | the command that runs the study again |
| `hub` | its upload |
"""
