"""The report on a study's runs: statistics, tables, figures.

| files | what |
| --- | --- |
| `restarts`, `against_restarts`, `variance_components` | pure functions of scores; others are in `hf_stability.statistics` |
| `scores` | the runs' scores over update steps, read from their folders |
| `predictions`, `example_texts` | what differs between seeds, from the runs' predictions; the examples' texts |
| `elsewhere`, `elsewhere_records`, `trainer_folders` | runs made elsewhere as run records: Trainer folders, tables, arrays |
| `summary` | the numbers of `summary.json` |
| `sentences`, `summary_page`, `printed` | comparisons in words, `summary.md` and `summary.csv`, the text that a study prints |
| `export` | runs as csv and parquet, the table of recipes as LaTeX and Markdown |
| `restarts_page`, `two_way_page` | `restarts.md` with its figure, `two_way.md` |
| `card`, `card_source`, `rerun`; `hub` | a model card, its facts, the command that runs the study again; its upload |
| `trackers` | the summary for MLflow, Trackio and Weights & Biases |
| `plots`; `figures`, `tensorboard` | plots of numbers on an `ax`; a study's figures, also for TensorBoard |
| `contents`, `settings` | the numbers of a report; settings of a study's runs |
| `conclusion`, `report_tables`, `agreement_tables` | a report's verdict in three sentences, its tables |
| `report_plots`, `page_figures`, `page` | a report's own plots, its figures also as SVG inside of the page, its files |
| `compare` | recipes of several studies on equal terms, for `hf-stability compare` |
| `one_run` | one run in words, for `hf-stability show` |
"""
