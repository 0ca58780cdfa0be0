"""What users get wrong: each bad input ends in one line that says what is wrong, before anything is trained."""

import importlib
import json
import shutil

import numpy as np
import pytest

from dlvm_jax.train import loop
from experiments import run as common

# of each script: words of a command line, and a piece of the line that they end in
COMMANDS = {
    "vae": {
        "--lr 0.1": "unknown option --lr; did you mean --learning-rate?",
        "--latent 3": "unknown option --latent; did you mean --latent-dim?",
        "--batch 3": "unknown option --batch; did you mean --batch-size?",
        "--optimizer adam": "unknown option --optimizer; did you mean --optimiser?",
        "--nonsense 3": "unknown option --nonsense; --help lists those there are",
        "-x 3": "unknown option -x; --help lists",
        "mnist": "unexpected 'mnist'; options are given by name",
        "--epochs": "--epochs needs a value",
        "--epochs --steps 3": "--epochs needs a value",
        "--epochs three": "--epochs takes an integer, got 'three'",
        "--epochs 1.5": "--epochs takes an integer, got '1.5'",
        "--epochs 0": "epochs must be at least 1, got 0",
        "--epochs -3": "epochs must be at least 1, got -3",
        "--epochs 2 --steps 3": "give steps or epochs, not both",
        "--epochs 2 3": "--epochs takes one value, got 2 3",
        "--steps 0": "steps must be at least 1, got 0",
        "--steps 1e3": "--steps takes an integer, got '1e3'",
        "--batch-size 0": "--batch-size must be at least 1, got 0",
        "--batch-size 5000": "the batch size lies between 1 and the 1000 training examples, got 5000",
        "--batch-size 7 --no-shuffle": "--batch-size must divide the 1000 training examples, got 7",
        "--learning-rate 0": "--learning-rate must be above 0 and finite, got 0.0",
        "--learning-rate -1e-3": "--learning-rate must be above 0 and finite, got -0.001",
        "--learning-rate nan": "--learning-rate must be finite, got nan",
        "--learning-rate inf": "--learning-rate must be finite, got inf",
        "--learning-rate fast": "--learning-rate takes a number, got 'fast'",
        "--optimiser Adam": "sgd; did you mean 'adam'?",
        "--schedule linear": "unknown schedule 'linear'; there are constant, cosine, stages",
        "--schedule stages --warm-up 5": "the schedule 'stages' starts at its peak and has no warm-up",
        "--warm-up -1": "--warm-up must be at least 0, got -1.0",
        "--steps 10 --warm-up 10": "--warm-up must be below the 10 steps of training, got 10.0",
        "--clip 0": "clip must be above 0 and finite, got 0.0",
        "--ema 1": "ema must be at least 0 and below 1, got 1.0",
        "--ema -0.1": "ema must be at least 0 and below 1, got -0.1",
        "--accumulate 0": "accumulate must be at least 1, got 0",
        "--accumulate 3": "accumulate must divide the --batch-size of 100, got 3",
        "--eval-every 0": "--eval-every must be at least 1, got 0",
        "--evaluations 0": "evaluations must be at least 1, got 0",
        "--patience 0": "patience must be at least 1, got 0",
        "--patience 100": "patience 100 needs more than the 40 evaluations of this run",
        "--seeds": "--seeds needs a value",
        "--seeds 1 1": "seeds needs different seeds, such as 0 1, got (1, 1)",
        "--seeds -1": "seeds must be at least 0",
        "--seeds 4294967296": "seeds must be at least 0 and below 4.29497e+09",
        "--seed one": "--seed takes an integer, got 'one'",
        "--on-device maybe": "--on-device takes True, False or None, got maybe",
        "--on-device": "--on-device takes True, False or None, got nothing",
        "--no-shuffle 3": "--no-shuffle takes no value, got 3",
        "--resume": "--resume goes on with the run in out; say which",
        "--resume yes": "--resume takes no value, got yes",
        "--out ": "out is a folder, got '.'",
        "--out /dev/null/x": "Not a directory",
        "--processes 2": "several processes need one out that all of them see",
        "--processes 2 --out there": "several processes need all of coordinator, processes and process",
        "--coordinator here:1 --out there": "several processes need all of coordinator, processes and process",
        "--process-id -1": "--process-id must be at least 0, got -1",
        "--config": "holds no settings of this script",
        "--config nowhere.json": "nowhere.json holds no settings of this script",
        "--config other.json": "other.json holds no settings of this script: unknown setting of Config 'fruit'",
        "--config broken.json": "broken.json holds no settings of this script",
        "--data MNIST": "unknown data set 'MNIST'; there are digits, mnist,",
        "--data digit": "did you mean 'digits'?",
        "--data nowhere.npy": "nowhere.npy",
        "--data empty.npy": "train has no examples",
        "--data nan.npy": "train holds NaN or infinite numbers",
        "--data text.csv": "text.csv",
        "--data broken.npz": "broken.npz",
        "--data folder": "folder",
        "--protocol nonsense": "nonsense",
        "--resize 8": "--resize takes 2 values, got 8",
        "--resize 0 8": "resize must be at least 1",
        "--eval-limit 0": "--eval-limit must be at least 2, got 0",
        "--eval-limit 1": "--eval-limit must be at least 2, got 1",
        "--eval-samples 0": "--eval-samples must be at least 1, got 0",
        "--ais 0": "ais must be at least 1, got 0",
        "--ais 10 --ais-limit 0": "--ais-limit must be at least 1, got 0",
        "--ais 10 --prior sphere --posterior von-mises-fisher": "ais anneals an exact prior on R^M",
        "--latent-dim 0": "--latent-dim must be at least 1, got 0",
        "--latent-dim 2 3": "--latent-dim takes one value, got 2 3",
        "--hidden": "--hidden needs a value",
        "--hidden 0": "hidden must be at least 1, got (0,)",
        "--hidden ten": "--hidden takes an integer, got 'ten'",
        "--prior vampprior": "did you mean 'vamp'?",
        "--prior Standard": "did you mean 'standard'?",
        "--prior sphere": "--prior sphere lives on the sphere, --posterior normal on R^M; give --posterior von-mises-fisher",
        "--prior hyperbolic": "give --posterior wrapped-normal",
        "--posterior von-mises-fisher": "give --prior sphere",
        "--posterior gaussian": "unknown posterior 'gaussian'; there are normal,",
        "--decoder gaussian": "unknown likelihood 'gaussian'; there are bernoulli,",
        "--likelihood fixed-normal --std 0": "std must be above 0, got 0.0",
        "--likelihood bernoulli --std 2": "--std 2.0 belongs to likelihood fixed-normal",
        "--layers 3": "layers must be 1 or 2, got 3",
        "--layers 0": "layers must be at least 1, got 0",
        "--layers 2 --condition label": "--layers 2 and a condition do not go together",
        "--inference bottom-up": "--inference bottom-up needs --layers 2",
        "--condition class": "unknown condition 'class'; there are label,",
        "--components 3": "--components 3 belongs to",
        "--flow-steps 3": "--flow-steps 3 belongs to",
        "--curvature 2": "curvature 2.0 belongs to prior hyperbolic",
        "--net cnn": "unknown net 'cnn'; there are mlp,",
        "--objective vae": "unknown objective 'vae'",
        "--objective renyi": "needs alpha; give it",
        "--objective free-bits": "needs --free-nats; give it",
        "--samples 5": "samples 5 belongs to objective iwae or dreg or renyi, not to --objective elbo",
        "--kl exact": "unknown kl 'exact'; there are auto, analytic, sampled",
        "--kl analytic --prior vamp": "--kl analytic needs --posterior normal",
        "--beta -1": "beta must be at least 0, got -1.0",
        "--beta-warm-up -1": "--beta-warm-up must be at least 0, got -1",
        "--dtype float16": "unknown dtype 'float16'; there are float32, bfloat16",
    },
    "autoregressive": {
        "--net pixel": "unknown net 'pixel'; there are made, pixelcnn",
        "--net transformer --heads 5": "heads share the width evenly",
        "--net transformer --kernel 3": "belongs to net pixelcnn",
        "--net pixelcnn --kernel 4": "so it is odd, got 4",
        "--net pixelcnn --data breast_cancer": "needs images [H, W, C]",
        "--net pixelcnn --condition quadrants-1": "is of whole images",
        "--net pixelcnn --orders 2": "belongs to net made",
        "--likelihood pixel-mixture": "whole pixels; use 'logistic-mixture'",
        "--orders 0": "orders must be at least 1",
    },
    "hierarchical": {
        "--groups 2": "latents has one number for each of the 1 stages that groups=(2,) names, got (8, 16)",
        "--groups 1 0": "groups must be at least 1",
        "--cells unet": "unknown cells 'unet'; there are dense, vdvae, nvae",
        "--cells vdvae --inference bottom-up": "--inference bottom-up does not go with --cells vdvae",
        "--cells vdvae --stride 4 --groups 1 1 1 --latents 2 2 2 --widths 4 4 4 --hidden 2 2 2": "cannot be halved for 3 stages",
        "--cells vdvae --data breast_cancer": "needs images [H, W, C]",
        "--temperature -1": "temperature must be at least 0, got -1.0",
        "--stride 2": "stride is of images",
        "--spectral 0.1": "spectral is of convolutions",
        "--balance": "balance acts while beta grows",
        "--prior vamp --components 5000": "components is at most the 1000 training examples",
        "--prior vamp --inference bottom-up": "needs inference from the top down",
        "--objective iwae": "needs samples of at least 2",
    },
    "diffusion": {
        "--process VP": "did you mean 'vp'?",
        "--process ddpm --sample-steps 1500": "--sample-steps is at most the 1000 steps of the table --process ddpm, got 1500",
        "--process cosine --sample-steps 1001 --data eight_gaussians": "--sample-steps is at most the 1000",
        "--sample-steps 0": "--sample-steps must be at least 1, got 0",
        "--sampler euler": "unknown sampler 'euler'; there are ancestral, ddim, euler-maruyama,",
        "--target noise": "unknown target 'noise'",
        "--target levels --data eight_gaussians": "levels",
        "--objective elbo": "unknown objective 'elbo'; there are bound,",
        "--log-snr 5": "--log-snr takes 2 values, got 5",
        "--log-snr 5 -5": "needs finite low < high, got 5.0 and -5.0",
        "--log-snr a b": "--log-snr takes a number, got 'a'",
        "--guidance 1": "guidance",
        "--guidance nan --condition label": "guidance must be finite, got nan",
        "--condition label --data eight_gaussians": "label",
        "--net unet --data eight_gaussians": "unet",
        "--net mlp": "mlp",
        "--width 0": "width must be at least 1, got 0",
        "--depth 0": "depth must be at least 1, got 0",
        "--patch 3 --net transformer": "patch",
        "--dropout 1": "dropout must be at least 0 and below 1, got 1.0",
        "--fourier x": "--fourier takes an integer, got 'x'",
        "--ode-examples 0": "--ode-examples must be at least 1, got 0",
        "--steps 10 --warm-up 20": "--warm-up must be below the 10 steps of training, got 20.0",
        "--prior vamp": "unknown option --prior",
        "--eval-limit 1": "--eval-limit must be at least 2, got 1",
    },
    "diffusion.prior": {
        "--vae nowhere": "nowhere holds no run",
        "--width 0": "width must be at least 1, got 0",
        "--latent-dim 3": "unknown option --latent-dim",
        "--eval-samples 0": "--eval-samples must be at least 1, got 0",
        "--eval-limit 1": "--eval-limit must be at least 2, got 1",
    },
    "flow": {
        "--flow nice": "unknown flow 'nice'; there are coupling,",
        "--flow glow": "is for images, eight_gaussians is of vectors; use one of coupling,",
        "--flow maf": "unknown flow 'maf'",
        "--depth 0": "depth must be at least 1, got 0",
        "--width -8": "width must be at least 1, got -8",
        "--bins 0": "bins must be at least 1, got 0",
        "--scales 0": "scales must be at least 1, got 0",
        "--hidden 1.5": "--hidden takes an integer, got '1.5'",
        "--batch-size 8 --data one.npy": "couples elements and needs two, one has one column; use --flow autoregressive",
        "--data constant.npy": "columns [1] are constant in training; leave them out",
        "--data inf.npy": "infinite",
        "--data digits --flow glow --scales 5": "scales",
        "--data digits --protocol levels": "levels",
        "--data few.npy": "test example",
        "--batch-size 1000000": "the batch size lies between 1 and the",
    },
    "flow.energy": {
        "--target donut": "unknown target 'donut'; there are torus unimodal,",
        "--target U9": "unknown target 'U9'",
        "--flow planar": "planar",
        "--layers 0": "layers must be at least 1, got 0",
        "--components 0": "components must be at least 1, got 0",
        "--bins 4": "--flow moebius has no bins; leave bins out",
        "--annealing -1": "annealing must be at least 0, got -1",
        "--eval-samples 1": "--eval-samples must be at least 2, got 1",
        "--data mnist": "unknown option --data",
        "--hidden 0": "hidden must be at least 1, got (0,)",
    },
    "ppca": {
        "--latent-dim 0": "--latent-dim must be at least 1",
        "--latent-dim 2 2": "give different latent dimensions",
        "--latent-dim 64": "latent",
        "--method svd": "unknown method 'svd'; there are closed, em, gradient",
        "--steps 10": "steps belong to --method em or 'gradient'; the closed form has none",
        "--seeds 0 1": "one seed is enough for an exact density",
        "--code-step 0": "a quantisation step is positive, got [0.0]",
        "--code-step -1": "a quantisation step is positive, got [-1.0]",
        "--code-step": "--code-step needs a value",
        "--data nowhere": "unknown data set 'nowhere'",
        "--eval-limit 0": "--eval-limit must be at least 2, got 0",
    },
    "autoencoder": {
        "--kind vae": "unknown kind 'vae'; there are plain, sparse, denoising, contractive",
        "--latent-dim 0": "--latent-dim must be at least 1, got 0",
        "--weight -1": "weight must be at least 0, got -1.0",
        "--noise -1 --kind denoising": "noise must be",
        "--corruption salt": "unknown corruption 'salt'; there are gaussian, masking",
        "--train-limit 0": "--train-limit must be at least 1, got 0",
        "--train-limit 10000": "--train-limit is at most the 1000 training examples, got 10000",
        "--label-limit 10000": "--label-limit is at most the 1000 training examples, got 10000",
        "--classifier-steps 0": "--classifier-steps must be at least 1, got 0",
        "--against nowhere": "unknown data set 'nowhere'",
        "--against eight_gaussians": "outliers must have the shape (8, 8, 1) of digits",
        "--vae-std 0": "--vae-std must be above 0, got 0.0",
        "--compare-vae 1": "--compare-vae takes no value, got 1",
        "--net resnet": "unknown net 'resnet'",
    },
    "disentangle": {
        "--latent-dim 1": "--latent-dim must be at least 2, got 1",
        "--beta -1": "beta must be at least 0, got -1.0",
        "--batch-size 1": "--batch-size must be at least 2, got 1",
        "--hidden 0": "hidden must be at least 1, got (0,)",
        "--data mnist": "unknown option --data",
        "--seeds 0 0": "seeds needs different seeds",
    },
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with bad files, where nothing may be trained."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.RandomState(0)
    rows = rng.randn(40, 2)
    tables = {
        "empty": np.zeros((0, 2)),
        "nan": np.where(rows > 2, np.nan, rows),
        "inf": np.where(rows == rows[0, 0], np.inf, rows),
        "one": rng.randn(40, 1),
        "constant": np.c_[rows[:, 0], np.ones(40)],
        "few": rows[:6],
    }
    for name, table in tables.items():
        np.save(f"{name}.npy", table)
    (tmp_path / "text.csv").write_text("a,b\nc,d\n")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.json").write_text(json.dumps({"fruit": 3}))
    (tmp_path / "broken.json").write_text('{"steps": ')

    def trained(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(loop, "run", trained)
    return tmp_path


def script(name):
    """The module of a script."""
    whole = name in ("diffusion.prior", "flow.energy")
    return importlib.import_module(f"experiments.{name}" if whole else f"experiments.{name}.__main__")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_command_line_ends_in_one_line(here, capsys, name):
    module, wrong = script(name), []
    for words, piece in COMMANDS[name].items():
        arguments = words.split(" ") if words.endswith(" ") else words.split()
        try:
            common.main(module.run, module.Config, module.__doc__, arguments)
            found = "nothing was said"
        except SystemExit as end:
            lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
            found = "\n".join(line for line in lines if not line.startswith("warning: "))
            good = end.code == 2 and found.startswith("error: ") and "\n" not in found and piece in found
            found = None if good else f"status {end.code}: {found}"
        except BaseException as error:  # a traceback for a user
            found = f"{type(error).__name__}: {error}"
        if not found and list(here.glob("runs/*")):
            found = "a folder is left"
        shutil.rmtree(here / "runs", ignore_errors=True)
        if found:
            wrong.append(f"{name} {words}\n    expected {piece}\n    got {found}")
    assert not wrong, "\n".join(wrong)


def test_they_are_many():
    assert sum(map(len, COMMANDS.values())) >= 170
