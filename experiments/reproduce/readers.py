"""Functions of rows: each carries out a script of `experiments` in the row's folder and reads its result."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dlvm_jax.data import toys
from dlvm_jax.evaluate import paired
from dlvm_jax.train.run import RunFolder
from experiments import run as common
from experiments.reproduce.registry import Measured

__all__ = [
    "details_of",
    "diffusion_run",
    "energy_run",
    "flow_run",
    "paired_run",
    "ppca_run",
    "sbi_run",
    "vae_run",
]

Run = Callable[[Path, bool], Measured]
Record = dict[str, Any]
QUICK = {"steps": 50, "evaluations": 2}  # of a row that is only tried out


def _carry_out(script: str, folder: Path, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The `Config` of a script's run, and its result; the script is imported here, since to list rows needs none."""
    module = importlib.import_module(f"experiments.{script}")
    config = module.Config(**settings, out=folder)
    return config, common.carried_out(module.run, config)


def details_of(folder: Path) -> dict[str, Any]:
    """Settings and cost of a run, from its folder."""
    read = lambda name: json.loads((folder / name).read_text())
    settings = {name: value for name, value in read("config.json").items() if name not in ("out", "resume")}
    if not (folder / "cost.json").exists():  # nothing was trained
        return {"settings": settings}
    log = RunFolder(folder)
    steps = log.metrics()[-1]["step"]  # fewer than planned where training stopped early
    return {"settings": settings, **read("cost.json"), "steps": steps, "training_seconds": log.seconds()}


def _protocol(record: Record, *names: str) -> dict[str, Any]:
    """What a record says of the data that a likelihood was computed on, and more of it by name."""
    return {name: record[name] for name in ("examples", "protocol", "protocol_hash", *names)}


def _log_likelihood(result, record):
    details = _protocol(record, "estimator", "samples", "elbo", "active_units")
    details |= {name: record[name] for name in ("rates", "layer_units") if record.get(name)}  # of each layer
    return record["log_likelihood"], record["standard_error"], details


def _elbo(result, record):
    details = _protocol(record, "samples") | {"estimator": "elbo"}
    return record["elbo"], record["elbo_standard_error"], details


def _bits(result, record):
    return record["bits_per_dim"], record["bits_standard_error"], _protocol(record, "estimator", "samples")


def _elbo_in_bits(result, record):
    """Minus the ELBO per dimension, in the units of the record's bits."""
    elbo, error, details = _elbo(result, record)
    bits_of_a_nat = record["bits_standard_error"] / record["standard_error"]
    value = record["bits_per_dim"] + (record["log_likelihood"] - elbo) * bits_of_a_nat
    return value, error * bits_of_a_nat, details


def _active_units(result, record):
    return record["active_units"], 0.0, _protocol(record)


def _annealing(result, record):
    """Of the first seed, the only one that is annealed."""
    gap, error, examples = result["annealed less importance-weighted"]
    details = _protocol(record, "samples") | {"estimator": "ais less iwae", "examples": examples}
    return gap, error, details


def _learned_prior_in_bits(result, record):
    """Bits per dimension of a VQ-VAE under the learned prior of its codes, of the first seed."""
    learned = result["learned"]
    details = _protocol(learned, "samples") | {"estimator": "bound", "uniform": record["bits_per_dim"]}
    return learned["bits_per_dim"], learned["bits_standard_error"], details


QUANTITIES = {  # of a run of `experiments.vae`: (result, record of a seed) -> value, error over test examples, details
    "log_likelihood": _log_likelihood,
    "bits": _bits,
    "elbo": _elbo,
    "elbo_in_bits": _elbo_in_bits,
    "active_units": _active_units,
    "annealing": _annealing,
    "learned_prior_in_bits": _learned_prior_in_bits,
}


def _check_one_seed(settings: dict[str, Any]) -> None:
    if len(seeds := settings.get("seeds", (0,))) > 1:
        raise ValueError(f"annealing and differences are read off one seed, got seeds {seeds}")


def vae_run(quantity: str = "log_likelihood", script: str = "vae", **settings: Any) -> Run:
    """A quantity of a run of `experiments.vae`, or of another script with such records, in the mean over seeds.

    The error is that of one seed, over test examples.
    """
    if quantity == "annealing":
        _check_one_seed(settings)

    def run(folder, quick):
        short = {**QUICK, "epochs": None, "patience": None, "eval_limit": 200}
        if script not in ("autoregressive", "vq_vae"):  # they are evaluated without draws
            short["eval_samples"] = 20
        if script == "vq_vae":
            short |= {"steps": 5, "eval_every": 5, "prior_steps": 5, "eval_limit": 20}
        if settings.get("net") in ("gated-conv", "pixelcnn") or settings.get("cells", "dense") != "dense":
            short |= {"steps": 5, "eval_every": 5, "eval_limit": 20}
        if "ais" in settings:
            short |= {"ais": 10, "ais_limit": 5}
        config, result = _carry_out(f"{script}.__main__", folder, settings | (short if quick else {}))
        read = QUANTITIES[quantity]
        found, errors, details = zip(
            *(read(result, record) for record in result["records"].values()), strict=True
        )
        details = {"seeds": config.seeds, **details[0], **details_of(folder)}
        if len(found) > 1:
            details["deviation_over_seeds"] = float(np.std(found, ddof=1))
        return Measured(float(np.mean(found)), float(np.mean(errors)), details)

    return run


