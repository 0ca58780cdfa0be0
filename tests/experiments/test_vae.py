"""The main job as a person runs it: the report, the errors, and what a kill leaves behind."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dlvm_jax import train
from dlvm_jax.train import checkpoint, validation
from experiments import evaluation
from experiments import run as common
from experiments.vae import __main__ as vae

ROOT = Path(__file__).parent.parent.parent
SHORT = (
    "--steps",
    "300",
    "--eval-every",
    "20",
    "--hidden",
    "64",
    "--learning-rate",
    "0.005",
    "--latent-dim",
    "2",
)
SHORT += ("--eval-samples", "5", "--eval-limit", "200")


def command(folder, *options):
    return [sys.executable, "-m", "experiments.vae", "--out", str(folder), *options]


def run(folder, *options, **environment):
    return subprocess.run(
        command(folder, *options),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        env={**os.environ, **environment},
    )


def digests(folder):
    """The digest of each checkpoint's arrays."""
    return {
        path.stem: json.loads(path.read_text())["digest"] for path in (folder / "checkpoints").glob("*.json")
    }


def result(folder):
    """All that a run computes: metrics, kept checkpoints, test record."""
    return (folder / "metrics.jsonl").read_bytes(), digests(folder), (folder / "result.json").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    done = run(folder, *SHORT)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_configuration_metrics_checkpoints_report_and_pictures(whole):
    names = {path.name for path in whole.iterdir()}
    pictures = {"samples", "samples_drawn", "reconstructions", "latent", "manifold", "curves"}
    files = {
        "config.json",
        "manifest.json",
        "metrics.jsonl",
        "timing.jsonl",
        "model.json",
        "constants.npz",
        "cost.json",
        "result.json",
        "report.md",
        "checkpoints",
    }
    assert names >= {f"{name}.png" for name in pictures} | files
    record = json.loads((whole / "result.json").read_text())["records"]["0"]
    # measured -25.1 +- 0.24; independent pixels with the right means give -26.8, so a dead encoder cannot pass
    assert -26 < record["log_likelihood"] < -20
    assert record["protocol"] == "dynamic" and len(record["protocol_hash"]) == 12
    report = (whole / "report.md").read_text()
    assert record["protocol_hash"] in report and f"{record['log_likelihood']:.2f}" in report
    assert json.loads((whole / "config.json").read_text())["steps"] == 300


