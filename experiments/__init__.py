"""Scripts a person runs: `python -m experiments.NAME --help`."""
