"""`from dlvm_jax import train` loads nothing before it is used."""

import subprocess
import sys

import pytest

from dlvm_jax import train
from dlvm_jax.train import config

HEAVY = {"jax", "numpy", "optax", "orbax", "flax"}


def test_importing_train_loads_no_framework():
    code = f"from dlvm_jax import train; import sys; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_found_when_used():
    assert train.TrainConfig is config.TrainConfig and train.config is config
    assert {"fit", "load", "Fitted", "TrainConfig", "engine"} <= set(dir(train))
    with pytest.raises(AttributeError, match="has no attribute 'fits'; it has Fitted, TrainConfig, fit"):
        _ = train.fits
