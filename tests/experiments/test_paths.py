"""The picture of a diffusion on the line: its samples are those of the data."""

import json

import pytest

from experiments.diffusion import paths


@pytest.mark.slow
@pytest.mark.parametrize("process", paths.PROCESSES)
def test_both_samplers_end_in_the_data(process, tmp_path):
    """Means within 5 standard errors: a false alarm has probability 4e-6 over all.  The error of 500 steps is a tenth of one."""
    paths.run(paths.Config(process=process, count=2000, out=tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    moments, error = result["mean and standard deviation"], result["standard error"]
    assert list(moments) == ["exact", "reverse SDE", "probability-flow ODE"]
    for mean, std in moments.values():
        assert mean == pytest.approx(moments["exact"][0], abs=5 * error)
        assert std == pytest.approx(
            moments["exact"][1], abs=5 * error
        )  # its own error is below that of the mean
    assert (tmp_path / "run" / "paths.png").stat().st_size > 10_000
