"""The script of simulation-based inference: a run leaves figures, pictures and a report."""

import dataclasses
import json
import os
import shutil
import types
import warnings

import jax
import numpy as np
import pytest

from dlvm_jax.exact import cosmology
from dlvm_jax.exact import simulators as exact
from dlvm_jax.models import chains
from experiments.papers import lueckmann2021
from experiments.reproduce import readers
from experiments.sbi import __main__ as script
from experiments.sbi import cells, report, table

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


def maps():
    return cosmology.cosmology(4, cells=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "nre", "depth": 5, "task": "slcp", "sampling": "mcmc"},
        {"method": "nle", "task": "gaussian_mixture", "seeds": (0, 1)},
        {"repeats": 2, "embedding": "mlp"},
        {"task": f"{__name__}:maps", "embedding": "pooled"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*draws of the prior are effective", "ignore:R-hat of the chains is")
def test_a_run_leaves_a_report(options, tmp_path, monkeypatch):
    if "sampling" in options:
        pytest.importorskip("blackjax")
        monkeypatch.setattr(chains, "WARM_UP", 20)
    monkeypatch.delenv("DLVM_DATA", raising=False)
    script.run(dataclasses.replace(TINY, out=tmp_path / "run", **options))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["tested"] == 20 and result["effective"] > 0
    assert all(0 <= value <= 1 for value in [*result["p_values"].values(), *result["coverage"].values()])
    report = (tmp_path / "run" / "report.md").read_text()
    assert ("r_hat" in result) == ("R-hat of the chains" in report) == ("sampling" in options)
    assert 0 < result["predictive_p"] <= 1 and 0 < result["local_p"] <= 1
    if options.get("task") != "slcp" and "repeats" not in options:  # it has no exact posterior
        assert 0.3 < result["c2st"] <= 1 and f"{result['c2st']:.3f}" in report
        assert np.isfinite(result["mmd2"])
    assert np.load(tmp_path / "run" / "draws.npy").shape[0] == 100
    for picture in ("pairs", "calibration", "predictive", "curves"):
        assert (tmp_path / "run" / f"{picture}.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npe", "nle"])
@pytest.mark.filterwarnings("ignore:.*draws of the prior are effective", "error:.*holds no checkpoint yet")
def test_rounds_go_on_where_they_were_stopped(method, tmp_path, monkeypatch):
    """Simulations of a round are kept, so that the same run again writes the same draws; others than these are refused."""
    monkeypatch.delenv("DLVM_DATA", raising=False)
    config = dataclasses.replace(TINY, out=tmp_path / "run", rounds=2, method=method)
    script.run(config)
    draws = np.load(tmp_path / "run" / "draws.npy")
    first, second = (np.load(tmp_path / "run" / f"round-{n}" / "simulations.npz")["rows"] for n in (1, 2))
    assert len(first) == len(second) == 50 and (abs(second[:, :2]) <= 1).all()
    for name in ("checkpoints", "model.json", "result.json", "draws.npy"):  # as if stopped in the first round
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="already holds rounds; give resume=True"):
        script.run(config)
    with pytest.raises(ValueError, match=r"simulations.npz is of .*; give another out"):
        script.run(dataclasses.replace(config, resume=True, observation=2))
    script.run(dataclasses.replace(config, resume=True))
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "draws.npy"), draws)
    assert "2 rounds" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_a_table_goes_on_and_shows_what_is_published(tmp_path, capsys):
    """The second time nothing is trained, nor compared."""
    if not os.environ.get("DLVM_DATA"):
        pytest.skip("published posteriors need DLVM_DATA")
    config = table.Config(
        tasks=("two_moons",), simulations=(1000,), steps=20, draws=100, observations=2, out=tmp_path / "t"
    )
    table.run(config)
    written = (tmp_path / "t" / "report.md").read_text()
    result = json.loads((tmp_path / "t" / "result.json").read_text())
    mean = result["two_moons npe 1000"]["mean"]
    assert f"| two_moons | npe | {mean:.3f} ± " in written and "| 0.725 |" in written
    cell = tmp_path / "t" / "npe-two_moons-1000-1"
    assert json.loads((cell / "result.json").read_text())["c2st"].keys() == {"1", "2"}
    (cell / "result.json").unlink()
    first = (cell / "metrics.jsonl").read_text()
    capsys.readouterr()
    table.run(config)
    assert (cell / "metrics.jsonl").read_text() == first
    assert (tmp_path / "t" / "report.md").read_text() == written


