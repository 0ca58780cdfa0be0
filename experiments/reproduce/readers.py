"""Functions of rows: each carries out a script of this folder's parent in the row's folder and reads its result."""

import json

import numpy as np

from dlvm_jax.data import toys
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.diffusion import __main__ as diffusion
from experiments.diffusion import setup as diffusion_setup
from experiments.flow import __main__ as flow_density
from experiments.flow import energy as flow_energy
from experiments.flow import energy_setup as flow_energy_setup
from experiments.ppca import __main__ as ppca
from experiments.reproduce.registry import Measured, Row
from experiments.vae import __main__ as vae
from experiments.vae import setup as vae_setup

__all__ = [
    "EXPERIMENT",
    "details_of",
    "diffusion_run",
    "energy_run",
    "flow_run",
    "pace_row",
    "paired_run",
    "ppca_run",
    "vae_run",
]

EXPERIMENT = {  # of a row that explains another
    **{"source": "an experiment of ours", "published": None},
    "confirmed": "nowhere, as it is no paper's quantity",
}
QUICK = {"steps": 200}  # of a row that is only tried out


def details_of(folder):
    """Settings and cost of a run, from its folder."""
    read = lambda name: json.loads((folder / name).read_text())
    settings = {name: value for name, value in read("config.json").items() if name not in ("out", "resume")}
    if not (folder / "cost.json").exists():  # nothing was trained
        return {"settings": settings}
    log = RunFolder(folder)
    steps = log.metrics()[-1]["step"]  # fewer than planned where training stopped early
    return {"settings": settings, **read("cost.json"), "steps": steps, "training_seconds": log.seconds()}


def _run(script, config):
    """Result of a script's run, and its settings and cost."""
    result = common.carried_out(script, config)
    return result, details_of(config.out)


def _told(record, *names):
    """What a record says of how its likelihood was computed, and more of it by name."""
    return {name: record[name] for name in ("examples", "protocol", "protocol_hash", *names)}


def _log_likelihood(result, record):
    told = _told(record, "estimator", "samples", "elbo", "active_units")
    return record["log_likelihood"], record["standard_error"], told


def _elbo(result, record):
    return record["elbo"], record["elbo_standard_error"], _told(record, "samples") | {"estimator": "elbo"}


def _elbo_in_bits(result, record):
    """Minus the ELBO per dimension, in the units of the record's bits."""
    elbo, error, told = _elbo(result, record)
    bits_of_a_nat = record["bits_standard_error"] / record["standard_error"]
    value = record["bits_per_dim"] + (record["log_likelihood"] - elbo) * bits_of_a_nat
    return value, error * bits_of_a_nat, told


def _active_units(result, record):
    return record["active_units"], 0.0, _told(record)


def _annealing(result, record):
    """Of the first seed, the only one that is annealed."""
    gap, error, examples = result["annealed less importance-weighted"]
    return gap, error, _told(record, "samples") | {"estimator": "ais less iwae", "examples": examples}


QUANTITIES = {  # of a run of `experiments.vae`: (result, record of a seed) -> value, error over test examples, what to say of it
    "log_likelihood": _log_likelihood,
    "elbo": _elbo,
    "elbo_in_bits": _elbo_in_bits,
    "active_units": _active_units,
    "annealing": _annealing,
}


def _check_one_seed(settings):
    if len(seeds := settings.get("seeds", (0,))) > 1:
        raise ValueError(f"annealing and differences are read off one seed, got seeds {seeds}")


