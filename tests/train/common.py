"""A small regression that trains in milliseconds, and the pieces to run it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlvm_jax.train import engine, loop
from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.run import RunFolder

X = np.random.RandomState(0).randn(64, 5).astype(np.float32)


def objective(params, key, batch, step=None):
    """Noisy autoencoding by one matrix."""
    noise = 0.1 * jax.random.normal(key, batch.shape)
    bound = -jnp.square((batch + noise) @ params["w"] - batch).sum(-1).mean()
    return -bound, {"bound": bound}


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (5, 5))}


def build(**options):
    return engine.build(objective, init, options.pop("optimizer", optax.adam(0.01)), **options)


def fit(
    folder, steps=60, every=10, config=None, validate=None, resume=False, trainer=None, data=X, **settings
):
    """One run in a folder; returns (engine, last state, checkpoints).  settings: of `TrainConfig`."""
    trainer = trainer or build(ema=0.9)
    kept = Checkpoints(folder / "checkpoints", config or {"steps": steps})
    state = trainer.init()
    if resume:
        state = kept.restore(state)[1]
    state = loop.run(
        trainer,
        TrainConfig(
            **{"steps": steps, "batch_size": 8, "eval_every": every, "seeds": trainer.seeds, **settings}
        ),
        data,
        state,
        folder=RunFolder(folder),
        checkpoints=kept,
        validate=validate,
        progress=False,
    )
    return trainer, state, kept


def assert_same(a, b):
    """Two trees are equal bit for bit."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
