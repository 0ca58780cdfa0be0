"""The benchmark of diffusion models: both sides compute the same, no program grows with its steps, the tables are printed."""

import jax
import numpy as np
import pytest

from experiments.benchmark import diffusion, timing

TINY = {"side": 4, "count": 2, "width": 4, "depth": 1}


@pytest.mark.slow
def test_no_program_grows_with_its_steps():
    """The same number of lines at 20 and at 1,000 steps: a scan, whatever it costs to compile."""
    for name in diffusion.SAMPLERS:
        short, long = (diffusion.lowered(name, steps, **TINY).as_text() for steps in (20, 1000))
        assert "while" in short, name
        assert short.count("\n") == long.count("\n"), name


@pytest.mark.slow
def test_a_sampler_compiles_and_runs():
    """On the smallest network: the program that is timed makes images."""
    model = diffusion.our_model(4, 4, 1)
    compiled = diffusion.lowered("DPM-Solver++ 2M", 3, **TINY).compile()
    images = compiled(model.init(jax.random.key(0)), jax.random.key(1))
    assert images.shape == (2, 4, 4, 1) and np.isfinite(images).all()


def test_pytorch_computes_the_same():
    """float32 on both sides, sums of up to 576 products in another order through 20 evaluations: 1e-5 is seen, 1e-4 allowed."""
    pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    found = diffusion.agreement(8, count=2)
    ours, theirs = found.pop("parameters")
    assert ours == theirs
    assert set(found) == {"samples", "loss", "gradient"} and max(found.values()) < 1e-4, found


@pytest.mark.parametrize("side", diffusion.SIDES)
def test_multiply_adds_are_those_of_the_network(side):
    torch = pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    from torch.utils.flop_counter import FlopCounterMode

    net = diffusion.torch_net()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(3, 1, side, side), torch.zeros(3))
    assert counter.get_total_flops() == 2 * 3 * diffusion.multiply_adds(side)


def stub(errors, missing=()):
    """`timing.run_worker` without processes: ours takes 2 s a call, a peer 3 s."""

    def run_worker(module, name, *options):
        if name in missing:
            return None
        if name == "agreement":
            return {"parameters": [5, 5], "samples": errors, "peak memory": 9.0}
        if name == "compile":
            return {"DDIM": [0.5, 0.75], "peak memory": 9.0}
        seconds = 2.0 if name == "dlvm_jax" else 3.0
        times = {job: [seconds, 9.0] for job in diffusion.JOBS}
        return times | {"matrix rate": 1e11, "peak memory": 500.0}

    return run_worker


def test_tables(monkeypatch, capsys):
    monkeypatch.setattr(timing, "run_worker", stub(1e-6, missing=("pytorch, torch.compile",)))
    lines = diffusion.compare(2)
    shown = capsys.readouterr().out
    assert "8x8: parameters 5 ours, 5 PyTorch; differences samples 1e-06" in shown
    for job in diffusion.JOBS:
        assert f"| {job} | pytorch | 3.000 | 1.50 |" in shown
    assert "pytorch, torch.compile: not installed" in shown
    assert "| DDIM | 0.50 | 0.75 |" in shown
    table = timing.ratios(lines)
    for side in diffusion.SIDES:
        for job in diffusion.JOBS:
            assert f"| diffusion, {side} x {side}: {job}, s | 2 | pytorch 3 | 1.50 |  |" in table
    assert "| diffusion: longest compilation of a sampler, s | 0.75 | no peer here | |  |" in table


def test_no_times_of_different_computations(monkeypatch):
    monkeypatch.setattr(timing, "run_worker", stub(1e-3))
    with pytest.raises(SystemExit, match="do not compute the same"):
        diffusion.main(diffusion.Config())
