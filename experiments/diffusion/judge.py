"""How many samples look like data: a classifier that is trained on the labelled images says how sure it is of each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax import train
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.autoencoder.classifier import Classifier

if TYPE_CHECKING:
    from experiments.diffusion.__main__ import Config

__all__ = ["CONFIDENT", "judged", "lines", "shares"]

CONFIDENT = 0.9  # probability of a class above which the classifier is sure
RECIPE = Classifier(net="conv", hidden=(32, 64), latent_dim=64)


def shares(probabilities: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """Of class probabilities [N, classes]: the share that is confident, and the share whose largest is the label's."""
    found = {"count": len(probabilities), "confident": float((probabilities.max(1) > CONFIDENT).mean())}
    return (
        found
        if labels is None
        else found | {"as labelled": float((probabilities.argmax(1) == labels).mean())}
    )


def judged(config: "Config", fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Shares of `config.classify` samples, and of all test images; the classifier lies in the run's folder."""
    data = common.load_data(config, RECIPE)
    root, count = folder.root / "classifier", config.classify
    settings = {"epochs": 5, "learning_rate": 1e-3, "seeds": (config.seeds[0],)}
    judge = train.fit(RECIPE, data, out=root, resume=root.exists(), **settings)
    classes = fitted.model.parts.classes
    labels = None if classes is None else np.arange(count) % classes
    draw = jax.jit(
        lambda params, key: fitted.model.density.sample(params, key, labels, (1,) if classes else (count,))[0]
    )
    samples = np.asarray(draw(fitted.params, jax.random.key(config.seeds[0]))).reshape(
        count, *fitted.spec.event_shape
    )
    top = fitted.spec.levels - 1 if fitted.spec.discrete else 1

    @jax.jit
    def probabilities(x):
        return jax.nn.softmax(judge.model.parts.logits(judge.params, x))

    of = lambda x, labels: shares(
        np.concatenate([probabilities(x[i : i + 500]) for i in range(0, len(x), 500)]), labels
    )
    return {
        "samples": of(jnp.asarray(samples / top, jnp.float32), labels),
        "test images": of(np.asarray(data.test, np.float32), data.test_labels),
    }


def lines(found: Mapping[str, Any]) -> str:
    """The table of the report."""
    rows = ""
    for name in ("samples", "test images"):
        share, right = found[name]["confident"], found[name].get("as labelled")
        count = found[name]["count"]
        error = (share * (1 - share) / count) ** 0.5
        rows += (
            f"| {count} {name} | {share:.3f} ± {error:.3f} | {'-' if right is None else f'{right:.3f}'} |\n"
        )
    return f"""A classifier of the training images, of how many it is sure (probability above {CONFIDENT}):

| | sure | class as labelled |
|---|---|---|
{rows}
"""
