"""The report on a study's runs: statistics, tables, figures.

| files | what |
| --- | --- |
| `restarts`, `against_restarts`, `variance_components` | pure functions of scores; others are in `hf_stability.statistics` |
| `scores` | the runs' scores over update steps, read from their folders |
| `summary` | the numbers of `summary.json` |
| `sentences`, `summary_page`, `printed` | comparisons in words, `summary.md` and `summary.csv`, the text that a study prints |
| `export` | runs as csv and parquet, the table of recipes as LaTeX and Markdown |
| `restarts_page`, `two_way_page` | `restarts.md` with its figure, `two_way.md` |
| `trackers` | the summary for MLflow, Trackio and Weights & Biases |
| `plots`; `figures`, `tensorboard`, `pictures` | plots of numbers on an `ax`; a study's figures, also in TensorBoard |
| `settings`, `one_run` | settings of a study's runs; one run in words, for `hf-stability show` |
| `page/`, `card/` | a page to publish; a model card |
| `elsewhere/` | runs made elsewhere as run records |
"""
