"""From formula to function and to the test of its value, and a FORMULAS.md that is up to date."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dlvm_jax import formulas

ROOT = Path(__file__).parent.parent


def test_every_formula_has_its_parts_and_a_test_of_its_value():
    found = formulas.formulas()
    assert len(found) > 250
    assert len({f.equation for f in found}) == len(found), "two functions claim the same equation"
    for f in found:
        assert f.equation and f.source and f.purpose.endswith(".")
        assert f.tests, f"put @checks({f.name}) on the test that checks the value of {f.full_name}"


def called(path):
    """The names that a test file uses, decorators of marks left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = [m for m in node.decorator_list if not ast.unparse(m).startswith("checks(")]
    nodes = [node for top in tree.body if not isinstance(top, ast.ImportFrom) for node in ast.walk(top)]
    return {getattr(node, "attr", getattr(node, "id", None)) for node in nodes}


def test_a_test_that_is_marked_uses_the_function():
    """Itself, or through the tables that several test files share."""
    shared = called(ROOT / "tests/functional/common.py")
    for f in formulas.formulas():
        for test in f.tests:
            path = ROOT / test.split("::")[0]
            assert f.name in called(path) | shared, f"{test} is marked with {f.full_name} and does not use it"


def test_the_document_is_up_to_date():
    written = (ROOT / "dlvm_jax/FORMULAS.md").read_text()
    assert written == formulas.document(), "run `python -m dlvm_jax.formulas --write`"


def test_command_line_shows_a_formula_and_names_close_ones():
    run = lambda name: subprocess.run(
        [sys.executable, "-m", "dlvm_jax.formulas", name], capture_output=True, text=True, cwd=ROOT
    )
    shown = run("elbo")
    assert shown.returncode == 0 and "bounds.py:" in shown.stdout and "Kingma & Welling 2014" in shown.stdout
    assert "checked by tests/functional/test_bounds.py::test_elbo_is_the_evidence_less" in shown.stdout
    wrong = run("elbbo")
    assert wrong.returncode == 1 and "perhaps elbo" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_words_of_the_field_find_their_functions():
    for word, name in {
        "IWAE": "bounds.importance_weighted",
        "nice": "flows.linear.affine",
        "Glow": "flows.linear.lu_linear",
        "VDM": "diffusion.schedules.linear_log_snr",
        "vMF": "spherical.von_mises_fisher_sample",
        "Burda, Grosse": "bounds.log_weight",
    }.items():
        assert f"functional.{name}  " in formulas.show(word)


def test_a_name_of_any_case_comes_before_words():
    assert [f.full_name for f in formulas.search("DDIM")] == ["functional.diffusion.ancestral.ddim"]
    assert {f.full_name for f in formulas.search("runge_kutta")} == {
        "functional.diffusion.ode.runge_kutta",
        "functional.numerics.runge_kutta",
    }


def test_unknown_formula_is_refused():
    with pytest.raises(ValueError, match="no formula named 'zzzz'; without a word all are listed"):
        formulas.show("zzzz")


def test_every_name_of_a_method_finds_functions_that_there_are():
    everything = formulas.formulas()
    for word, names in formulas.KNOWN.items():
        for name in names.split():
            found = [f.full_name for f in everything if formulas._is_name(name, f)]
            assert len(found) == 1, f"{word}: {name} is {found}"


def test_names_are_found_however_they_are_spelt(monkeypatch):
    words = "beta-VAE VampPrior RealNVP MAF IAF DDPM DDIM free-bits neural-ODE score-matching 1x1-convolution"
    everything = formulas.formulas()
    monkeypatch.setattr(formulas, "formulas", lambda: everything)
    for one in words.split():
        found = [f.full_name for f in formulas.search(one)]
        for spelling in (one.lower(), one.upper(), one.replace("-", " "), one.replace("-", "_")):
            assert [f.full_name for f in formulas.search(spelling)] == found
    assert formulas.show("DDIM").startswith("functional.diffusion.ancestral.ddim  (dlvm_jax/")
