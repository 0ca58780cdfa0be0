"""Scripts a person runs: `python -m experiments.NAME --help`."""

import sys

from experiments import leaving

if sys.argv[:1] == ["-m"]:  # this process is one of them, and has begun to import it
    leaving.watch()
