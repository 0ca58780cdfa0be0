"""The benchmark of autoregressive models: both sides compute the same, PyTorch draws what it scores, and the table is printed."""

import numpy as np
import pytest

from experiments.benchmark import autoregressive, timing


@pytest.mark.parametrize("job", autoregressive.JOBS)
def test_pytorch_computes_the_same(job):
    """float32 on both sides, sums in another order: 1e-5 is seen, 1e-4 allowed."""
    pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    found = autoregressive.agreement_worker(job, side=5)
    ours, theirs = found.pop("parameters")
    assert ours == theirs
    assert set(found) == {"log-density", "gradient"} and max(found.values()) < 1e-4, found


def test_pytorch_draws_from_what_it_keeps():
    """Its transformer's outputs place by place are those of a whole pass."""
    torch = pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    bits = autoregressive.images(4)
    import jax

    params = jax.jit(autoregressive.JOBS["transformer"].build(bits.spec, {}).init)(jax.random.key(0))
    p, seen = autoregressive.peer_params(params), []
    bernoulli = torch.bernoulli
    try:
        torch.bernoulli = lambda p: seen.append(p) or bernoulli(p)
        x = autoregressive.torch_draws("transformer", p, 3, 4)
    finally:
        torch.bernoulli = bernoulli
    whole = torch.sigmoid(autoregressive.transformer_logits(p, x)).flatten(1).detach().numpy()
    np.testing.assert_allclose(torch.stack(seen, 1).numpy(), whole, atol=1e-5)


def stub(module, name, *options):
    """`timing.run_worker` without processes: ours takes 2 s a call, PyTorch 3 s, whole passes 500 s."""
    if name == "agreement":
        return {"parameters": [5, 5], "log-density": 1e-6, "peak memory": 9.0}
    seconds = 2.0 if name == "dlvm_jax" else 3.0
    return {"train": seconds, "score": seconds, "draw": seconds, "whole": 500.0, "peak memory": 9.0}


def test_table(monkeypatch):
    monkeypatch.setattr(timing, "run_worker", stub)
    table = timing.ratios(autoregressive.compare(1))
    assert "| pixelcnn: 2 training steps of 16, s | 2 | pytorch 3 | 1.50 |  |" in table
    assert (
        "| transformer: 100 draws, s | 2 | pytorch 3 | 1.50 | dlvm_jax, whole passes 500 (250.00) |" in table
    )
