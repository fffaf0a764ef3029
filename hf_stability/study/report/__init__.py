"""The report on a study's runs: statistics, tables, figures.

| files | what |
| --- | --- |
| `statistics`, `restarts`, `against_restarts`, `variance_components` | pure functions of scores and counts |
| `scores` | the runs' scores over update steps, read from their folders |
| `summary` | the numbers of `summary.json` |
| `sentences`, `summary_page`, `printed` | comparisons in words, `summary.md` and `summary.csv`, the text that a study prints |
| `restarts_page`, `two_way_page` | `restarts.md` with its figure, `two_way.md` |
| `card`, `card_source`, `rerun`; `hub` | a model card, its facts, the command that runs the study again; its upload |
| `trackers` | the summary for MLflow, Trackio and Weights & Biases |
| `plots`; `figures`, `tensorboard` | plots of numbers on an `ax`; a study's figures, also for TensorBoard |
"""
