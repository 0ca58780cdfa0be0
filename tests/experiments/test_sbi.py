"""The script of simulation-based inference: a run leaves figures, pictures and a report."""

import dataclasses
import json
import shutil

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
    [
        {},
        {"method": "nre", "depth": 5, "task": "slcp"},
        {"method": "nle", "task": "gaussian_mixture", "seeds": (0, 1)},
        {"repeats": 2, "embedding": "mlp"},
    ],
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
    assert 0 < result["predictive_p"] <= 1 and 0 < result["local_p"] <= 1
    if options.get("task") != "slcp" and "repeats" not in options:  # it has no exact posterior
        assert 0.3 < result["c2st"] <= 1 and f"{result['c2st']:.3f}" in report
    assert np.load(tmp_path / "run" / "draws.npy").shape[0] == 100
    for picture in ("pairs", "calibration", "predictive", "curves"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npe", "nle"])
@pytest.mark.filterwarnings("ignore:.*draws of the prior are effective")
def test_rounds_go_on_where_they_were_stopped(method, tmp_path, monkeypatch):
    """Simulations of a round are kept, so that the same run again writes the same draws; others than these are refused."""
    monkeypatch.delenv("DLVM_DATA", raising=False)
    config = dataclasses.replace(TINY, out=tmp_path / "run", rounds=2, method=method)
    script.run(config)
    draws = np.load(tmp_path / "run" / "draws.npy")
    first, second = (np.load(tmp_path / "run" / f"round-{n}" / "simulations.npz")["rows"] for n in (1, 2))
    assert len(first) == len(second) == 50 and (abs(second[:, :2]) <= 1).all()
    for name in ("checkpoints", "result.json", "draws.npy"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="already holds rounds; give resume=True"):
        script.run(config)
    with pytest.raises(ValueError, match=r"simulations.npz is of .*; give another out"):
        script.run(dataclasses.replace(config, resume=True, observation=2))
    script.run(dataclasses.replace(config, resume=True))
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "draws.npy"), draws)
    assert "2 rounds" in (tmp_path / "run" / "report.md").read_text()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="a round needs 20 simulations, got simulations=100 for rounds=6"):
        dataclasses.replace(TINY, rounds=6).check()
    with pytest.raises(ValueError, match="method='nre' has no density to mix"):
        dataclasses.replace(TINY, method="nre", depth=5, seeds=(0, 1)).check()
