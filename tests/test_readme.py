"""The README's examples run as they stand, its links lead somewhere, and it stays short."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
FIT, LOAD, LOSS, SAMPLER, FLOW, KINDS = range(6)


def run(number):
    """The names that an example defines, and what it prints."""
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS[number], f"README example {number}", "exec"), names)
    return names, printed.getvalue()


def test_a_model_is_fitted_and_then_used_in_another_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = run(FIT)
    assert "K=50" in printed and names["fitted"].step > 0
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS[LOAD]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(16, 8, 8, 1) (16, 8, 8, 1) (16,)"


def test_the_loss_is_that_of_fair_coins():
    names, _ = run(LOSS)
    assert names["elbo"].tolist() == pytest.approx([-543.427387] * 8)  # 784 log 2, and no KL


def test_the_sampler_loses_what_the_comment_says():
    _, printed = run(SAMPLER)
    assert float(printed) == pytest.approx(0.84608, abs=1e-4)


def test_the_flow_scores_its_own_samples():
    _, printed = run(FLOW)
    assert 0 <= float(printed) < 1e-3  # rounding of float32 through eight layers


def test_the_refused_join_is_refused():
    _, printed = run(KINDS)
    kinds, line = printed.splitlines()
    assert kinds == "weight bound"
    assert line.startswith(
        "an importance-weighted bound needs a density of kind exact or weight, got kind 'bound'"
    )


@pytest.mark.parametrize("path", ["README.md", "dlvm_jax/README.md", "experiments/README.md"])
def test_links_lead_somewhere(path):
    text = (ROOT / path).read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    missing = [link for link in links if not ((ROOT / path).parent / link.replace("\\", "")).exists()]
    assert links and not missing


def test_it_is_short():
    assert len(BLOCKS) == 6
    assert len(TEXT.encode()) <= 14_000 and TEXT.count("\n") <= 220
