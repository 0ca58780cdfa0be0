"""What tests of scripts put in place of rows of results and of fine solutions."""

import pytest

from dlvm_jax.recipes import diffusion as diffusion_recipe
from experiments.diffusion import report as diffusion_report
from experiments.reproduce import __main__ as reproduce


@pytest.fixture
def toy(monkeypatch):
    def put(*rows):
        monkeypatch.setattr(reproduce, "every_row", lambda: {row.name: row for row in rows})

    return put


@pytest.fixture(scope="module")
def short_solutions():
    """Reports of diffusion models solve in few steps, each number of which is a program to compile; few draws validate them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion_report, "EVALUATIONS", (6,))
        patch.setattr(diffusion_report, "FINE", 12)
        patch.setattr(diffusion_report, "SHOWN", 12)
        patch.setattr(diffusion_recipe, "DRAWS", {True: 200, False: 200})
        yield
