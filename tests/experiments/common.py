"""What the tests of the table of paper numbers share."""

from experiments.reproduce.registry import Measured, Row


def row_of(value=1.0, published="1", **options):
    told = {"source": "Nobody 2020, table 1", "what": "a number", "confirmed": "nowhere", "better": "higher"}
    told |= {"tolerance": 0.1, "recipe": "None.", "evaluation": "None.", "minutes": 1}
    told["run"] = lambda folder, quick: Measured(value, 0.25, {"seeds": [3], "quick": quick})
    return Row(name="toy", published=published, **(told | options))


def folders(tmp_path):
    return {"runs": tmp_path / "runs", "records": tmp_path / "records"}
