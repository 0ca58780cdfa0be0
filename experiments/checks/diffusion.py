"""Bits per dimension of diffusion models on 8-bit images for which nothing is published."""

from experiments.papers import kingma2021
from experiments.reproduce.readers import diffusion_run
from experiments.reproduce.registry import Row

SETTINGS = {
    **{"target": "levels", "width": 128, "depth": 3, "patch": 4, "batch_size": 32, "steps": 3800},
    **{"eval_samples": 2},
}
RECIPE = (
    "Log-odds of the levels, three blocks of 128 channels on patches of 4 x 4, 3,800 steps of 32 images, two "
    "draws of time and noise for each test image."
)
LESS_WORK = " About 0.05e15 operations; the published run took about 3e15."
TOO_SHORT = (
    "The smallest published VDM, another model, is at 1.109 (vdm-mnist-4x16). "
    "A quarter of the steps, along a cosine of its own, is worse by 0.069 +- 0.002 bits/dim on the same 2,000 test images, 0.034 "
    "for each doubling: the training is too short; at that pace 1.109 is three doublings away."
)
SIMPLE_CODE = "A table of four neighbours codes the same images in 3.441 bits/dim (`dlvm_jax.evaluate.baseline_code_lengths`)."


def _levels(name: str, data: str, title: str, recipe: str, remark: str) -> Row:
    return Row(
        name=f"levels-{name}",
        source="no paper: a model of this library",
        what=f"bits/dim, diffusion of levels, 8-bit {title} (a bound)",
        published=None,
        confirmed="nowhere for this model",
        recipe=recipe,
        run=diffusion_run(data=data, **SETTINGS),
        minutes=25,
        remark=remark,
        **kingma2021.SHARED,
    )


ROWS = [
    *(kingma2021.row("fashion", "fashion_mnist", "Fashion-MNIST", *size) for size in kingma2021.SIZES),
    _levels("mnist", "mnist", "MNIST", RECIPE + LESS_WORK, TOO_SHORT),
    _levels("fashion", "fashion_mnist", "Fashion-MNIST", RECIPE, SIMPLE_CODE),
]
