"""The share of samples that a classifier is sure of, and the settings that are made for looks."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import run as common
from experiments.diffusion import __main__ as diffusion
from experiments.diffusion import judge

LOOKS = Path(diffusion.__file__).with_name("looks.json")


def test_shares_are_counted():
    probabilities = np.array([[0.95, 0.05], [0.2, 0.8], [0.05, 0.95], [0.91, 0.09]])
    assert judge.shares(probabilities, np.array([0, 1, 0, 0])) == {
        "count": 4,
        "confident": 0.75,
        "as labelled": 0.75,
    }
    assert judge.shares(probabilities, None) == {"count": 4, "confident": 0.75}
    found = {
        "samples": {"count": 4, "confident": 0.75},
        "test images": {"count": 4, "confident": 1.0, "as labelled": 0.5},
    }
    table = judge.lines(found)
    assert (
        "| 4 samples | 0.750 ± 0.217 | - |" in table and "| 4 test images | 1.000 ± 0.000 | 0.500 |" in table
    )


@pytest.mark.slow
def test_settings_for_looks_run_on_any_labelled_images(tmp_path, short_solutions):
    """The classifier of real digits is sure and right of most of them, and of few of the samples of an untrained model."""
    small = "--data digits --width 8 --depth 1 --patch 2 --steps 2 --warm-up 1 --batch-size 32 --classify 200 --eval-limit 20"
    said = ["--config", str(LOOKS), *small.split(), "--out", str(tmp_path / "run")]
    diffusion.run(common.command_line(diffusion.Config, "", said))
    found = json.loads((tmp_path / "run" / "result.json").read_text())["classifier"]
    assert found["test images"]["as labelled"] > 0.8 and found["test images"]["confident"] > 0.5
    assert found["samples"]["as labelled"] < 0.4
    report = (tmp_path / "run" / "report.md").read_text()
    assert "trained for looks" in report and "| 200 samples |" in report and "data.png" in report
