"""One recipe of every family: fitted here, read back in another process without its data, the same to the bit.

Diffusion models have such a test of their own.  The families that are not here are read back in their own tests.
"""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from dlvm_jax import data, recipes, train

BITS = data.from_arrays(np.random.RandomState(0).rand(60, 4, 4) < 0.3)
ROWS = data.from_arrays(np.random.RandomState(2).randn(60, 3).astype(np.float32))
IMAGES = data.from_arrays(np.random.RandomState(3).rand(60, 4, 4, 1).astype(np.float32))
FAMILIES = {
    "VAE": (recipes.VAE(latent_dim=2, hidden=(8,)), BITS),
    "Flow": (recipes.Flow(width=8, depth=1, hidden=1, bins=4), ROWS),
    "EnergyFlow": (recipes.EnergyFlow(target="torus correlated", components=2, hidden=(8,)), None),
    "Autoencoder": (recipes.Autoencoder(latent_dim=2, hidden=(8,)), IMAGES),
    "PPCA": (recipes.PPCA(latent_dim=2), ROWS),
}
READ = """
import sys, jax, numpy as np
from dlvm_jax import train
for folder in sys.argv[1:]:
    fitted, there = train.load(folder), np.load(f"{folder}/expected.npz")
    z = fitted.encode(there["x"])
    np.testing.assert_array_equal(z, there["z"])
    np.testing.assert_array_equal(fitted.decode(z), there["decoded"])
    if fitted.model.density is not None:
        np.testing.assert_array_equal(fitted.sample(jax.random.key(0), 3), there["drawn"])
        np.testing.assert_array_equal(fitted.log_prob(jax.random.key(1), there["x"]), there["log_prob"])
print("the same")
"""


@pytest.mark.slow
def test_what_is_read_back_is_what_was_fitted(tmp_path):
    for name, (recipe, source) in FAMILIES.items():
        settings = {} if name == "PPCA" else {"steps": 4, "warm_up": 0}
        fitted = train.fit(
            recipe, source, out=tmp_path / name, batch_size=8, seeds=(3,), progress=False, **settings
        )
        assert recipes.from_json(recipe.as_json()) == recipe
        x = fitted.sample(jax.random.key(2), 4) if source is None else np.asarray(source.test[:4])
        found = {"x": x, "z": fitted.encode(x)}
        found["decoded"] = fitted.decode(found["z"])
        if fitted.model.density is not None:
            found["drawn"] = fitted.sample(jax.random.key(0), 3)
            found["log_prob"] = fitted.log_prob(jax.random.key(1), x)
        np.savez(tmp_path / name / "expected.npz", **{k: np.asarray(v) for k, v in found.items()})
    done = subprocess.run(
        [sys.executable, "-c", READ, *(str(tmp_path / name) for name in FAMILIES)],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the same"
