"""Experiments on published results that are missed: what a longer training, or another setting, changes."""

from typing import Any

from experiments.checks.vaes import HUNDRED
from experiments.papers import burda2016, dinh2017, rezende2020, tomczak2018
from experiments.reproduce.readers import energy_run, flow_run, paired_run
from experiments.reproduce.registry import Row

EXPERIMENT = {
    **{"source": "an experiment of ours", "published": None},
    "confirmed": "nowhere, as it is no paper's quantity",
}
LONGER_BURDA = {(1, "vae", 1): 60, (1, "iwae", 5): 85, (2, "vae", 1): 65}  # minutes of both runs
LONGER_TOMCZAK = {(1, "mnist", "standard"): 40, (1, "mnist", "vamp"): 110}
CHANGED = {  # of 100 epochs of a VAE of so many layers: (layers, what is changed, settings, minutes)
    "vae-1-mnist-tanh": (
        *(1, "networks of tanh, Glorot's weights and the last bias from the means, as the paper's"),
        *({"net": "tanh", "start_at_mean": True}, 20),
    ),
    "vae-1-mnist-2-layers-warm-up": (2, "a warm-up of the KL over 50 epochs", {"beta_warm_up": 29_800}, 25),
}
AT_OUR_RATE = {"exponential-6-5": 2, "exponential-24-1": 4}  # minutes


def _without_annealing(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in ("ais", "ais_limit")}


def longer_training(name: str, settings: dict[str, Any], minutes: float) -> Row:
    """What the row of this name, a run of `experiments.vae` with these settings, gains on a quarter of its epochs."""
    epochs = settings["epochs"] // 4
    fewer = _without_annealing(settings) | {"epochs": epochs}
    return Row(
        name=f"{name}-pace",
        what=f"log p(x) of {name} less that of a quarter of its epochs, nats",
        better="higher",
        tolerance=0.1,
        recipe=f"The run of the row {name}, and another of {epochs} epochs along a cosine of their own; one seed.",
        evaluation=f"Importance weighting, K = {settings['eval_samples']}, the same test images.",
        run=paired_run(settings, fewer, f"{epochs}-epochs"),
        minutes=minutes,
        folder=name,
        **EXPERIMENT,
    )


def changed_setting(name: str, layers: int, change: str, changed: dict[str, Any], minutes: float) -> Row:
    """What 100 epochs of a VAE gain by a change of settings."""
    cell = burda2016.Cell(layers, "vae", 1, HUNDRED)
    settings = _without_annealing(burda2016.settings(*cell))
    return Row(
        name=name,
        what=f"log p(x) after 100 epochs with {change} less that without, nats",
        better="higher",
        tolerance=0.1,
        recipe=f"The row {cell.name} with 100 epochs, changed and not; one seed.",
        evaluation="Importance weighting, K = 500, the same test images.",
        run=paired_run(settings | changed, settings, "unchanged"),
        minutes=minutes,
        **EXPERIMENT,
    )


def shorter_flow(name: str, flow: dinh2017.Flow) -> Row:
    """A flow on MNIST after a quarter of its steps."""
    return Row(
        name=f"{name}-mnist-quarter",
        what=f"bits/dim of {name}-mnist after a quarter of its steps",
        recipe=f"The row {name}-mnist with 2,000 steps along a cosine of their own; one seed.",
        run=flow_run(**flow.settings | {"steps": 2000}),
        minutes=12,
        **EXPERIMENT,
        **dinh2017.SHARED,
    )


def at_our_rate(name: str, quantity: str, minutes: float) -> Row:
    """A flow on the sphere at the learning rate of our own table."""
    flow, (title, better) = rezende2020.FLOWS[name], rezende2020.QUANTITIES[quantity]
    return Row(
        name=f"sphere-{name}-cosine-{quantity}",
        what=f"{title}, {flow.label}, four modes on the sphere, at 2e-3 along a cosine",
        better=better,
        tolerance=flow.tolerances[quantity],
        recipe=f"The row sphere-{name}-{quantity} with another rate; one seed.",
        evaluation=rezende2020.EVALUATION,
        run=energy_run(quantity, **flow.settings | {"steps": 20_000}),
        minutes=minutes,
        folder=f"sphere-{name}-cosine",
        **EXPERIMENT,
    )


ROWS = [
    *(
        longer_training(cell.name, burda2016.settings(*cell), LONGER_BURDA[cell[:3]])
        for cell in burda2016.CELLS
        if cell.training is burda2016.SHORT
    ),
    *(
        longer_training(tomczak2018.name_of(*cell), tomczak2018.settings(*cell), minutes)
        for cell, minutes in LONGER_TOMCZAK.items()
    ),
    *(changed_setting(name, *change) for name, change in CHANGED.items()),
    *(shorter_flow(*flow) for flow in dinh2017.FLOWS.items()),
    *(
        at_our_rate(name, quantity, minutes)
        for name, minutes in AT_OUR_RATE.items()
        for quantity in rezende2020.QUANTITIES
    ),
]
