"""From formula to function, and a README that tells the truth."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlvm_jax import formulas

ROOT = Path(__file__).parent.parent


def test_every_formula_has_its_parts_and_its_test():
    found = formulas.formulas()
    assert len(found) > 30
    assert len({f.equation for f in found}) == len(found), "two functions claim the same equation"
    for f in found:
        assert f.equation and f.source and f.purpose.endswith(".")
        assert formulas._test_of(f), f"no test names {f.module}.{f.name}"


def test_readme_holds_the_generated_table():
    readme = (ROOT / "README.md").read_text()
    assert formulas.table() in readme, "run `python -m dlvm_jax.formulas` and put its table into README.md"


def test_command_line_shows_a_formula_and_names_close_ones():
    run = lambda name: subprocess.run(
        [sys.executable, "-m", "dlvm_jax.formulas", name], capture_output=True, text=True, cwd=ROOT
    )
    shown = run("elbo")
    assert shown.returncode == 0 and "bounds.py:" in shown.stdout and "Kingma & Welling 2014" in shown.stdout
    wrong = run("elbbo")
    assert wrong.returncode == 1 and "perhaps elbo" in wrong.stderr


def test_unknown_formula_is_refused():
    with pytest.raises(ValueError, match="no formula named 'nothing_like_it'"):
        formulas.show("nothing_like_it")
