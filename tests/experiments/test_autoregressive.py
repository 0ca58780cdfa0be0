"""The script of autoregressive models: a run, its continuation, and what depends on the data."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.autoregressive import __main__ as script

TINY = script.Config(steps=4, evaluations=2, batch_size=20, eval_limit=10)
PIXELCNN = {"net": "pixelcnn", "width": 4, "depth": 1, "kernel": 3}


def test_a_run_leaves_a_report_and_goes_on(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run", seeds=(0, 1), schedule="constant", warm_up=0)
    script.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["records"]) == ["0", "1"] and result["records"]["0"]["kind"] == "exact"
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"{result['records']['1']['log_likelihood']:.2f}" in report
    assert (tmp_path / "run" / "samples.png").stat().st_size > 1000
    assert (tmp_path / "run" / "completions.png").stat().st_size > 1000
    assert np.load(tmp_path / "run" / "nats.npy").shape == (2, 10)
    script.run(dataclasses.replace(config, resume=True, steps=6))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        PIXELCNN | {"condition": "label"},
        PIXELCNN | {"likelihood": "pixel-mixture"},
        {"net": "transformer", "width": 4, "depth": 1, "heads": 2},
        {"condition": "quadrants-2", "orders": 2},
        {"data": "breast_cancer"},
    ],
    ids=str,
)
def test_options_work_together(options, tmp_path):
    script.run(dataclasses.replace(TINY, out=tmp_path / "run", **options))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert np.isfinite(result["records"]["0"]["log_likelihood"])
    pictured = "data" not in options and "quadrants" not in str(options)
    assert (tmp_path / "run" / "samples.png").exists() == pictured
    assert (tmp_path / "run" / "completions.png").exists() == pictured
