"""Flows on unnormalised densities for which no published value is known for certain."""

from experiments.papers import rezende2020
from experiments.reproduce.readers import energy_run
from experiments.reproduce.registry import Row
from experiments.tables.flow_energy import SETTINGS

KL = rezende2020.QUANTITIES["kl"].title

ROWS = [
    Row(
        name="planar-u1",
        source="Rezende & Mohamed 2015, figure 3",
        what=f"{KL}, 32 planar steps, U1",
        published=None,
        confirmed="nowhere: the paper shows pictures",
        better="lower",
        tolerance=0.02,
        recipe="Annealed over 10,000 of 20,000 steps of Adam (the paper: RMSprop); the base is a Gaussian that is trained.",
        evaluation="20,000 fresh samples, log Z by quadrature.",
        run=energy_run("kl", **SETTINGS["U1, planar K = 32"]),
        minutes=1,
    ),
    *(
        Row(
            name=label.replace(", ", "-").replace(" ", "-"),
            source="Rezende et al. 2020, table of the torus",
            what=f"{KL}, {label}",
            published=None,
            confirmed="nowhere: the table is in no source that we trust",
            better="lower",
            tolerance=0.003,
            recipe="One autoregressive layer, 12 components or bins; 10,000 steps of 256 samples, Adam 2e-3 along a cosine "
            "(the paper: 20,000 steps, 2e-4); one seed.",
            evaluation=rezende2020.EVALUATION,
            run=energy_run("kl", **settings),
            minutes=1,
        )
        for label, settings in SETTINGS.items()
        if label.startswith("torus")
    ),
]
