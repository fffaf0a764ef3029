"""What is made of a study's runs: statistics, tables, figures."""
