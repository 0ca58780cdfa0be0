"""The benchmark of hierarchical VAEs: both sides compute the same, and the tables are printed."""

import pytest

from experiments.benchmark import hierarchical, timing


@pytest.mark.parametrize("job", hierarchical.JOBS)
def test_pytorch_computes_the_same(job):
    """float32 on both sides, sums of up to 784 products in another order: 1e-5 is seen, 1e-4 allowed."""
    pytest.importorskip("torch", reason="the peer is not installed: pip install '.[peers]'")
    found = hierarchical.agreement_worker(job)
    ours, theirs = found.pop("parameters")
    assert ours == theirs
    assert set(found) == {"bound", "gradient"} and max(found.values()) < 1e-4, found


@pytest.mark.slow
def test_what_depth_costs():
    """Twelve times the groups: the program does not grow, and rematerialisation saves most of its memory."""
    found = hierarchical.compile_worker("vdvae")
    assert found["48 groups"][1] > 3 * found["4 groups"][1]
    assert found["48 groups, remat"][1] < 0.5 * found["48 groups"][1]


def stub(errors):
    """`timing.run_worker` without processes: ours takes 2 s a call, a peer 3 s."""

    def run_worker(module, name, *options):
        if name == "pytorch, torch.compile":
            return None
        if name == "agreement":
            return {"parameters": [5, 5], "bound": errors, "peak memory": 9.0}
        if name == "compile":
            return {"4 groups": [0.5, 75.0], "peak memory": 9.0}
        seconds = 2.0 if name == "dlvm_jax" else 3.0
        return {"seconds": [9.0, seconds], "first": 2 * seconds, "peak memory": 500.0}

    return run_worker


def test_tables(monkeypatch, capsys):
    monkeypatch.setattr(timing, "run_worker", stub(1e-6))
    lines = hierarchical.compare(2)
    shown = capsys.readouterr().out
    assert "ladder: parameters 5 ours, 5 PyTorch; differences bound 1e-06" in shown
    assert "| 4 groups | 0.5 | 75 |" in shown
    table = timing.ratios(lines)
    assert "| vdvae: 20 training steps of 32, s | 2 | pytorch 3 | 1.50 |  |" in table
    assert "| ladder: the first 20 steps, compilation included, s | 4 | pytorch 6 | 1.50 |  |" in table


@pytest.mark.parametrize("errors", [1e-3, float("nan")])
def test_refused_where_the_computations_differ(monkeypatch, errors):
    monkeypatch.setattr(timing, "run_worker", stub(errors))
    with pytest.raises(SystemExit, match="do not compute the same"):
        hierarchical.main(hierarchical.Config())
