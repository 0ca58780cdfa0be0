"""What a table is: rows that are runs of one script, and how they are shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Table"]


class Table(NamedTuple):
    """A table of several runs on one budget.

    title:     of its report
    script:    module below `experiments` whose runs the rows are
    shared:    settings of all rows
    rows:      what each row has of its own, by label
    write:     (table, root, configurations by label, results by label) -> the report in Markdown; also writes result.json and
               pictures into the folder `root`
    contrasts: pairs of rows whose difference is shown
    """

    title: str
    script: str
    shared: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    write: Callable[["Table", Path, dict[str, Any], dict[str, dict]], str]
    contrasts: tuple[tuple[str, str], ...] = ()
