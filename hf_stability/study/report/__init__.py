"""The report on a study's runs: statistics, tables, figures.

| files | what |
| --- | --- |
| `restarts`, `against_restarts`, `variance_components` | pure functions of scores; others are in `hf_stability.statistics` |
| `scores` | the runs' scores over update steps, read from their folders |
| `predictions`, `example_texts` | what differs between seeds, from the runs' predictions; the examples' texts |
| `summary` | the numbers of `summary.json` |
| `sentences`, `summary_page`, `printed` | comparisons in words, `summary.md` and `summary.csv`, the text that a study prints |
| `restarts_page`, `two_way_page` | `restarts.md` with its figure, `two_way.md` |
| `plots`; `figures`, `tensorboard` | plots of numbers on an `ax`; a study's figures, also for TensorBoard |
"""
