"""The page that `hf-stability report` writes, and its figures and tables.

| files | what |
| --- | --- |
| `contents` | the numbers |
| `conclusion`, `tables`, `agreement_tables` | the verdict in three sentences, the tables |
| `predictions`, `example_texts` | what differs between seeds, from the runs' predictions; the examples' texts |
| `plots`, `figures` | the page's own plots, all its figures, also as SVG inside of the page |
| `page` | the files, from `templates/` |
| `compare` | recipes of several studies on equal terms, for `hf-stability compare` |
"""
