"""What a row of the table of results is, and all of them."""

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import checks, papers

__all__ = ["Better", "Measured", "Row", "Verdict", "doubtful", "every_row", "verdict"]

Better = Literal["higher", "lower", "same"]
Verdict = Literal["agree", "reproduced", "better", "missed", "measured"]


class Measured(NamedTuple):
    """What a row's function found: the value, its standard error, and all that a record says besides (for JSON)."""

    value: float
    standard_error: float  # zero or nan where nothing is random
    details: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A published number, or a check of our own, and how it is computed here.

    name:       of the row on the command line, and of its folder
    source:     paper, and where in it the number stands
    what:       the quantity and its unit
    published:  its value there as printed, "-84.45 ± 0.12" for one; None where none is known for certain
    confirmed:  where that value was seen
    better:     whether "higher" or "lower" values are better than a paper's, or only the "same" is right, since the value is
                exact (closed form, theorem, quadrature) and of this very data
    tolerance:  the number counts as reproduced if ours differs from the published one by at most this
    recipe:     data, model and training, and where they differ from the paper's
    evaluation: estimator and number of samples, and where they differ
    run:        (folder, quick) -> `Measured`; called again in the same folder it goes on where it was
    minutes:    what it takes on one core or two, roughly; None where nobody has waited for it
    cost:       of a row that nobody has waited for: parameters, steps, floating-point operations in matrix products
    folder:     of the run, for rows that read several numbers off one run; default the name
    remark:     what an experiment says about a difference
    """

    name: str
    source: str
    what: str
    published: str | None
    confirmed: str
    better: Better
    tolerance: float
    recipe: str
    evaluation: str
    run: Callable[[Path, bool], Measured]
    minutes: float | None = None
    cost: str = ""
    folder: str | None = None
    remark: str = ""

    def __post_init__(self) -> None:
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
    def run_folder(self) -> str:
        """Name of the folder of its run."""
        return self.folder or self.name

    @property
    def known(self) -> float | None:
        """The published value as a number, or None."""
        return None if self.published is None else float(self.published.split(" ± ")[0])

    @property
    def is_published(self) -> bool:
        """Whether it is compared with a number that was printed elsewhere, rather than with an exact value or with nothing."""
        return self.published is not None and self.better != "same"


def every_row() -> dict[str, Row]:
    """All rows by name: those of `experiments.papers`, then those of `experiments.checks`."""
    rows: dict[str, Row] = {}
    for package in (papers, checks):
        for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            for row in importlib.import_module(f"{package.__name__}.{module}").ROWS:
                if row.name in rows:
                    raise ValueError(
                        f"two rows are named {row.name!r}; rename the one of {package.__name__}.{module}"
                    )
                rows[row.name] = row
    return rows


def verdict(row: Row, value: float | None) -> Verdict:
    """How a value compares with the published one."""
    if value is None or math.isnan(value):
        return "missed"
    if row.known is None:
        return "measured"
    gain = {"higher": 1, "lower": -1, "same": 0}[row.better] * (value - row.known)
    if abs(value - row.known) <= row.tolerance:
        return "agree" if row.better == "same" else "reproduced"
    return "better" if gain > 0 else "missed"


def doubtful(row: Row, value: float | None, error: float | None) -> bool:
    """Whether a change of the value by one standard error would change the verdict on a paper's number."""
    if not row.is_published or value is None or not error:
        return False
    return len({verdict(row, value + change) for change in (-error, error)} | {verdict(row, value)}) > 1
