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
    published:  its value there as printed, "-84.45 ± 0.12" for one, None where none is known for certain;  confirmed: where seen
    better:     whether "higher" or "lower" values are better than a paper's, or only the "same" is right, since the value is
                exact (closed form, theorem, quadrature) and of this very data
    tolerance:  the number counts as reproduced if ours differs from the published one by at most this
    recipe:     data, model and training, and where they differ from the paper's
    evaluation: estimator and number of samples, and where they differ
    run:        (folder, quick) -> `Measured`; called again in the same folder it goes on where it was
    minutes:    what it takes on one core or two, roughly; None where nobody has waited for it
    cost:       parameters, steps, and operations in products, of a row that nobody has waited for (records have them)
    folder:     of the run, for rows that read several numbers off one run; default the name
    remark:     what an experiment says about a difference
    """

    name: str
    source: str
    what: str
    published: str | None
    confirmed: str
    better: Literal["higher", "lower", "same"]
    tolerance: float
    recipe: str
    evaluation: str
    run: Callable[[Path, bool], Measured]
    minutes: float | None = None
    cost: str = ""
    folder: str | None = None
    remark: str = ""

    def __post_init__(self):
        """Raise ValueError for what would be noticed only when the row is recorded."""
        try:
            fine = self.known is None or math.isfinite(self.known)
        except (ValueError, AttributeError):
            fine = False
        if not fine:
            raise ValueError(
                f"row {self.name}: published is '1.23', '1.23 ± 0.04' or None, got {self.published!r}"
            )
        if not self.tolerance > 0:
            raise ValueError(f"row {self.name}: the tolerance must be above 0, got {self.tolerance}")
        if self.better not in ("higher", "lower", "same"):
            raise ValueError(f"row {self.name}: better is 'higher', 'lower' or 'same', got {self.better!r}")

    @property
    def run_folder(self):
        """Name of the folder of its run."""
        return self.folder or self.name

    @property
    def known(self):
        """The published value as a number, or None."""
        return None if self.published is None else float(self.published.split(" ± ")[0])


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
    if value is None or math.isnan(value):
        return "missed"
    if row.known is None:
        return "measured"
    gain = {"higher": 1, "lower": -1, "same": 0}[row.better] * (value - row.known)
    if abs(value - row.known) <= row.tolerance:
        return "agree" if row.better == "same" else "reproduced"
    return "better" if gain > 0 else "missed"


def doubtful(row, value, error):
    """Whether a change of the value by one standard error would change the verdict on a paper's number."""
    if row.known is None or row.better == "same" or value is None or not error:
        return False
    return len({verdict(row, value + change) for change in (-error, error)} | {verdict(row, value)}) > 1
