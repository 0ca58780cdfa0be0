"""Normalizing flows on tori and spheres (Rezende et al. 2020, table 1 and figure 3)."""

from experiments.reproduce.readers import EXPERIMENT, energy_run
from experiments.reproduce.registry import Row
from experiments.tables.flow_energy import ROWS as RECIPES

SPHERE = {  # name: (row of the table of flows, published KL, published effective samples, tolerances, minutes)
    "moebius-spline": ("moebius-spline (1, 12, 32)", "0.05", "90", (0.01, 2.0), 1),
    "exponential-1-12": ("exponential (1, 12)", "0.82", "42", (0.02, 2.0), 1),
    "exponential-6-5": ("exponential (6, 5)", "0.19", "75", (0.01, 2.0), 4),
    "exponential-24-1": ("exponential (24, 1)", "0.10", "85", (0.01, 2.0), 10),
}
REMARKS = {
    "exponential-1-12": "At the same rate along a cosine five seeds gave 0.805 to 0.819 nats with 43.5 to 48.3 %, at 2e-3 and "
    "10,000 steps 0.779 to 0.795 nats with 39.3 to 46.6 %: the KL rewards less what the effective samples ask for.",
    **{
        name: f"The same flow reaches what was published, at 2e-3 along a cosine (sphere-{name}-cosine-kl, -effective): our "
        "training at the paper's rate falls short, from a start that the paper does not give."
        for name in ("exponential-6-5", "exponential-24-1")
    },
}
UNITS = {"kl_known": "KL(flow, target), nats", "effective": "effective samples, %"}
PAPER = {"learning_rate": 2e-4, "schedule": "constant", "steps": 20_000}
AT_OUR_RATE = {"exponential-6-5": 2, "exponential-24-1": 4}  # experiments on rows that miss: minutes


def _rows():
    for name, (label, kl, effective, tolerances, minutes) in SPHERE.items():
        for quantity, published, tolerance in zip(UNITS, (kl, effective), tolerances, strict=True):
            yield Row(
                name=f"sphere-{name}-{quantity.removesuffix('_known')}",
                source="Rezende et al. 2020, table 1",
                what=f"{UNITS[quantity]}, {label}, four modes on the sphere",
                published=published,
                confirmed="two public implementations that quote the table",
                better="lower" if quantity == "kl_known" else "higher",
                tolerance=tolerance,
                recipe="The modes with 5.0 for the paper's misprinted 0.5; 20,000 steps of 256 samples, Adam "
                "2e-4, as the paper; one seed.",
                evaluation="20,000 fresh samples, log Z in closed form.",
                run=energy_run(quantity, **(RECIPES[f"sphere modes, {label}"] | PAPER)),
                minutes=minutes,
                folder=f"sphere-{name}",
                remark=REMARKS.get(name, ""),
            )
    for name, minutes in AT_OUR_RATE.items():
        label = SPHERE[name][0]
        for quantity in UNITS:
            yield Row(
                name=f"sphere-{name}-cosine-{quantity.removesuffix('_known')}",
                what=f"{UNITS[quantity]}, {label}, four modes on the sphere, at 2e-3 along a cosine",
                better="lower" if quantity == "kl_known" else "higher",
                tolerance=0.01 if quantity == "kl_known" else 2.0,
                recipe=f"The row sphere-{name}-{quantity.removesuffix('_known')} with another rate; one seed.",
                evaluation="20,000 fresh samples, log Z in closed form.",
                run=energy_run(quantity, **(RECIPES[f"sphere modes, {label}"] | {"steps": 20_000})),
                minutes=minutes,
                folder=f"sphere-{name}-cosine",
                **EXPERIMENT,
            )
    for label, settings in RECIPES.items():
        if label.startswith("torus"):
            yield Row(
                name=label.replace(", ", "-").replace(" ", "-"),
                source="Rezende et al. 2020, table of the torus",
                what=f"{UNITS['kl_known']}, {label}",
                published=None,
                confirmed="nowhere: the table is in no source that we trust",
                better="lower",
                tolerance=0.003,
                recipe="One autoregressive layer, 12 components or bins; 10,000 steps of 256 samples, Adam 2e-3 along a cosine "
                "(the paper: 20,000 steps, 2e-4); one seed.",
                evaluation="20,000 fresh samples, log Z in closed form.",
                run=energy_run("kl_known", **settings),
                minutes=1,
            )


ROWS = list(_rows())
