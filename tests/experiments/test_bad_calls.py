"""What users get wrong in calls of the library: each ends in one line that says what is wrong."""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.settings import pick
from dlvm_jax.train import checkpoint, engine, loop, order, validation
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.fitted import Fitted


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a file, where nothing may be trained."""
    np.save(tmp_path / "one.npy", np.zeros((4, 1)))

    def trained(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(loop, "run", trained)
    return tmp_path


BITS = (np.random.RandomState(0).rand(60, 4, 4, 1) < 0.5).astype(np.uint8)
KEY = jax.random.key(0)


def bits():
    return data.from_arrays(BITS, test=BITS[:10])


def an_engine(**options):
    objective = lambda params, key, batch, step=None: ((batch @ params["w"]).sum(), {})
    return engine.build(objective, lambda key: {"w": jax.numpy.ones(3)}, optax.sgd(0.1), **options)


CALLS = {
    "fit without data": (lambda here: train.fit(recipes.VAE()), "VAE is trained on data; give some"),
    "fit with data that need none": (
        lambda here: train.fit(recipes.EnergyFlow(), bits()),
        "EnergyFlow is trained without data; leave them out",
    ),
    "fit with an unknown setting": (
        lambda here: train.fit(recipes.VAE(), bits(), lr=1e-3),
        "unknown setting of TrainConfig 'lr'",
    ),
    "fit with a near setting": (
        lambda here: train.fit(recipes.VAE(), bits(), batchsize=10),
        "did you mean 'batch_size'?",
    ),
    "resume without a folder": (
        lambda here: train.fit(recipes.VAE(), bits(), resume=True),
        "resume=True goes on with a run; say which by out=",
    ),
    "a batch larger than the data": (
        lambda here: train.fit(recipes.VAE(), bits(), batch_size=100),
        "batch size lies between 1 and the 54 training examples, got 100",
    ),
    "steps as a word": (lambda here: train.fit(recipes.VAE(), bits(), steps="10"), "steps must be"),
    "steps as a fraction": (
        lambda here: train.fit(recipes.VAE(), bits(), steps=1.5),
        "steps must be an integer",
    ),
    "one seed not in a tuple": (
        lambda here: train.fit(recipes.VAE(), bits(), seeds=3),
        "seeds must be several values",
    ),
    "widths not in a tuple": (lambda here: recipes.VAE(hidden=300).check(), "hidden must be several values"),
    "a recipe's word in capitals": (lambda here: recipes.VAE(prior="VAMP").check(), "did you mean 'vamp'?"),
    "a recipe's number as a word": (lambda here: recipes.VAE(latent_dim="2").check(), "latent_dim must be"),
    "a flag as a word": (
        lambda here: recipes.VAE(start_at_mean="yes").check(),
        "start_at_mean must be True or False",
    ),
    "a flow of integers": (
        lambda here: train.fit(recipes.Flow(), bits(), batch_size=10),
        "flow is of real values",
    ),
    "load of an empty folder": (lambda here: train.load(here), "holds no run"),
    "load of a str": (lambda here: train.load(str(here / "nowhere")), "holds no run"),
    "an evaluation without examples": (
        lambda here: evaluate.log_likelihood(untrained(), BITS[:0]),
        "no examples to evaluate",
    ),
    "an evaluation without samples": (
        lambda here: evaluate.log_likelihood(untrained(), BITS, samples=0),
        "at least one sample, got 0",
    ),
    "an evaluation of another shape": (
        lambda here: evaluate.log_likelihood(untrained(), BITS[:, :3]),
        "this model is of examples of shape (4, 4, 1), got an array of shape (60, 3, 4, 1)",
    ),
    "an estimator that there is not": (
        lambda here: evaluate.log_likelihood(untrained(), BITS, samples=1, estimator="elbo"),
        "'elbo'",
    ),
    "labels that an unconditional model does not take": (
        lambda here: untrained().sample(KEY, 2, np.arange(3)),
        "unconditional; leave `given` out",
    ),
    "steps of another size": (
        lambda here: order.steps_per_epoch(10, 0),
        "between 1 and the 10 training examples, got 0",
    ),
    "no micro-batch": (lambda here: an_engine(accumulate=0), "accumulate must be at least 1, got 0"),
    "an average that never moves": (lambda here: an_engine(ema=1.0), "decay lies in [0, 1), got 1.0"),
    "no seed": (lambda here: an_engine(seeds=()), "seeds lie between 0 and 2^32 - 1"),
    "parameters of another model": (
        lambda here: an_engine().init({"w": np.ones(4, np.float32)}),
        "the parameters to start from are of another model: w is float32[4] there, float32[3] here",
    ),
    "a validator without examples": (
        lambda here: validation.validator(lambda *_: None, BITS[:0]),
        "no examples to validate on",
    ),
    "checkpoints in a file": (
        lambda here: checkpoint.Checkpoints(here / "one.npy" / "x", {}),
        "cannot write to",
    ),
    "an unknown data set": (lambda here: data.load("imagenet"), "unknown data set 'imagenet'"),
    "a name near to a table's": (
        lambda here: pick({"mnist": 1}, "Mnist", "data set"),
        "did you mean 'mnist'?",
    ),
    "a length that is not known": (
        lambda here: TrainConfig().extent(),
        "use `resolved` with the number of examples",
    ),
}


def untrained():
    """A VAE before training, as `load` gives it."""
    recipe, spec = recipes.VAE(latent_dim=2, hidden=(4,)), bits().spec
    model = recipe.build(spec, {})
    return Fitted(recipe, spec, {}, model, TrainConfig(), (model.init(KEY),), 0, Path("."))


def test_a_bad_call_raises_one_line(here):
    wrong = []
    for name, (call, piece) in CALLS.items():
        try:
            call(here)
            found = "nothing was said"
        except ValueError as error:
            found = None if piece in str(error) and "\n" not in str(error) else str(error)
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        if found:
            wrong.append(f"{name}\n    expected {piece}\n    got {found}")
    assert not wrong, "\n".join(wrong)