def vae_run(quantity="log_likelihood", **settings):
    """A quantity of a run of `experiments.vae` in the mean over seeds; the error is that of one seed, over test examples."""
    if quantity == "annealing":
        _check_one_seed(settings)

    def run(folder, quick):
        short = {**QUICK, "epochs": None, "patience": None, "eval_samples": 20, "eval_limit": 200}
        if settings.get("net") == "gated-conv":
            short |= {"steps": 5, "eval_limit": 20}
        if "ais" in settings:
            short |= {"ais": 10, "ais_limit": 5}
        config = vae_setup.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(vae, config)
        read = QUANTITIES[quantity]
        found, errors, told = zip(
            *(read(result, record) for record in result["records"].values()), strict=True
        )
        details = {"seeds": config.seeds, **told[0], **details}
        if len(found) > 1:
            details["deviation_over_seeds"] = float(np.std(found, ddof=1))
        return Measured(float(np.mean(found)), float(np.mean(errors)), details)

    return run


def paired_run(settings, other, name):
    """log p(x) of a run of `experiments.vae` less that of another, in the folder `name` within its own.

    The error is that of the paired difference over test examples.
    """
    _check_one_seed(settings)

    def run(folder, quick):
        first, second = vae_run(**settings)(folder, quick), vae_run(**other)(folder / name, quick)
        difference = np.load(folder / "nats.npy")[0] - np.load(folder / name / "nats.npy")[0]
        details = {k: v for k, v in first.details.items() if k not in ("elbo", "active_units")}
        return Measured(*common.paired(difference), {**details, name: second.details})

    return run


def pace_row(name, settings, minutes):
    """An experiment on the row of this name, whose run of `experiments.vae` has these settings: what longer training gains."""
    epochs = settings["epochs"] // 4
    fewer = {k: v for k, v in settings.items() if k not in ("ais", "ais_limit")} | {"epochs": epochs}
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


def ppca_run(latent, **settings):
    """Exact log p(x) of a run of `experiments.ppca`, which takes seconds."""

    def run(folder, quick):
        result, details = _run(ppca, ppca.Config(latent_dim=(latent,), out=folder, **settings))
        record = result["records"][str(latent)]
        told = {"seeds": [], **_told(record, "estimator"), **details}
        return Measured(record["log_likelihood"], record["standard_error"], told)

    return run


def _details(config, record, details, *names):
    return {"seeds": [config.seed], **_told(record, "estimator", *names), **details}


def _bits(config, record, details):
    """Bits per dimension of a record."""
    found = record["bits_per_dim"], record["bits_standard_error"]
    return Measured(*found, _details(config, record, details, "samples"))


def diffusion_run(**settings):
    """Bits per dimension of a run of `experiments.diffusion` on images; in the plane KL(data, model) in nats, by the ODE."""
    plane = settings["data"] in toys.TOYS

    def run(folder, quick):
        images = {"steps": 5, "warm_up": 1, "eval_limit": 20, "eval_samples": 1}
        short = QUICK | ({"ode_examples": 200} if plane else images)
        config = diffusion_setup.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(diffusion, config)
        if plane:
            record = result["record"] | {"estimator": "ode", "examples": config.ode_examples}
            return Measured(*result["KL(data, model) by ODE"], _details(config, record, details))
        return _bits(config, result["record"], details)

    return run


def flow_run(**settings):
    """Bits per dimension of a run of `experiments.flow` on images; in the plane KL(data, model) in nats, exact."""
    plane = settings["data"] in toys.TOYS

    def run(folder, quick):
        short = QUICK | ({} if plane else {"steps": 5, "eval_limit": 200})
        config = flow_density.Config(**settings | (short if quick else {}), out=folder)
        result, details = _run(flow_density, config)
        if plane:
            return Measured(*result["KL(data, model)"], _details(config, result["record"], details))
        return _bits(config, result["record"], details)

    return run


def energy_run(quantity, **settings):
    """Of a run of `experiments.flow.energy` "kl_known", in nats by the known log Z, or "effective" samples, percent."""

    def run(folder, quick):
        config = flow_energy_setup.Config(**settings | (QUICK if quick else {}), out=folder)
        result, details = _run(flow_energy, config)
        found, nothing = result["rows"].values()
        further = {"seeds": [config.seed], "samples": result["samples"], "of_the_base": nothing[quantity][0]}
        return Measured(*found[quantity], further | details)

    return run
