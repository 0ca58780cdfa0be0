"""Quantities of VAEs for which no published value is known for certain."""

from experiments.papers import burda2016, davidson2018
from experiments.papers.burda2016 import SHORT, Cell
from experiments.reproduce.readers import paired_run, vae_run
from experiments.reproduce.registry import Row

DREG = "Tucker et al. 2019 (DReG)"
ANOTHER = "with 100 latent units, a training of its own and one draw of the bits an epoch"
DREG_RERUN = [  # cell, log p(x) by a public implementation, minutes of ours
    (Cell(1, "dreg", 5, SHORT), "-84.90", 75),
    (Cell(1, "dreg", 50, SHORT), "-84.32", None),
]
HUNDRED = SHORT._replace(settings={**SHORT.settings, "epochs": 100, "eval_samples": 500})
QUADRANTS_RERUN = {1: 71.8, 2: 51.0, 3: 24.2}

ACTIVE_UNITS = [
    Row(
        name=f"{cell.name}-units",
        source=burda2016.TABLE,
        what=f"active units, {cell.title}",
        published=None,
        confirmed="nowhere yet",
        tolerance=2,
        evaluation="Units whose posterior mean has a variance above 0.01 over the test images, of all layers.",
        run=vae_run("active_units", **burda2016.settings(*cell)),
        **cell.run,
    )
    for cell in burda2016.CELLS
]
DOUBLY_REPARAMETERISED = [
    Row(
        name=cell.name,
        source=DREG,
        what=f"log p(x), nats, {cell.title}",
        published=None,
        confirmed="nowhere for this network",
        tolerance=0.3,
        evaluation=burda2016.EVALUATION,
        run=vae_run(**burda2016.settings(*cell)),
        remark=f"A public rerun has {rerun}, {ANOTHER}.",
        **cell.run | {"minutes": minutes, "cost": "" if minutes else burda2016.cost(1, 238_400, 2.0e15)},
    )
    for cell, rerun, minutes in DREG_RERUN
]
DIFFERENCES = [
    Row(
        name="dreg-over-iwae-5-mnist",
        source=DREG,
        what="log p(x) with DReG less that with IWAE, k = 5, nats",
        published=None,
        confirmed="nowhere for this network",
        better="higher",
        tolerance=0.2,
        recipe="The rows dreg-5-mnist and iwae-5-mnist with 100 epochs; one seed.",
        evaluation="Importance weighting, K = 500, the same test images.",
        run=paired_run(
            burda2016.settings(1, "dreg", 5, HUNDRED),
            burda2016.settings(1, "iwae", 5, HUNDRED),
            "iwae-5-mnist-100-epochs",
        ),
        minutes=30,
        folder="dreg-5-mnist-100-epochs",
        remark=f"A public rerun has 0.28 (-84.90 and -85.18), {ANOTHER}.",
    ),
    Row(
        name="ais-gap-mnist",
        source="Wu, Burda, Salakhutdinov, Grosse 2017 (their decoder, another one, has 1.22)",
        what="log p(x) by annealing less that by importance weighting, nats",
        published=None,
        confirmed="nowhere for this decoder",
        better="higher",
        tolerance=0.1,
        recipe="The model of the row vae-1-mnist.",
        evaluation="16 chains of 1,000 temperatures against K = 5000, the first 50 test images.",
        run=vae_run("annealing", **burda2016.settings(1, "vae", 1, SHORT)),
        minutes=41,
        folder="vae-1-mnist",
    ),
]
QUADRANTS = [
    Row(
        name=f"cvae-quadrants-{given}",
        source="Sohn, Lee, Yan 2015, table 1",
        what=f"log p(rest | {given} quadrant{'s' if given > 1 else ''}), nats, MNIST",
        published=None,
        confirmed="nowhere: the paper's own values are in no source that we trust",
        better="higher",
        tolerance=1.0,
        recipe="Latent dimension 200, layers 500-500; 30 epochs along a cosine with an average of the parameters.",
        evaluation="Importance weighting, K = 100, of dynamically binarised test images.",
        remark=f"A public rerun of the paper has {value}, another quantity: minus an ELBO whose targets are grey levels, "
        "which is no likelihood of any data.",
        run=vae_run(
            data="mnist",
            condition=f"quadrants-{given}",
            latent_dim=200,
            hidden=(500, 500),
            prior="learned",
            epochs=30,
            schedule="cosine",
            ema=0.999,
            eval_samples=100,
        ),
        minutes=25,
    )
    for given, value in QUADRANTS_RERUN.items()
]
SPACES = [davidson2018.row("plane", 10), davidson2018.row("sphere", 20)]

ROWS = [*ACTIVE_UNITS, *DOUBLY_REPARAMETERISED, *DIFFERENCES, *SPACES, *QUADRANTS]
