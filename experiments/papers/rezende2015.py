"""Variational inference with normalizing flows (Rezende & Mohamed 2015)."""

from experiments.reproduce.readers import energy_run
from experiments.reproduce.registry import Row
from experiments.tables.flow_energy import ROWS as RECIPES

ROWS = [
    Row(
        name="planar-u1",
        source="Rezende & Mohamed 2015, figure 3",
        what="KL(flow, target), nats, 32 planar steps, U1",
        published=None,
        confirmed="nowhere: the paper shows pictures",
        better="lower",
        tolerance=0.02,
        recipe="Annealed over 10,000 of 20,000 steps of Adam (the paper: RMSprop); the base is a Gaussian that is trained.",
        evaluation="20,000 fresh samples, log Z by quadrature.",
        run=energy_run("kl_known", **RECIPES["U1, planar K = 32"]),
        minutes=1,
    )
]
