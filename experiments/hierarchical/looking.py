"""Pictures of what the layers of a hierarchical VAE encode; of a conditional one under given contexts."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.evaluate import pictures
from dlvm_jax.models.latents import Latents
from dlvm_jax.models.objectives import unpack
from dlvm_jax.models.top_down import TopDown

__all__ = ["interpolations", "kept_layers", "rates", "temperatures", "walk"]

LEVELS = (1.0, 0.9, 0.8, 0.6, 0.4, 0.0)
STEPS, STEP = (
    60,
    0.15,
)  # of a random walk, and how far a step goes: the old point has a weight of sqrt(1 - STEP^2)


def _shown(layers: int, most: int = 8) -> list[int]:
    """Some of the layers, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(1, layers, min(layers, most))})


def temperatures(
    path: Path,
    model: TopDown,
    params: Any,
    key: jax.Array,
    scale: float,
    context: Any = None,
    columns: int = 10,
) -> None:
    """Means of p(x|z) of latents drawn at several temperatures, with the same noise, and context, in each column.

    A top prior that is no Gaussian stays at temperature 1.
    """
    noise = model.noise(key, columns)
    rows = []
    for t in LEVELS:
        top = model.draw_top(params, key, columns, t if model.top_normal else 1.0, context)
        rows.append(model.decode(params, Latents(top, noise.groups), noise, 1, t, context)[0])
    pictures.grid(
        path,
        np.concatenate(rows) / scale,
        columns,
        "samples at a temperature",
        beside=[f"t = {t:g}" for t in LEVELS],
    )


def kept_layers(
    path: Path, model: TopDown, params: Any, examples: Any, key: jax.Array, t: float, scale: float
) -> None:
    """Test images, and below them what is left of each when its first k layers are kept and the others drawn anew.

    examples: x, or (x, context)
    """
    key_z, key_noise = jax.random.split(key)
    x, context = unpack(examples)
    latents, noise = model.infer(params, key_z, examples), model.noise(key_noise, len(x))
    kept = _shown(model.layers)[::-1]
    rows = [np.asarray(x)] + [model.decode(params, latents, noise, keep, t, context)[0] for keep in kept]
    title = f"the first k of {model.layers} layers kept, the others drawn at temperature {t:g}"
    pictures.grid(
        path, np.concatenate(rows) / scale, len(x), title, beside=["x", *(f"k = {k}" for k in kept)]
    )


def interpolations(
    path: Path, model: TopDown, params: Any, examples: Any, key: jax.Array, scale: float
) -> None:
    """From one test image to another, in the first k layers alone: a row for each k, the layers below those of the first image.

    The values of the posterior move on a straight line; the context stays that of the first image.
    examples: two of x, or of (x, context)
    """
    latents = model.infer(params, key, examples)
    share = jnp.linspace(0, 1, 8)
    first = jax.tree.map(lambda c: jnp.repeat(c[:1], len(share), axis=0), unpack(examples)[1])
    kept = _shown(model.layers)
    number = [1, *np.cumsum([1, *(len(group) for group in latents.groups)])]
    rows = []
    for k in kept:

        def mixed(values, first, k=k):
            """Values [count, 2, ...] of the layers from `first` on, those up to k on the line between both images."""
            moves = (first + jnp.arange(len(values)) <= k).reshape(-1, 1, *[1] * (values.ndim - 2))
            s = share.reshape(1, -1, *[1] * (values.ndim - 2))
            return jnp.where(moves, (1 - s) * values[:, :1] + s * values[:, 1:2], values[:, :1])

        groups = tuple(
            mixed(group, 1 + start) for group, start in zip(latents.groups, number[1:], strict=False)
        )
        rows.append(model.decode(params, Latents(mixed(latents.top[None], 1)[0], groups), context=first)[0])
    pictures.grid(
        path,
        np.concatenate(rows) / scale,
        len(share),
        "between two test images, in the first k layers alone",
        beside=[f"k = {k}" for k in kept],
    )


def walk(
    root: Path,
    model: TopDown,
    params: Any,
    key: jax.Array,
    t: float,
    scale: float,
    context: Any = None,
    count: int = 8,
) -> list[str]:
    """A random walk of all layers at a temperature: walk.gif, and walk.png with every sixth frame.

    The noise of each layer moves by e' = sqrt(1 - s^2) e + s n, which leaves N(0, I) as it is; where the top prior is no
    Gaussian its draw stays.
    """
    keys = jax.random.split(key, STEPS + 1)
    start, drawn = model.noise(keys[0], count), model.draw_top(params, keys[0], count, context=context)

    def step(noise, key):
        noise = jax.tree.map(
            lambda e, n: jnp.sqrt(1 - STEP**2) * e + STEP * n, noise, model.noise(key, count)
        )
        top = drawn
        if model.top_normal:
            mean, log_std = model.top_normal(params, context)
            top = mean + t * jnp.exp(log_std) * noise.top
        return noise, model.decode(params, Latents(top, noise.groups), noise, 1, t, context)[0]

    _, frames = jax.jit(lambda noise: jax.lax.scan(step, noise, keys[1:]))(start)
    frames = np.asarray(frames) / scale
    pictures.film(root / "walk.gif", frames, count)
    strip = frames[::6].swapaxes(0, 1)
    title = f"a random walk in latent space at temperature {t:g}, from left to right"
    pictures.grid(root / "walk.png", strip.reshape(-1, *strip.shape[2:]), strip.shape[1], title)
    return ["walk"]


def rates(path: Path, values: np.ndarray) -> None:
    """The KL of each layer in nats as bars; values [L]."""
    figure = pictures.new_figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(np.arange(1, len(values) + 1), values)
    axes.set(
        xlabel="layer, from the top", ylabel="rate, nats", title="what each layer carries: E[log q - log p]"
    )
    figure.savefig(path)
