"""What the tests of the table of results share."""

from pathlib import Path
from typing import Any

from experiments.reproduce.registry import Measured, Row


def row_of(value: float = 1.0, published: str | None = "1", **options: Any) -> Row:
    """A row "toy" that finds this value."""
    fields = {
        **{"source": "Nobody 2020, table 1", "what": "a number", "confirmed": "nowhere", "better": "higher"},
        **{"tolerance": 0.1, "recipe": "None.", "evaluation": "None.", "minutes": 1},
        "run": lambda folder, quick: Measured(value, 0.25, {"seeds": [3], "quick": quick}),
    }
    return Row(name="toy", published=published, **fields | options)


def folders(tmp_path: Path) -> dict[str, Path]:
    """Where a command of `experiments.reproduce` puts runs and records."""
    return {"runs": tmp_path / "runs", "records": tmp_path / "records"}
