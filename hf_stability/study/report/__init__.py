"""What is made of a study's runs.

| files | what |
| --- | --- |
| `statistics`, `restarts`, `against_restarts`, `variance_components` | pure functions of scores and counts |
| `scores` | the runs' scores over update steps, read from their folders |
| `summary`; `sentences`, `summary_page` | `summary.json` as numbers; its words, `summary.md` and `summary.csv` |
| `restarts_page`, `two_way_page` | `restarts.md` with its figure, `two_way.md` |
| `plots`; `figures`, `tensorboard` | draw numbers on an `ax`; a study's figures, and what TensorBoard shows |
"""