def assert_kills_change_nothing(folder, whole, kills, seed):
    """Kill -9 at random moments, resume after each, and compare everything with the uninterrupted run."""
    rng = random.Random(seed)
    killed = 0
    while killed < kills:
        process = subprocess.Popen(
            command(folder, *SHORT, "--resume"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # half of the moments anywhere from the start, half once checkpoints are being written
        delay = rng.uniform(0.5, 9.0)
        try:
            process.wait(delay)
            for stale in folder.glob("result.json"):  # it got through: take something back and go on
                stale.unlink()
            for path in sorted((folder / "checkpoints").glob("*.json"), key=lambda p: int(p.stem))[1:]:
                path.unlink()
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    done = run(folder, *SHORT, "--resume")
    assert done.returncode == 0, done.stderr
    metrics, kept, record = result(folder)
    assert metrics == result(whole)[0] and record == result(whole)[2]
    assert kept["300"] == digests(whole)["300"]
    for step in kept.keys() & digests(whole).keys():
        assert kept[step] == digests(whole)[step]


@pytest.mark.slow
def test_five_kills_at_random_moments(whole, tmp_path):
    assert_kills_change_nothing(tmp_path / "killed", whole, 5, seed=1)


def test_termination_signal_ends_with_a_checkpoint_and_its_status(tmp_path):
    process = subprocess.Popen(
        command(tmp_path / "run", *SHORT, "--steps", "200000"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    notes = tmp_path / "run" / "checkpoints"
    while not list(notes.glob("*.json")) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "resume to go on" in message


ERRORS = {
    "unknown data": (("--data", "mnits"), "unknown data set 'mnits'"),
    "latent size 0": (("--latent-dim", "0"), "--latent-dim must be at least 1, got 0"),
    "likelihood": (
        ("--likelihood", "categorical", "--protocol", "dequantised"),
        "categorical likelihood needs integer data",
    ),
    "grey bernoulli": (
        ("--likelihood", "bernoulli", "--protocol", "levels"),
        "bernoulli likelihood needs bits",
    ),
    "both": (("--epochs", "1"), "give steps or epochs, not both"),
    "batch": (("--batch-size", "2000"), "between 1 and the 1000 training examples, got 2000"),
    "rate": (("--learning-rate", "-1"), "--learning-rate must be above 0"),
    "samples": (("--samples", "5"), "--samples 5 belongs to objective iwae"),
    "parts": (
        ("--prior", "sphere"),
        "--prior sphere lives on the sphere, --posterior normal on R^M; give --posterior von-mises-fisher",
    ),
    "no steps": (("--steps", "0"), "steps must be at least 1, got 0"),
    "negative beta": (("--beta", "-1"), "beta must be at least 0, got -1"),
    "beta is no number": (("--beta", "nan"), "beta must be at least 0, got nan"),
    "warm-up": (("--beta-warm-up", "-5"), "--beta-warm-up must be at least 0, got -5"),
    "regulariser": (
        ("--prior", "standard", "--objective", "adversarial", "--regulariser", "-3"),
        "regulariser must be at least 0, got -3",
    ),
    "alpha": (
        ("--objective", "renyi", "--samples", "3", "--alpha", "nan"),
        "alpha must be finite, got nan",
    ),
    "pseudo-inputs": (
        ("--prior", "vamp", "--components", "5000"),
        "components is at most the 1000 training images",
    ),
    "curvature": (
        ("--prior", "hyperbolic", "--posterior", "wrapped-normal", "--curvature", "9"),
        "choose a curvature c of at most 4.76, or fewer dimensions",
    ),
    "nan": (("--learning-rate", "1e30"), "training stopped at step"),
    "patience": (("--patience", "15"), "--patience 15 needs more than the 15 evaluations of this run"),
    "order": (
        ("--no-shuffle", "--batch-size", "300"),
        "without shuffle, --batch-size must divide the 1000 training examples, got 300",
    ),
    "stages": (("--schedule", "stages", "--warm-up", "5"), "has no warm-up"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_one_clear_line_and_a_status(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # `main` sets its own
    options, message = ERRORS[name]
    with pytest.raises(SystemExit) as stop:
        common.main(vae.run, vae.Config, vae.__doc__, command(tmp_path / "run", *SHORT, *options)[3:])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]


def test_an_error_of_the_program_leaves_no_traceback(tmp_path):
    done = run(tmp_path / "run", "--data", "mnits")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: unknown data set 'mnits'")


def test_an_existing_run_is_neither_overwritten_nor_mixed_up(whole, tmp_path):
    before = result(whole)
    again = run(whole, *SHORT)
    assert again.returncode == 2 and "already holds a run (up to step 300); give --resume" in again.stderr
    other = run(whole, *SHORT, "--latent-dim", "3", "--resume")
    assert other.returncode == 2 and "another configuration (--latent-dim 2 there, 3 here)" in other.stderr
    assert result(whole) == before


@pytest.mark.slow
def test_a_finished_run_is_loaded_and_extended_from_the_command_line(whole, tmp_path):
    """To 320 steps, against a run of 320 steps by its config.json."""
    shutil.copytree(whole, tmp_path / "run")
    assert run(tmp_path / "run", *SHORT, "--resume", "--steps", "320").returncode == 0
    assert run(tmp_path / "again", "--config", str(tmp_path / "run" / "config.json")).returncode == 0
    assert digests(tmp_path / "run")["320"] == digests(tmp_path / "again")["320"]
    fitted = train.load(tmp_path / "again")
    assert fitted.recipe.hidden == (64,) and fitted.config.steps == 320
    assert fitted.sample(jax.random.key(0), 3).shape == (3, 8, 8, 1)


def test_an_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file", *SHORT)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path):
    """Files may not grow beyond 40 kB, as on a full disk: the first checkpoint of a wide network fails."""
    limit = "import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "from dlvm_jax import data; data.load('digits'); import experiments.vae.__main__; "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)); "
    limit += "sys.argv = ['vae', *sys.argv[1:]]; runpy.run_module('experiments.vae', run_name='__main__')"
    options = ("--out", str(tmp_path / "run"), *SHORT, "--hidden", "400")
    done = subprocess.run(
        [sys.executable, "-c", limit, *options], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert done.returncode == 2 and "could not be written" in done.stderr, done.stderr
    assert "complete checkpoints are" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    ("--condition", "quadrants-1", "--prior", "learned", "--net", "residual"),
    ("--likelihood", "categorical", "--net", "gated", "--objective", "iwae", "--samples", "3", "--condition", "label"),
    ("--prior", "vamp", "--components", "20", "--decoder", "logistic-mixture", "--beta-warm-up", "20", "--ais", "5"),
    ("--likelihood", "normal", "--seeds", "0", "1", "--ema", "0.99", "--accumulate", "2"),
    ("--likelihood", "discretised-logistic", "--net", "conv", "--hidden", "8", "16", "--objective", "renyi", "--samples", "3",
     "--alpha", "0.5", "--clip", "1", "--schedule", "cosine", "--tensorboard"),
    ("--likelihood", "discretised-normal", "--objective", "dreg", "--samples", "3", "--dtype", "bfloat16"),
    ("--beta", "2", "--kl", "sampled", "--patience", "2", "--epochs", "30", "--likelihood", "fixed-normal"),
    ("--layers", "2", "--prior", "vamp-data", "--components", "20"),
    ("--layers", "2", "--inference", "bottom-up", "--net", "tanh", "--start-at-mean", "--no-shuffle", "--schedule", "stages"),
    ("--prior", "sphere", "--posterior", "von-mises-fisher", "--objective", "wae"),
    ("--prior", "implicit", "--posterior", "iaf", "--likelihood", "shared-normal"),
    ("--prior", "hyperbolic", "--posterior", "wrapped-normal", "--curvature", "4"),
])  # fmt: skip
def test_options_work_together(options, tmp_path):
    steps = SHORT[2:] if "--epochs" in options else ("--steps", "40", *SHORT[2:])
    vae.run(common.command_line(vae.Config, "", ["--out", str(tmp_path / "run"), *steps, *options]))
    records = json.loads((tmp_path / "run" / "result.json").read_text())["records"]
    assert len(records) == (2 if "--seeds" in options else 1)
    assert all(0 < record["bits_per_dim"] < 8 for record in records.values())
    report = (tmp_path / "run" / "report.md").read_text()
    for active, units in re.findall(r"\| (\d+) of (\d+) \|", report):
        expected = 3 if {"sphere", "bottom-up"} & set(options) else 4 if "--layers" in options else 2
        assert int(active) <= int(units) == expected
    if "wae" in options:  # the checkpoint that is kept has the least loss of what is trained
        log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        best = min(log, key=lambda line: line["valid_loss"])["step"]
        assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == best


def test_the_record_is_of_the_averaged_parameters_of_the_best_checkpoint(tmp_path, monkeypatch):
    """Validation is made worse after step 40, so that the best is not the last."""
    saved, evaluated = {}, []
    save, make, judge = checkpoint.Checkpoints.save, validation.validator, evaluation.log_likelihood

    def keep(self, step, state, score=None):
        saved[step] = jax.tree.map(jnp.copy, (state.params, state.ema))
        save(self, step, state, score)

    def spoiled(*args, **options):
        validate, rounds = make(*args, **options), iter(range(1, 100))

        def worse_later(params):
            late = next(rounds) > 2
            return {name: value + 1e3 * late for name, value in validate(params).items()}

        return worse_later

    def note(fitted, *args, **options):
        evaluated.append(fitted.params)
        return judge(fitted, *args, **options)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", keep)
    monkeypatch.setattr(validation, "validator", spoiled)
    monkeypatch.setattr(evaluation, "log_likelihood", note)
    options = {
        "steps": 80,
        "eval_every": 20,
        "hidden": (16,),
        "latent_dim": 2,
        "eval_samples": 2,
        "eval_limit": 20,
    }
    vae.run(vae.Config(**options, ema=0.9, out=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["step"] == 40
    params, ema = saved[40]
    same = lambda a, b: jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))
    assert same(evaluated[0], ema) and not same(evaluated[0], params) and not same(ema, saved[80][1])
