"""The benchmark of simulation-based inference (Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021), by C2ST.

Its values are means over the ten observations of the authors' own results, main_paper.csv; those of gaussian_mixture are of their
gaussian_mixture_rerun.csv, since the paper's simulator was wrong for more than one parameter at a time.
"""

from typing import Any

from experiments.reproduce.readers import sbi_run
from experiments.reproduce.registry import Row

METHODS, BUDGETS = ("npe", "nle", "nre"), (1_000, 10_000)
ROUNDS = 10  # of the sequential methods
# Means of NPE, NLE, NRE, each from 1,000 and from 10,000 simulations.
PUBLISHED = {
    ("gaussian_linear", 1): "0.694 0.552 0.650 0.555 0.672 0.560",
    ("gaussian_linear_uniform", 1): "0.696 0.553 0.723 0.548 0.788 0.706",
    ("gaussian_mixture", 1): "0.716 0.615 0.740 0.723 0.777 0.748",
    ("two_moons", 1): "0.725 0.606 0.773 0.713 0.822 0.761",
    ("slcp", 1): "0.975 0.901 0.946 0.771 0.972 0.947",
    ("slcp_distractors", 1): "0.982 0.970 0.987 0.961 0.980 0.968",
    ("bernoulli_glm", 1): "0.863 0.678 0.740 0.605 0.899 0.812",
    ("bernoulli_glm_raw", 1): "0.900 0.765 0.870 0.939 0.915 0.834",
    ("sir", 1): "0.815 0.680 0.761 0.748 0.841 0.770",
    ("lotka_volterra", 1): "0.999 0.997 0.994 0.956 1.000 0.998",
    ("two_moons", ROUNDS): "0.643 0.554 0.657 0.571 0.651 0.582",
    ("slcp", ROUNDS): "0.965 0.845 0.921 0.713 0.968 0.917",
    ("lotka_volterra", ROUNDS): "0.990 0.953 0.909 0.738 0.971 0.848",
}


def published(task: str, method: str, simulations: int, rounds: int) -> str | None:
    """The mean C2ST as printed, None where there is none."""
    if (task, rounds) not in PUBLISHED or method not in METHODS or simulations not in BUDGETS:
        return None
    place = len(BUDGETS) * METHODS.index(method) + BUDGETS.index(simulations)
    return PUBLISHED[task, rounds].split()[place]


def settings(task: str, method: str, simulations: int, rounds: int) -> dict[str, Any]:
    """The settings of a cell, those of `experiments.sbi.cells`."""
    cell = {"task": task, "method": method, "simulations": simulations, "rounds": rounds, "calibrated": 20}
    cell |= {
        "batch_size": min(200, simulations // rounds // 2),
        "steps": 2000 if simulations <= 1000 else 4000,
    }
    return cell | ({"sampling": "mcmc"} if method in ("nle", "nre") else {})


LEARNED = {
    "npe": "Five spline couplings (there: five autoregressive spline layers) onto the prior's support",
    "nle": "Five spline couplings (there: masked autoregressive, affine); 50 chains of the no-U-turn sampler (slice sampling)",
    "nre": "A residual classifier of ten parameters, as there, which sees products of its inputs too; 50 chains of the no-U-turn "
    "sampler (slice sampling)",
}
SEQUENTIAL = {
    "npe": "ten rounds, each of draws of the truncated prior (there: of the posterior, by atoms)",
    "nle": "ten rounds of draws of the posterior, as there",
    "nre": "ten rounds of draws of the posterior, as there",
}


def row(task: str, method: str, simulations: int, rounds: int) -> Row:
    """One cell."""
    own, name = settings(task, method, simulations, rounds), "s" * (rounds > 1) + method
    steps, batch = own["steps"], own["batch_size"]
    times = f" in each of {rounds} rounds for each observation" * (rounds > 1)
    how = f"{SEQUENTIAL[method]}; " * (rounds > 1)
    return Row(
        name=f"{name}-{task.replace('_', '-')}-{simulations}",
        source="Lueckmann, Boelts, Greenberg, Goncalves, Macke 2021, figures of C2ST",
        what=f"C2ST, {name.upper()}, {task}, {simulations:,} simulations",
        published=published(task, method, simulations, rounds),
        confirmed="the authors' results, gaussian_mixture_rerun.csv"
        if task == "gaussian_mixture"
        else "the authors' results, main_paper.csv",
        better="lower",
        tolerance=0.02,
        recipe=f"{LEARNED[method]}; {how}networks of 64 units (there: 50), {steps:,} steps{times} of {batch} with Adam 1e-3 "
        "along a cosine, an average of the parameters; the best of a tenth of the simulations; one seed.",
        evaluation="The mean over the ten published observations, 10,000 draws each, by the published recipe.",
        run=sbi_run(**own),
        cost=f"{steps:,} steps{times}, then ten classifiers of five folds",
    )


ROWS = [
    row(task, method, simulations, rounds)
    for task, rounds in PUBLISHED
    for method in METHODS
    for simulations in BUDGETS
]
