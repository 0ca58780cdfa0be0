"""The second stage: the codes of a trained VQ-VAE as a data set, an autoregressive prior of them, the VQ-VAE under it."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import data as datasets
from dlvm_jax import recipes, train
from dlvm_jax.data import Data
from dlvm_jax.models.vq_vae import vq_vae
from dlvm_jax.recipes.autoregressive import NETS
from dlvm_jax.train.fitted import Fitted

if TYPE_CHECKING:
    from experiments.vq_vae.__main__ import Config

__all__ = ["SecondStage", "codes_of", "fit_prior", "under"]

BLOCK, ENOUGH = 500, 10_000


class SecondStage(NamedTuple):
    """The codes of a trained VQ-VAE, and a trained prior of them."""

    codes: Data
    prior: Fitted


def codes_of(fitted: Fitted, data: Data, seed: int) -> Data:
    """The codes of all parts of the data as integer images, or vectors.

    Raises ValueError where all have one code.
    Training examples have a draw of their bits or noise; fewer than 10,000 are encoded several times, each time with a new one.
    """
    encode = jax.jit(lambda x: fitted.model.encode(fitted.params, x))

    @jax.jit
    def prepared(key, raw):
        return encode(data.preprocess(key, raw))

    def blocks(array):
        return [array[start : start + BLOCK] for start in range(0, len(array), BLOCK)]

    key = jax.random.fold_in(jax.random.key(seed), 2**31 + 2)
    raw = blocks(data.train) * max(1, ENOUGH // len(data.train))
    of_training = [
        np.asarray(prepared(jax.random.fold_in(key, number), jnp.asarray(block)))
        for number, block in enumerate(raw)
    ]
    train_codes = np.concatenate(of_training)
    if (train_codes == train_codes.flat[0]).all():
        raise ValueError(
            f"all training examples have code {train_codes.flat[0]} everywhere, so there is no prior to learn; train longer, "
            "or use quantiser='averages' with a restart above 0"
        )
    of_part = lambda part: np.concatenate(
        [np.asarray(encode(jnp.asarray(x, jnp.float32))) for x in blocks(part)]
    )
    return datasets.from_arrays(
        train_codes,
        valid=of_part(data.valid) if len(data.valid) else None,
        test=of_part(data.test),
        name=f"codes-of-{data.name}",
        levels=fitted.model.parts.quantiser.levels,
        source=f"codes of {data.name} {data.protocol.name} {data.protocol.hash}",
    )


def prior_recipe(config: "Config", data: Data) -> recipes.Autoregressive:
    """The recipe of the prior for codes: each has a probability of its own."""
    net = config.prior or ("pixelcnn" if len(data.spec.event_shape) == 3 else "made")
    if "width" in NETS[net].uses:
        sizes = {"width": config.prior_width, "depth": config.prior_depth}
    else:
        sizes = {"hidden": (config.prior_width,) * config.prior_depth}
    return recipes.Autoregressive(net=net, likelihood="categorical", **sizes)


def fit_prior(config: "Config", data: Data, fitted: Fitted) -> SecondStage:
    """Train the prior of the codes, in the folder `prior` of the run, with the first seed."""
    codes, out = codes_of(fitted, data, config.seeds[0]), fitted.folder / "prior"
    if _of_other_codes(out, codes):
        shutil.rmtree(out)  # the VQ-VAE was trained further
    prior = train.fit(
        prior_recipe(config, codes),
        codes,
        out=out,
        resume=config.resume and (out / "checkpoints").is_dir(),
        steps=config.prior_steps,
        batch_size=config.batch_size,
        seeds=config.seeds[:1],
    )
    return SecondStage(codes, prior)


def _of_other_codes(out: Path, codes: Data) -> bool:
    """Whether a run in a folder was trained on other codes."""
    about = out / "model.json"
    return (
        about.exists() and json.loads(about.read_text())["spec"]["protocol_hash"] != codes.spec.protocol_hash
    )


def under(fitted: Fitted, prior: Fitted) -> Fitted:
    """The VQ-VAE of the first seed under a trained prior of its codes.

    Raises ValueError for a prior of other levels.
    """
    parts = fitted.model.parts._replace(prior=prior.model.density)
    followed = parts.quantiser.follow is not None
    own = fitted.params[0] if followed else fitted.params
    own = {**own, "prior": prior.params}
    return dataclasses.replace(
        fitted,
        model=fitted.model._replace(density=vq_vae(parts), parts=parts),
        per_seed=((own, fitted.params[1]) if followed else own,),
    )
