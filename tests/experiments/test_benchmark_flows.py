"""The benchmark of flows: what is timed is a flow of the stated size, and the tables are printed."""

import jax
import numpy as np
import pytest

from experiments.benchmark import flows, timing

HALF, OF_A_SPLINE = flows.DIM // 2, 3 * flows.BINS - 1
IN_AND_MIDDLE = (
    64 + 64 * 64 + 64,
    65,
)  # parameters of a network besides its inputs; and for each of its outputs
PARAMETERS = {
    flows.AFFINE: 8 * (64 * HALF + IN_AND_MIDDLE[0] + IN_AND_MIDDLE[1] * 2 * HALF),
    flows.SPLINE: 8 * (64 * HALF + IN_AND_MIDDLE[0] + IN_AND_MIDDLE[1] * OF_A_SPLINE * HALF),
    flows.AUTOREGRESSIVE: 5 * (64 * 10 + IN_AND_MIDDLE[0] + IN_AND_MIDDLE[1] * OF_A_SPLINE * 10),
}


@pytest.mark.parametrize("flow", flows.FLOWS)
def test_the_flow_has_the_stated_size(flow):
    params = jax.eval_shape(flows.our_density(flow).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[flow]


@pytest.mark.parametrize("flow", flows.FLOWS)
def test_what_is_timed_is_finite_and_agrees(flow, monkeypatch):
    """The density of samples is the one they are said to have: float32 through up to 8 layers, 1e-5 seen, 1e-4 allowed."""
    monkeypatch.setattr(flows, "POINTS", 6)
    dens = flows.our_density(flow, hidden=(4,))
    params = dens.init(jax.random.key(0))
    x, stated = jax.jit(lambda: dens.sample(params, jax.random.key(1), shape=(6,)))()
    found = jax.jit(lambda: dens.log_prob(params, None, x))()
    np.testing.assert_allclose(found, stated, atol=1e-4)
    assert x.shape == (6, flows.DIM)


def test_ours_is_measured(monkeypatch):
    for name, value in {"POINTS": 4, "BATCH": 4, "STEPS": 2, "COUPLINGS": 2}.items():
        monkeypatch.setattr(flows, name, value)
    found = flows.measured("dlvm_jax", flows.AFFINE, 1)
    assert found["parameters"] == PARAMETERS[flows.AFFINE] / 4
    assert len(found["compile"]) == 3 and min(found[job] for job in flows.JOBS) > 0


def test_tables(monkeypatch, capsys):
    """Ours takes 1, 2, 9 ms in three rounds (the median counts), a peer 3 ms; one peer is not installed."""
    rounds = iter([0.001, 0.002, 0.009] * len(flows.FLOWS))

    def run_worker(module, name, *options):
        if name == "distrax":
            return None
        seconds = next(rounds) if name == "dlvm_jax" else 0.003
        compiling = {"compile": [1.0, 0.5, 0.25]} if name in flows.JAX else {}
        return {
            "parameters": 41_552,
            "peak memory": 9.0,
            **compiling,
            **dict.fromkeys(flows.JOBS, seconds),
        }

    monkeypatch.setattr(timing, "run_worker", run_worker)
    flows.main(flows.Config(rounds=3))
    shown = capsys.readouterr().out
    for flow in flows.FLOWS:
        assert f"| {flow} | parameters |" in shown
    assert "| dlvm_jax | 41,552 | 2.00 (1.00) | 2.00 (1.00) | 2.00 (1.00) | 1.00, 0.50, 0.25 |" in shown
    assert "| zuko | 41,552 | 3.00 (1.50) | 3.00 (1.50) | 3.00 (1.50) |  |" in shown
    assert "| distrax |" not in shown


def test_a_missing_peer_says_how_to_install_it():
    assert timing.version("no-such-library").endswith("not installed (pip install -e '.[peers]')")
