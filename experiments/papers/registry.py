"""What a row of the table of paper numbers is, and all of them."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import papers

__all__ = ["VERDICTS", "Measured", "Row", "doubtful", "every_row", "verdict"]

VERDICTS = ("agree", "reproduced", "better", "missed", "measured")


class Measured(NamedTuple):
    """What a row's function found: the value, its standard error, and all that a record says besides (for JSON)."""

    value: float
    standard_error: float  # zero or nan where nothing is random
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A published number, and how it is computed here.

    name:       of the row on the command line, and of its folder
    source:     paper, and where in it the number stands
    what:       the quantity and its unit
    published:  its value there, None where no value is known for certain;  spread: as published;  confirmed: where it was seen
    better:     whether "higher" or "lower" values are better, or only the "same" is right
    tolerance:  the number counts as reproduced if ours differs from the published one by at most this
    exact:      whether `published` is no paper's number but an exact value (closed form, theorem, quadrature) of this very data
    recipe:     data, model and training, and where they differ from the paper's
    evaluation: estimator and number of samples, and where they differ
    run:        (folder, quick) -> `Measured`; called again in the same folder it goes on where it was
    minutes:    what it takes on one CPU core, None where nobody has waited for it
    folder:     of the run, for rows that read several numbers off one run; default the name
    remark:     what an experiment says about a difference
    """

    name: str
    source: str
    what: str
    published: float | None
    confirmed: str
    better: Literal["higher", "lower", "same"]
    tolerance: float
    recipe: str
    evaluation: str
    run: Callable[[Path, bool], Measured]
    minutes: float | None = None
    spread: float | None = None
    folder: str | None = None
    remark: str = ""
    exact: bool = False

    @property
    def run_folder(self):
        """Name of the folder of its run."""
        return self.folder or self.name


def every_row():
    """All rows by name: those of every module of this folder that has `ROWS`."""
    rows = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(papers.__path__)):
        for row in getattr(importlib.import_module(f"{papers.__name__}.{module}"), "ROWS", ()):
            if row.name in rows:
                raise ValueError(f"two rows of experiments.papers are named {row.name!r}; rename one")
            rows[row.name] = row
    return rows


def verdict(row, value):
    """How a value compares with the published one: one of `VERDICTS`."""
    if row.published is None:
        return "measured"
    if value is None or math.isnan(value):
        return "missed"
    gain = {"higher": 1, "lower": -1}.get(row.better, 0) * (value - row.published)
    if abs(value - row.published) <= row.tolerance:
        return "agree" if row.exact else "reproduced"
    return "better" if gain > 0 else "missed"


def doubtful(row, value, error):
    """Whether a change of the value by one standard error would change the verdict on a paper's number."""
    if row.published is None or row.exact or value is None or not error:
        return False
    return len({verdict(row, value + change) for change in (-error, error)} | {verdict(row, value)}) > 1