def paired_run(settings: dict[str, Any], other: dict[str, Any], name: str) -> Run:
    """log p(x) of a run of `experiments.vae` less that of another, in the folder `name` within its own.

    The error is that of the paired difference over test examples.
    """
    _check_one_seed(settings)

    def run(folder, quick):
        first, second = vae_run(**settings)(folder, quick), vae_run(**other)(folder / name, quick)
        difference = np.load(folder / "nats.npy")[0] - np.load(folder / name / "nats.npy")[0]
        details = {k: v for k, v in first.details.items() if k not in ("elbo", "active_units")}
        value, error = paired(difference)
        return Measured(value, error, {**details, name: second.details})

    return run


def ppca_run(latent: int, **settings: Any) -> Run:
    """Exact log p(x) of a run of `experiments.ppca`, which takes seconds."""

    def run(folder, quick):
        _, result = _carry_out("ppca.__main__", folder, {"latent_dim": (latent,), **settings})
        record = result["records"][str(latent)]
        details = {"seeds": [], **_protocol(record, "estimator"), **details_of(folder)}
        return Measured(record["log_likelihood"], record["standard_error"], details)

    return run


def _density_run(script: str, settings: dict[str, Any], short: dict[str, Any], kl: str) -> Run:
    """Bits per dimension of the first seed of a run on images; in the plane what the result holds under `kl`, in nats."""
    plane = settings["data"] in toys.TOYS

    def run(folder, quick):
        config, result = _carry_out(script, folder, settings | (QUICK | short if quick else {}))
        record = result["record"]
        details = {"seeds": [config.seeds[0]], **_protocol(record, "estimator"), **details_of(folder)}
        if plane:
            by_ode = {"estimator": "ode", "examples": config.ode_examples} if "ODE" in kl else {}
            value, error = result[kl]
            return Measured(value, error, details | by_ode)
        details |= _protocol(record, "samples")
        return Measured(record["bits_per_dim"], record["bits_standard_error"], details)

    return run


def diffusion_run(**settings: Any) -> Run:
    """Bits per dimension of a run of `experiments.diffusion` on images; in the plane KL(data, model) in nats, by the ODE."""
    images = {"steps": 5, "eval_every": 5, "warm_up": 1, "eval_limit": 20, "eval_samples": 1}
    images["sample_steps"] = 5
    short = {"ode_examples": 200} if settings["data"] in toys.TOYS else images
    return _density_run("diffusion.__main__", settings, short, "KL(data, model) by ODE")


def flow_run(**settings: Any) -> Run:
    """Bits per dimension of a run of `experiments.flow` on images; in the plane KL(data, model) in nats, exact."""
    short = {} if settings["data"] in toys.TOYS else {"steps": 5, "eval_every": 5, "eval_limit": 200}
    return _density_run("flow.__main__", settings, short, "KL(data, model)")


def energy_run(quantity: str, **settings: Any) -> Run:
    """Of a run of `experiments.flow.energy` the "kl", in nats by the known log Z, or "effective" samples, percent."""
    name = {"kl": "kl_known", "effective": "effective"}[quantity]

    def run(folder, quick):
        config, result = _carry_out("flow.energy", folder, settings | (QUICK if quick else {}))
        flow, base = result["rows"].values()
        details = {
            "seeds": [config.seeds[0]],
            "samples": result["samples"],
            "of_the_base": base[name][0],
            **details_of(folder),
        }
        value, error = flow[name]
        return Measured(value, error, details)

    return run


def sbi_run(**settings: Any) -> Run:
    """C2ST of a run of `experiments.sbi.cells`, in the mean over the published observations; the error is over these."""

    def run(folder, quick):
        short = QUICK | {"simulations": 200, "batch_size": 20, "rounds": min(2, settings["rounds"])}
        short |= {"draws": 200, "observations": 2}
        config, result = _carry_out("sbi.cells", folder, settings | (short if quick else {}))
        found = result["c2st"]
        one = folder / "observation-1" if config.rounds > 1 else folder  # rounds are of one observation each
        details = {"seeds": config.seeds, "c2st": found, "draws": config.draws, **details_of(one)}
        return Measured(result["mean"], result["standard_error"], details)

    return run
