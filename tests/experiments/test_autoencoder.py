"""The autoencoder experiment: errors, and what a run leaves behind before it trains."""

import json

import pytest

from dlvm_jax.train import loop
from experiments.autoencoder import __main__ as autoencoder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (0,)}, r"--hidden needs at least one positive width, got \(0,\)"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"noise": float("nan")}, "masking rate in .*, got nan"),
        ({"weight": float("nan")}, "--weight must be at least 0, got nan"),
        ({"resume": True}, "--resume goes on with the run in --out; say which"),
        ({"data": "binarized_mnist"}, "binarized_mnist holds bits; use a set of grey levels, such as mnist"),
        (
            {"against": "binarized_mnist"},
            "binarized_mnist holds bits; use a set of grey levels, such as mnist",
        ),
    ],
)
def test_bad_input_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        autoencoder.run(autoencoder.Config(**options))
    assert not list(tmp_path.iterdir())


def test_a_run_that_stops_has_left_its_settings_and_is_not_overwritten(tmp_path, monkeypatch):
    def stopped(trainer, plan, data, state, *, checkpoints, **_):
        checkpoints.save(1, state)
        checkpoints.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.run(autoencoder.Config(hidden=(8,), out=tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 5000
    assert (tmp_path / "manifest.json").exists()
    with pytest.raises(ValueError, match=r"already holds a run .* add --resume"):
        autoencoder.run(autoencoder.Config(hidden=(9,), out=tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["hidden"] == [8]
