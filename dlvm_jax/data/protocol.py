"""Named protocols: how a set is split, and what the model sees of a pixel.

The "MNIST log-likelihood" of the literature is several data sets; a number is comparable only under the same protocol.
Grey values used as soft Bernoulli labels are not offered: the cross-entropy is then no likelihood of any data, and is lower
by many nats.
"""

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.functional.flows import image

__all__ = ["PROTOCOLS", "REALS", "TRANSFORMS", "Protocol", "Transform"]


class Protocol(NamedTuple):
    """A split and a transformation.

    sizes: (train, valid, test)
    transform: a name in `TRANSFORMS`, or "none" of reals that are left as they are
    seed: of the fixed draws of validation and test data
    description: for people
    source: who split the data so, or whose they are
    shuffle: seed of the permutation before splitting, None for the published order
    hash: twelve hexadecimal digits over the raw arrays and all of this but the description; empty until the data are loaded
    """

    name: str
    sizes: tuple[int, int, int]
    transform: str
    seed: int
    description: str
    source: str
    shuffle: int | None = None
    hash: str = ""

    def with_hash(self, arrays_digest: str) -> "Protocol":
        """This protocol with its hash for arrays of the given SHA-256."""
        fields = json.dumps([*self._replace(hash="", description=""), arrays_digest])
        return self._replace(hash=hashlib.sha256(fields.encode()).hexdigest()[:12])


class Transform(NamedTuple):
    """What becomes of raw levels 0..L-1.

    train: (levels) -> (key, raw) -> float32 array, pure JAX
    fixed: (levels, rng, raw) -> array, drawn once with numpy
    levels, bin_width: (L) -> number of values of a pixel afterwards, and their distance
    discrete: whether the values are integers that a probability mass function can score
    """

    train: Callable[[int], Callable[[jax.Array, jax.Array], jax.Array]]
    fixed: Callable[[int, np.random.RandomState, np.ndarray], np.ndarray]
    levels: Callable[[int], int]
    bin_width: Callable[[int], float]
    discrete: bool


def _as_float(levels):
    return lambda key, raw: raw.astype(jnp.float32)


def _bits(levels):
    return lambda key, raw: jax.random.bernoulli(key, raw / (levels - 1.0)).astype(jnp.float32)


def _dequantise(levels):
    return lambda key, raw: image.dequantise(key, raw.astype(jnp.float32), levels, event_ndim=0)[0]


def _fixed_bits(levels, rng, raw):
    return (rng.random_sample(raw.shape) < raw / (levels - 1.0)).astype(np.uint8)


def _fixed_dequantise(levels, rng, raw):
    steps = image.noise_steps(levels)
    step = rng.randint(0, steps, raw.shape, np.uint16)
    return (raw + (step + np.float32(0.5)) / np.float32(steps)) / np.float32(levels)


TRANSFORMS = {
    "bits": Transform(_as_float, lambda levels, rng, raw: raw, lambda levels: 2, lambda levels: 1.0, True),
    "binarised": Transform(_bits, _fixed_bits, lambda levels: 2, lambda levels: 1.0, True),
    "levels": Transform(
        _as_float, lambda levels, rng, raw: raw, lambda levels: levels, lambda levels: 1.0, True
    ),
    "dequantised": Transform(
        _dequantise, _fixed_dequantise, lambda levels: levels, lambda levels: 1 / levels, False
    ),
    "scaled": Transform(
        lambda levels: lambda key, raw: raw / jnp.float32(levels - 1),
        lambda levels, rng, raw: raw / np.float32(levels - 1),
        lambda levels: levels,
        lambda levels: 1 / (levels - 1),
        False,
    ),
}

# Floating-point numbers stay what they are.
REALS = Transform(_as_float, lambda levels, rng, raw: raw, lambda levels: 0, lambda levels: 1.0, False)


def _common(sizes, source, shuffle=None):
    """The protocols every set of grey levels has."""
    counts = "/".join(map(str, sizes))
    return (
        Protocol("levels", sizes, "levels", 0, f"{counts}, integer grey levels", source, shuffle),
        Protocol(
            "dequantised",
            sizes,
            "dequantised",
            777,
            f"{counts}, (level + u) / levels; fixed u for validation and test",
            source,
            shuffle,
        ),
        Protocol(
            "scaled",
            sizes,
            "scaled",
            0,
            f"{counts}, grey scaled to [0, 1]: no likelihood of discrete data",
            source,
            shuffle,
        ),
    )


def _dynamic(name, sizes, seed, source, more="", shuffle=None):
    counts = "/".join(map(str, sizes))
    text = f"{counts}, new bits Bernoulli(grey) for each minibatch, validation and test bits drawn once (seed {seed}){more}"
    return Protocol(name, sizes, "binarised", seed, text, source, shuffle)


_MNIST = (
    _dynamic("dynamic-tomczak", (50000, 10000, 10000), 777, "Tomczak & Welling 2018"),
    _dynamic("dynamic-burda", (59600, 400, 10000), 123, "Burda, Grosse, Salakhutdinov 2016"),
    _dynamic(
        "dynamic-davidson",
        (60000, 0, 10000),
        1,
        "Davidson et al. 2018",
        "; they redraw the test bits at each evaluation",
    ),
    *_common((50000, 10000, 10000), "Tomczak & Welling 2018"),
)

PROTOCOLS = {  # the first of each set is its default
    "digits": (
        _dynamic("dynamic", (1000, 350, 447), 777, "Tomczak 2022"),
        *_common((1000, 350, 447), "Tomczak 2022"),
    ),
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "binarized_mnist": (
        Protocol(
            "static",
            (50000, 10000, 10000),
            "bits",
            0,
            "50000/10000/10000, bits as published",
            "Larochelle & Murray 2011",
        ),
    ),
    "omniglot": (
        _dynamic("dynamic", (17352, 1928, 13180), 777, "this library", "; 28 x 28 by area", 777),
        *_common((17352, 1928, 13180), "this library", 777),
    ),
    "freyfaces": _common((1565, 200, 200), "van den Berg et al. 2018", 123),
    "olivetti": _common((320, 40, 40), "this library", 777),
    "cifar10": tuple(
        p._replace(
            description=f"{p.description}; where the files lack images, validation and test are what is there"
        )
        for p in _common((45000, 5000, 10000), "this library")
    ),
}
