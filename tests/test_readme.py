"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example_runs(number, capsys):
    names = {}
    exec(compile(BLOCKS[number], f"README example {number}", "exec"), names)
    if "elbo" in names:  # KL zero, and 784 fair coins
        assert names["elbo"].tolist() == pytest.approx([-543.427387] * 8)
    elif "covariance" in names:
        assert float(capsys.readouterr().out) == pytest.approx(0.84608, abs=1e-4)
    elif "flow" in names:  # rounding of float32 through eight layers
        assert 0 <= float(capsys.readouterr().out) < 1e-3
    else:
        assert "K=100" in capsys.readouterr().out and float(names["metrics"]["loss"][-1]) < 26


def test_there_are_four_examples():
    assert len(BLOCKS) == 4
