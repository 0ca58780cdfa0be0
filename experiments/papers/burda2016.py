"""Importance-weighted autoencoders (Burda, Grosse, Salakhutdinov 2016, table 1) on MNIST."""

from typing import Any, NamedTuple

from experiments.reproduce.readers import vae_run
from experiments.reproduce.registry import Row

TABLE = "Burda, Grosse, Salakhutdinov 2016, table 1"
PUBLISHED = {  # (layers, objective, k): log p(x)
    (1, "vae", 1): "-86.76",
    (1, "vae", 5): "-86.47",
    (1, "vae", 50): "-86.35",
    (1, "iwae", 5): "-85.54",
    (1, "iwae", 50): "-84.78",
    (2, "vae", 1): "-85.33",
    (2, "vae", 5): "-85.01",
    (2, "vae", 50): "-84.78",
    (2, "iwae", 5): "-83.89",
    (2, "iwae", 50): "-82.90",
}
MINUTES = {(1, "vae", 1): 40, (1, "iwae", 5): 60, (2, "vae", 1): 40}  # of the cells that are trained shorter
EVALUATION = "Importance weighting, K = 5000, as the paper."
REMARKS = {
    "vae-1-mnist": "A quarter of the epochs is worse by 2.18 +- 0.04 nats (vae-1-mnist-pace), 1.09 for each doubling; at that "
    "pace -86.76 is a little more than one doubling away, and the paper's training is five. The paper's "
    "networks change 100 epochs by +0.03 +- 0.04 (vae-1-mnist-tanh).",
    "iwae-5-mnist": "A quarter of the epochs is worse by 1.93 +- 0.03 nats (iwae-5-mnist-pace), 0.96 for each doubling: the "
    "training is too short; at that pace -85.54 is one doubling away, and the paper's training is five.",
    "vae-1-mnist-2-layers": "A quarter of the epochs is worse by 2.37 +- 0.05 nats (vae-1-mnist-2-layers-pace), 1.19 for each "
    "doubling; at that pace -85.33 is three doublings away, and the paper's training is five. A warm-up of the KL "
    "changes 100 epochs by -0.05 +- 0.08 (vae-1-mnist-2-layers-warm-up).",
}


class Training(NamedTuple):
    """A way to train the networks: its settings, what a row says of them, and what its rows' names end with."""

    settings: dict[str, Any]
    recipe: str
    suffix: str


SHORT = Training(
    {"batch_size": 100, "epochs": 400, "schedule": "cosine", "ema": 0.999, "eval_every": 1000},
    "400 epochs of shuffled batches of 100, Adam 1e-3 along a cosine and an average of the parameters, networks of ReLU (the "
    "paper: 3,280 epochs of batches of 20, eight stages, tanh); one seed.",
    "",
)
ORIGINAL = Training(
    {
        **{
            "batch_size": 20,
            "epochs": 3280,
            "schedule": "stages",
            "optimiser": "adam-burda",
            "shuffle": False,
        },
        **{"net": "tanh", "start_at_mean": True, "eval_every": 50_000},
    },
    "As in the paper and its code: networks of tanh, Glorot's weights, the decoder's bias from the means, 3,280 epochs of "
    "batches of 20 in the order of the file, eight stages of Adam with beta1 = 0.99, epsilon = 1e-4, second moments that start "
    "at one and gradients summed over the batch; one seed. Mean and deviation of z come from one layer, whose Glorot's weights "
    "are 9 to 18 % smaller than those of two, and the best of 196 validations on the 400 images held out is evaluated, not the "
    "last. "
    "For a GPU.",
    "-original",
)
ORIGINAL_COST = {  # (layers, k): floating-point operations in matrix products of the original training
    **{(1, 1): 4.4e14, (1, 5): 1.4e15, (1, 50): 1.2e16},
    **{(2, 1): 5.5e14, (2, 5): 1.9e15, (2, 50): 1.7e16},
}


class Cell(NamedTuple):
    """A cell of the table, and how it is trained."""

    layers: int
    objective: str
    samples: int
    training: Training

    @property
    def name(self) -> str:
        """Of its row."""
        return (
            f"{self.objective}-{self.samples}-mnist{'-2-layers' * (self.layers == 2)}{self.training.suffix}"
        )

    @property
    def title(self) -> str:
        """The cell in words."""
        depth = ("one layer", "two layers")[self.layers - 1]
        return f"{self.objective.upper()}, k = {self.samples}, {depth}, dynamic MNIST"

    @property
    def run(self) -> dict[str, Any]:
        """What all rows of its run say of it."""
        cell, original = self[:3], self.training is ORIGINAL
        return {
            "better": "higher",
            "recipe": f"784-200-200-{'50' if self.layers == 1 else '100-100-100-50'}; {self.training.recipe}",
            "folder": self.name,
            "minutes": None if original else MINUTES.get(cell),
            "cost": cost(self.layers, 9_774_400, ORIGINAL_COST[self.layers, self.samples])
            if original
            else "",
        }


def settings(layers: int, objective: str, samples: int, training: Training) -> dict[str, Any]:
    """Of a cell's run of `experiments.vae`."""
    parts = {"latent_dim": 50} if layers == 1 else {"latent_dim": 100, "layers": 2, "inference": "bottom-up"}
    if objective != "vae":
        parts |= {"objective": objective, "samples": samples}
    elif samples > 1:  # the ELBO of several samples is Renyi's bound of order 1
        parts |= {"objective": "renyi", "alpha": 1.0, "samples": samples}
    if (objective, samples) == ("vae", 1) and training is ORIGINAL:
        parts |= {"kl": "sampled"}
    elif (layers, objective, samples) == (1, "vae", 1):
        parts |= {"ais": 1000, "ais_limit": 50}
    shared = {"data": "mnist", "protocol": "dynamic-burda", "hidden": (200, 200), "eval_samples": 5000}
    return shared | parts | training.settings


def cost(layers: int, steps: int, operations: float) -> str:
    """Of a run that nobody has waited for."""
    parameters = (425_284, 521_084)[layers - 1]
    return f"{parameters:,} parameters, {steps:,} steps, {operations:.1e} operations in products"


CELLS = [Cell(*cell, SHORT) for cell in MINUTES] + [Cell(*cell, ORIGINAL) for cell in PUBLISHED]

ROWS = [
    Row(
        name=cell.name,
        source=TABLE,
        what=f"log p(x), nats, {cell.title}",
        published=PUBLISHED[cell[:3]],
        confirmed="a public implementation that quotes the table",
        tolerance=0.3,
        evaluation=EVALUATION,
        run=vae_run(**settings(*cell)),
        remark=REMARKS.get(cell.name, ""),
        **cell.run,
    )
    for cell in CELLS
]