@pytest.mark.slow
def test_a_cell_of_rounds_has_a_run_for_each_observation(tmp_path):
    """Its row reads the mean and the error over observations; what is there is kept."""
    if not os.environ.get("DLVM_DATA"):
        pytest.skip("published posteriors need DLVM_DATA")
    settings = {
        name: getattr(TINY, name) for name in ("steps", "evaluations", "batch_size", "width", "depth")
    }
    settings |= {"simulations": 60, "draws": 100, "rounds": 2, "observations": 2, "warm_up": 0}
    run = readers.sbi_run(task="two_moons", method="npe", **settings)
    found = run(tmp_path / "row", False)
    values = [
        json.loads((tmp_path / "row" / f"observation-{n}" / "result.json").read_text())["c2st"]
        for n in (1, 2)
    ]
    assert found.value == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(2))
    (tmp_path / "row" / "result.json").unlink()
    assert run(tmp_path / "row", False).value == found.value


def test_what_is_published_is_found():
    """One value of each place in the table."""
    find = lueckmann2021.published
    assert find("slcp", "nle", 10_000, 1) == "0.771" and find("slcp", "nre", 1000, 10) == "0.968"
    assert find("two_moons", "npe", 1000, 10) == "0.643" and find("sir", "nre", 10_000, 1) == "0.770"
    assert find("sir", "npe", 1000, 10) is None and find("sir", "fmpe", 1000, 1) is None
    assert find("sir", "npe", 3000, 1) is None
    assert all(len(values.split()) == 6 for values in lueckmann2021.PUBLISHED.values())
    assert len(lueckmann2021.ROWS) == 78


def test_an_observation_far_from_the_simulations_is_warned_of():
    """Outside of all, in a gap between them, or outside in more numbers than others are; among them it is not."""
    random = np.random.RandomState(0)
    angle = random.rand(220) * 2 * np.pi
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)  # standard deviations of 1 / sqrt 2
    simulated, further = ring[:200], ring[200:]
    with pytest.warns(
        UserWarning, match="is 2.8 standard deviations away from the nearest of 200 .* 1 of its 2"
    ):
        report._say_if_outside(np.array([3.0, 0.0]), simulated, further)
    with pytest.warns(
        UserWarning, match="is 1.4 standard.* 0 of its 2 numbers lie outside of all simulations"
    ):
        report._say_if_outside(np.array([0.0, 0.0]), simulated, further)
    many = random.rand(220, 300)  # numbers, of which a few lie outside by chance
    with pytest.warns(UserWarning, match=r"(2\d|30) of its 300 numbers lie outside .*, 6 at most of theirs"):
        report._say_if_outside(np.where(np.arange(300) < 30, 1.0, many[0]), many[:200], many[200:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report._say_if_outside(simulated[0], simulated, further)
        report._say_if_outside(many[201], many[:200], many[200:])


def test_an_observation_that_is_not_finite_is_refused():
    simulator = exact.two_moons()._replace(simulate=lambda key, theta: theta / 0.0)
    with pytest.raises(
        ValueError, match="the simulated observation 3 of line is not finite; give another obs"
    ):
        report.observation(
            dataclasses.replace(TINY, task="line", observation=3), simulator, jax.random.key(0)
        )


def test_bits_are_numbers(tmp_path):
    """An observation of true and false, and simulations from the posterior: of 1,000 bits about half are 1, and x is so too."""
    bits = exact.two_moons()._replace(
        simulate=lambda key, theta: jax.random.bernoulli(key, 0.5, theta.shape), posterior_sample=None
    )
    compared = report.observation(dataclasses.replace(TINY, task="bits"), bits, jax.random.key(0))
    assert compared.x.dtype == np.float32 and set(compared.x) <= {0.0, 1.0}
    folder = types.SimpleNamespace(root=tmp_path)
    found = report._predict(bits, np.zeros((1000, 2), np.float32), compared, jax.random.key(0), folder)
    assert 0.5 < found["predictive_p"] <= 1


def test_what_cannot_be_is_refused():
    for settings, message in (
        (
            {"sampling": "mcmc"},
            "sampling='mcmc' is of method nle or nre, and draws of method='npe' are indep",
        ),
        ({"sampling": "nuts"}, "unknown sampling 'nuts'; there are resampling, mcmc"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(TINY, **settings).check()
    with pytest.raises(ValueError, match="leave observation and repeats out"):
        cells.Config(observation=2).check()
    with pytest.raises(ValueError, match=r"unknown task 'two_moon'.*did you mean 'two_moons'"):
        table.Config(tasks=("two_moon",)).check()
    with pytest.raises(ValueError, match="a round needs 20 simulations, got simulations=100 for rounds=6"):
        dataclasses.replace(TINY, rounds=6).check()
    with pytest.raises(ValueError, match="method='nre' has no density to mix"):
        dataclasses.replace(TINY, method="nre", depth=5, seeds=(0, 1)).check()
