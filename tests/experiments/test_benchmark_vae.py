"""The benchmark of VAEs, and the one table of all benchmarks."""

import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import autoregressive, diffusion, flows, hierarchical, sbi, timing, vae

SMALL = {"EXAMPLES": 200, "BATCH": 20, "STEPS": 10, "HIDDEN": 8, "IMAGES": 10, "SAMPLES": 200}


def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(vae, name, value)


@pytest.mark.slow
def test_ours_is_measured(monkeypatch):
    small(monkeypatch)
    found = vae.dlvm_jax_worker(2)
    assert len(found["epochs"]) == 2 and min(found["epochs"] + found["evaluation"]) > 0
    assert np.isfinite([found["loss"], found["evidence"]]).all()


def test_the_evaluation_of_pytorch_is_importance_weighting(monkeypatch):
    """A decoder of one latent unit, whose evidence quadrature knows, under a posterior that is neither it nor the prior.

    Weights of 20,000 samples: 0.02 nats of noise, 0.1 allowed.
    """
    torch = pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    monkeypatch.setattr(vae, "SAMPLES", 20_000)
    torch.manual_seed(0)
    x, slope = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([2.0, -1.0, 0.5])
    found = vae.torch_log_likelihoods(
        lambda x: torch.stack([0.5 * x.sum(-1), torch.full((2,), -0.3)], -1), lambda z: slope * z - 1, x
    )
    z = np.linspace(-10, 10, 4001)[:, None, None]
    logits = np.asarray(slope) * z - 1
    log_joint = (np.asarray(x) * logits - np.logaddexp(0, logits)).sum(-1) - 0.5 * z[..., 0] ** 2
    evidence = np.log(np.exp(log_joint).sum(0) * (20 / 4000) / np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found, evidence, atol=0.1)


def test_one_table_of_all(monkeypatch, capsys):
    """Ours takes 2 s an epoch of 600 steps, peers 3 and 5; one is not installed."""

    def run_worker(module, name, *options):
        if name == "pythae":
            return None
        seconds = {"dlvm_jax": 2.0, "pytorch, DataLoader": 5.0}.get(name, 3.0)
        figures = {
            "matrix_rate": 1e11,
            "first_step": 1.0,
            "loss": 1.0,
            "evidence": -1.0,
            "peak memory": 300.0,
        }
        return {"epochs": [seconds, 9.0], "step": [seconds / 1000], "evaluation": [seconds], **figures}

    monkeypatch.setattr(timing, "run_worker", run_worker)
    monkeypatch.setattr(flows, "compare", lambda rounds: [("flow", "ms", {"dlvm_jax": 1.0, "zuko": 4.0})])
    for part in (autoregressive, diffusion, hierarchical, sbi):
        monkeypatch.setattr(part, "compare", lambda rounds: [])
    benchmark.main(benchmark.Config())
    shown = capsys.readouterr().out
    epoch = "| VAE 784-500-20: epoch of 60,000 images, batch 100, s | 2 | pytorch, indexed tensor 3 | 1.50 |"
    assert f"{epoch} pytorch, DataLoader 5 (2.50) |" in shown
    assert (
        "| VAE: a training step by itself, ms | 2 |" in shown
        and "| flow, ms | 1 | zuko 4 | 4.00 |  |" in shown
    )
    assert "pythae: not installed" in shown and "jax 0." in shown
    with pytest.raises(SystemExit, match="a benchmark takes at least one round, got 0"):
        benchmark.main(benchmark.Config(rounds=0))
