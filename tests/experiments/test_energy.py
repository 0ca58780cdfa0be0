"""The script of flows on unnormalised targets: from configuration to report, its densities, impossible settings."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import recipes
from dlvm_jax.exact.energies import ENERGIES
from dlvm_jax.recipes import energy_flow
from dlvm_jax.recipes.energy_flow import ENERGY_FLOWS
from experiments.flow import energy, energy_report
from experiments.flow.energy import Config
from tests.models.test_flows import moved

TINY = Config(
    target="torus correlated", components=2, hidden=(8,), steps=200, batch_size=32, eval_samples=2000
)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(energy_report, "SIDE", 24)
    monkeypatch.setattr(energy_flow, "SCORED", 200)


def test_a_run_leaves_a_report(tmp_path):
    """It learns: a wrong sign or a dead network stays at the base's 0.236 nats; and the picture is a density of the torus."""
    config = dataclasses.replace(TINY, learning_rate=1e-2, out=tmp_path / "run")
    energy.run(config)
    result = json.loads((config.out / "result.json").read_text())
    trained, nothing = result["rows"].values()
    assert trained["kl"][0] < 0.1 and trained["effective"][0] > 85
    assert nothing["kl"][0] == pytest.approx(0.2359, abs=4 * nothing["kl"][1])  # false alarms 6e-5
    assert abs(trained["log_partition"][0] - 3.911668) < 4 * trained["log_partition"][1]
    report = (config.out / "report.md").read_text()
    assert f"{trained['kl'][0]:.5f}" in report and "nothing (the base)" in report
    for name in ("density", "torus", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 5000
    density = np.load(config.out / "density.npz")
    for name in ("target", "flow"):
        assert density[name].mean() * (2 * np.pi) ** 2 == pytest.approx(1, abs=5e-3)
    with pytest.raises(ValueError, match="give resume=True"):
        energy.run(config)


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    first = energy.run(config)
    again = energy.run(dataclasses.replace(config, resume=True))
    assert again["rows"] == first["rows"] and again["step"] == first["step"]
    with pytest.raises(ValueError, match="components"):
        energy.run(dataclasses.replace(config, resume=True, components=3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ENERGY_FLOWS)
def test_every_flow_on_every_domain(name, tmp_path):
    for domain in ENERGY_FLOWS[name].domains:
        target = next(target for target, known in ENERGIES.items() if known.domain == domain)
        sizes = {"layers": 2, "hidden": (8,), "steps": 20, "batch_size": 16, "eval_samples": 100}
        config = Config(target=target, flow=name, **sizes)
        result = energy.run(dataclasses.replace(config, out=tmp_path / domain))
        assert np.isfinite(result["rows"][name]["kl"]).all()


@pytest.mark.parametrize("target", ["U2", "U1"])
def test_densities_of_the_plane_and_the_strip(target):
    """The integral is one, and samples state the density that `log_prob` gives."""
    recipe = recipes.EnergyFlow(target=target, flow="planar", layers=3)
    density = recipe.build(recipe.own_spec(1), {}).density
    params = moved(density.init, scale=0.2)
    log_prob = jax.jit(lambda x: density.log_prob(params, None, x))
    middle = (np.arange(400) + 0.5) / 400
    side = 4.0 if target == "U2" else 12.0
    first, second = np.meshgrid(2 * side * middle - side, 24 * middle - 12, indexing="ij")
    mass = np.exp(np.asarray(log_prob(jnp.asarray(np.stack([first, second], -1), jnp.float32)), np.float64))
    assert mass.sum() * (2 * side / 400) * (24 / 400) == pytest.approx(1, abs=2e-3)
    x, stated = jax.jit(lambda key: density.sample(params, key, shape=(2000,)))(jax.random.key(0))
    np.testing.assert_allclose(log_prob(x), stated, atol=5e-3)


@pytest.mark.usefixtures("x64")
def test_strip():
    """Log-determinant against autodiff, and round trip."""
    strip = energy_flow.to_strip()
    z = jnp.asarray(np.random.RandomState(0).randn(5, 2))
    x, log_det = strip.forward({}, z)
    back, log_det_back = strip.inverse({}, x)
    np.testing.assert_allclose(back, z, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-9)
    jacobian = jax.vmap(jax.jacfwd(lambda z: strip.forward({}, z)[0]))(z)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"flow": "planar"},
            "flow='planar' is for the plane and the strip, torus correlated lives on the torus",
        ),
        ({"target": "sphere modes", "flow": "moebius"}, "use flow=moebius-spline or exponential"),
        ({"flow": "moebius", "bins": 3}, "flow='moebius' has no bins; leave bins out"),
        ({"target": "U1", "flow": "planar", "components": 3}, "flow='planar' has no components"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"annealing": -1}, "annealing must be at least 0, got -1"),
        ({"eval_samples": 1}, "eval_samples must be at least 2, got 1"),
        ({"hidden": ()}, "hidden needs at least one positive width"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"resume": True}, "say which"),
    ],
)
def test_impossible_settings_are_refused(settings, message, tmp_path):
    out = {} if settings.get("resume") else {"out": tmp_path / "run"}
    with pytest.raises(ValueError, match=message):
        energy.run(dataclasses.replace(TINY, **out, **settings))
