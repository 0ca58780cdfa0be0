"""Functions of rows: each carries out a script of this folder's parent in the row's folder and reads its result."""

import json
import math
import shutil

import numpy as np

from dlvm_jax.data import toys
from dlvm_jax.train.run import RunFolder
from experiments import (
    common,
    diffusion,
    diffusion_setup,
    flow_density,
    flow_energy,
    flow_energy_setup,
    ppca,
    vae,
    vae_setup,
)
from experiments.papers.registry import Measured

__all__ = ["details_of", "diffusion_run", "energy_run", "flow_run", "paired_run", "ppca_run", "vae_run"]

QUICK = {"steps": 200}  # of a row that is only tried out


def details_of(folder):
    """Settings and cost of a run, from its folder."""
    read = lambda name: json.loads((folder / name).read_text())  # noqa: E731
    settings = {name: value for name, value in read("config.json").items() if name not in ("out", "resume")}
    if not (folder / "cost.json").exists():  # nothing was trained
        return {"settings": settings}
    return {"settings": settings, **read("cost.json"), "training_seconds": RunFolder(folder).seconds()}


def _run(script, config, record_of=lambda result: {}):
    """Result of a script's run, and what a record says of it besides its value."""
    result = common.carried_out(script, config)
    names = ("estimator", "samples", "examples", "protocol", "protocol_hash", "elbo", "active_units")
    told = {name: value for name, value in record_of(result).items() if name in names}
    return result, {**told, **details_of(config.out)}


def _bits(record):
    """Bits per dimension of a record, and their standard error."""
    return record["bits_per_dim"], record["bits_standard_error"]


def _elbo_in_bits(record):
    """Minus the ELBO per dimension, in the units of the record's bits."""
    bits_of_a_nat = record["bits_standard_error"] / record["standard_error"]
    gap = record["log_likelihood"] - record["elbo"]
    return record["bits_per_dim"] + gap * bits_of_a_nat, record["elbo_standard_error"] * bits_of_a_nat


QUANTITIES = {  # of a run of `experiments.vae`: result, and the record of a seed -> (value, standard error over test examples)
    "log_likelihood": lambda result, record: (record["log_likelihood"], record["standard_error"]),
    "elbo": lambda result, record: (record["elbo"], record["elbo_standard_error"]),
    "elbo_in_bits": lambda result, record: _elbo_in_bits(record),
    "active_units": lambda result, record: (record["active_units"], math.nan),
    # of the first seed
    "annealing": lambda result, record: result["annealed less importance-weighted"],
}


def vae_run(quantity="log_likelihood", **settings):
    """A quantity of a run of `experiments.vae` in the mean over seeds; the error is that of one seed, over test examples."""

    def run(folder, quick):
        short = {**QUICK, "epochs": None, "patience": None, "eval_samples": 20, "eval_limit": 200}
        if settings.get("net") == "conv":
            short |= {"steps": 10, "eval_limit": 20}
        if "ais" in settings:
            short |= {"ais": 10, "ais_limit": 5}
        config = vae_setup.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(vae, config, lambda result: next(iter(result["records"].values())))
        read = QUANTITIES[quantity]
        found, errors = zip(*(read(result, record) for record in result["records"].values()), strict=True)
        if len(found) > 1:
            details["deviation_over_seeds"] = float(np.std(found, ddof=1))
        return Measured(float(np.mean(found)), float(np.mean(errors)), {"seeds": config.seeds, **details})

    return run


def paired_run(settings, other, name):
    """log p(x) of a run of `experiments.vae` less that of another, in the folder `name` beside.

    The error is that of the paired difference over test examples.
    """

    def run(folder, quick):
        beside = folder.with_name(f"{name}-quick" if quick else name)
        if quick:
            shutil.rmtree(beside, ignore_errors=True)
        found = vae_run(**settings)(folder, quick)
        vae_run(**other)(beside, quick)
        difference = np.load(folder / "nats.npy")[0] - np.load(beside / "nats.npy")[0]
        return Measured(*common.paired(difference), found.details)

    return run


def ppca_run(latent, **settings):
    """Exact log p(x) of a run of `experiments.ppca`, which takes seconds."""

    def run(folder, quick):
        result, details = _run(
            ppca,
            ppca.Config(latent_dim=(latent,), out=folder, **settings),
            lambda result: result["records"][str(latent)],
        )
        record = result["records"][str(latent)]
        return Measured(record["log_likelihood"], record["standard_error"], {"seeds": [], **details})

    return run


def diffusion_run(**settings):
    """Bits per dimension of a run of `experiments.diffusion` on images; in the plane KL(data, model) in nats, by the ODE."""
    plane = settings["data"] in toys.TOYS

    def run(folder, quick):
        images = {"steps": 5, "warm_up": 1, "eval_limit": 20, "eval_samples": 1}
        short = QUICK | ({"ode_examples": 200} if plane else images)
        config = diffusion_setup.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(diffusion, config, lambda result: result["record"])
        found = result["KL(data, model) by ODE"] if plane else _bits(result["record"])
        return Measured(*found, {"seeds": [config.seed], **details})

    return run


def flow_run(**settings):
    """Bits per dimension of a run of `experiments.flow_density` on images; in the plane KL(data, model) in nats, exact."""
    plane = settings["data"] in toys.TOYS

    def run(folder, quick):
        short = QUICK | ({} if plane else {"steps": 5, "eval_limit": 200})
        config = flow_density.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(flow_density, config, lambda result: result["record"])
        found = result["KL(data, model)"] if plane else _bits(result["record"])
        return Measured(*found, {"seeds": [config.seed], **details})

    return run


def energy_run(quantity, **settings):
    """A quantity ("kl" in nats, "effective" samples in percent) of a run of `experiments.flow_energy`."""

    def run(folder, quick):
        config = flow_energy_setup.Config(**settings | (QUICK if quick else {}), out=folder)
        result, details = _run(flow_energy, config)
        found, nothing = result["rows"].values()
        further = {"seeds": [config.seed], "samples": result["samples"], "of_the_base": nothing[quantity][0]}
        return Measured(*found[quantity], further | details)

    return run
