"""The script of simulation-based inference: a run leaves figures, pictures and a report."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.sbi import __main__ as script

TINY = script.Config(
    steps=4,
    evaluations=2,
    batch_size=20,
    simulations=100,
    draws=100,
    calibrated=20,
    width=8,
    warm_up=0,
    depth=1,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"method": "nre", "depth": 5, "task": "slcp"}, {"method": "nle", "task": "gaussian_mixture"}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*draws of the prior are effective")
def test_a_run_leaves_a_report(options, tmp_path, monkeypatch):
    monkeypatch.delenv("DLVM_DATA", raising=False)
    script.run(dataclasses.replace(TINY, out=tmp_path / "run", **options))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["tested"] == 20 and result["effective"] > 0
    assert all(0 <= value <= 1 for value in [*result["p_values"].values(), *result["coverage"].values()])
    report = (tmp_path / "run" / "report.md").read_text()
    if options.get("task") != "slcp":  # it has no exact posterior
        assert 0.3 < result["c2st"] <= 1 and f"{result['c2st']:.3f}" in report
    assert np.load(tmp_path / "run" / "draws.npy").shape[0] == 100
    for picture in ("pairs", "calibration", "curves"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000
