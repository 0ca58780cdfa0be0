"""Command lines: help in groups, options over a file of settings."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dlvm_jax import train
from experiments import run
from experiments.autoencoder import __main__ as autoencoder
from experiments.command import command_line
from experiments.diffusion import __main__ as diffusion
from experiments.diffusion import prior
from experiments.disentangle import __main__ as disentangle
from experiments.flow.__main__ import Config as Flow
from experiments.ppca import __main__ as ppca
from experiments.vae import __main__ as vae


def said(words, config=vae.Config):
    return command_line(config, "", words.split())


def test_options_become_settings():
    found = said(
        "--hidden 30 20 --seed 3 --no-shuffle --decoder normal --latent_dim=4 --on-device None --clip 2"
    )
    wanted = vae.Config(
        hidden=(30, 20), seeds=(3,), shuffle=False, likelihood="normal", latent_dim=4, clip=2.0
    )
    assert found == wanted and type(found) is vae.Config
    assert said("") == vae.Config() and said("--width 8", Flow) == Flow(width=8)


def test_the_help_has_groups_and_an_example_a_line(capsys):
    with pytest.raises(SystemExit) as end:
        command_line(vae.Config, vae.__doc__, ["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    groups = [text.index(f" {name} options ") for name in ("model", "training", "run-and-evaluation")]
    assert groups == sorted(groups)
    for name, group in (("--prior", 0), ("--learning-rate", 1), ("--out", 2)):
        assert groups[group] < text.index(f"{name} ") < [*groups[1:], len(text)][group]
    lines = [line.strip() for line in text.splitlines()]
    assert len([line for line in lines if line.startswith("python -m experiments.vae")]) == 2


@pytest.fixture
def file(tmp_path):
    """The settings of a run of 500 steps, on two machines, as it writes them."""
    config = vae.Config(
        steps=500, latent_dim=3, out=tmp_path / "run", processes=2, process_id=1, coordinator="a:1"
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.as_dict() | {"eval_every": 12, "resume": True}))
    return path


def test_a_file_of_settings_gives_its_model_and_length_to_another_run(file):
    found = said(f"--config {file}")
    assert (found.latent_dim, found.steps, found.eval_every) == (3, 500, 12)
    assert (found.out, found.resume, found.processes, found.process_id, found.coordinator) == (
        None,
        False,
        *[None] * 3,
    )


def test_what_is_said_replaces_what_the_run_filled_in(file):
    found = said(f"--config {file} --epochs 3")
    assert (found.epochs, found.steps, found.eval_every) == (3, None, None)
    found.check()
    found = said(f"--config {file} --evaluations 5")
    assert (found.steps, found.evaluations, found.eval_every) == (500, 5, None)
    found = said(f"--config {file} --steps 100 --eval-every 7")
    assert (found.steps, found.eval_every) == (100, 7)


def test_no_help_loads_what_draws_or_scores():
    """The scripts import them when they are used: four seconds less for --help."""
    code = (
        "import importlib, sys\n"
        "for name in ('vae.__main__', 'hierarchical.__main__', 'diffusion.__main__', 'diffusion.prior', "
        "'flow.__main__', 'flow.energy', "
        "'ppca.__main__', 'autoencoder.__main__', 'disentangle.__main__'):\n"
        "    importlib.import_module(f'experiments.{name}')\n"
        "print(sorted({'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PUBLISHED = {
    "autoencoder_mnist": autoencoder.Config,
    "diffusion_checkerboard": diffusion.Config,
    "diffusion_mnist": diffusion.Config,
    "diffusion_prior_mnist": prior.Config,
    "disentangle": disentangle.Config,
    "ppca_freyfaces": ppca.Config,
    "vae_mnist": vae.Config,
}


def test_the_settings_of_published_runs_start_others():
    """Also of versions that called them otherwise.  The parameters are not published: `load` says so in a line."""
    results = Path(__file__).parents[2] / "experiments" / "results"
    for name, config in PUBLISHED.items():
        found = said(f"--config {results / name / 'config.json'}", config)
        if name != "vae_mnist":  # which has an alpha that its objective does not use, as was allowed
            found.check()
        values = json.loads((results / name / "config.json").read_text())
        assert found.seeds[0] in (0, values.get("seed")) and (
            found.epochs or found.steps == values.get("steps")
        )
        with pytest.raises(ValueError, match="holds no run that this version reads") as told:
            train.load(str(results / name))
        assert "\n" not in str(told.value)


class Dropped:
    """An object with an error that nothing can catch, as a callback's of another thread is."""

    def __init__(self, message):
        self.message = message

    def __del__(self):
        raise RuntimeError(self.message)


def test_callbacks_say_nothing_after_a_write_that_failed(capsys, monkeypatch):
    """A full disk closes Orbax's event loop while other files are on their way: each would print five lines."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    run.guarded(lambda: Dropped("Event loop is closed"))
    assert not capsys.readouterr().err
    run.guarded(lambda: Dropped("another error"))
    assert "another error" in capsys.readouterr().err
