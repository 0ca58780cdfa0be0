"""Data of one's own, in nine forms, through three scripts: a record in right units, and pictures where there are images."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.diffusion import __main__ as diffusion
from experiments.flow import __main__ as flow
from experiments.vae import __main__ as vae

RNG = np.random.RandomState(0)
GREY = RNG.randint(0, 256, (40, 8, 4), np.uint8)
TINY = {"steps": 2, "batch_size": 8, "eval_limit": 4, "evaluations": 1}
SCRIPTS = {
    "vae": (vae, {"hidden": (8,), "latent_dim": 2, "eval_samples": 2}),
    "diffusion": (diffusion, {"width": 4, "depth": 1, "eval_samples": 1, "sample_steps": 2, "warm_up": 0}),
    "flow": (flow, {"width": 4, "depth": 1, "hidden": 1, "bins": 4}),
}


def folder(path, images):
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(path / f"{number:02d}.png")
    return path


def npz(path):
    np.savez(
        path, train=GREY[:30], test=GREY[30:], train_labels=np.arange(30) % 3, test_labels=np.arange(10) % 3
    )
    return path


def saved(path, array):
    np.save(path, array)
    return path


FORMS = {  # a maker of the file, and other settings
    "grey levels": lambda at: (saved(at / "x.npy", GREY), {}),
    "parts and labels": lambda at: (npz(at / "x.npz"), {}),
    "a folder of grey images": lambda at: (folder(at / "x", GREY), {}),
    "a folder of colour images, resized": lambda at: (
        folder(at / "x", RNG.randint(0, 256, (40, 9, 7, 3), np.uint8)),
        {"resize": (8, 4)},
    ),
    "16 bits": lambda at: (saved(at / "x.npy", RNG.randint(0, 65536, (40, 2, 2)).astype(np.uint16)), {}),
    "two channels": lambda at: (saved(at / "x.npy", RNG.randint(0, 256, (40, 4, 8, 2), np.uint8)), {}),
    "bits": lambda at: (saved(at / "x.npy", RNG.rand(40, 4, 4) < 0.3), {}),
    "a table": lambda at: (saved(at / "x.npy", RNG.randn(40, 5)), {}),
    "real images": lambda at: (saved(at / "x.npy", RNG.rand(40, 4, 4, 1)), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("form", FORMS)
def test_form_through_a_script(form, script, tmp_path, short_solutions):
    path, settings = FORMS[form](tmp_path)
    module, tiny = SCRIPTS[script]
    config = module.Config(data=str(path), out=tmp_path / "run", **TINY, **tiny, **settings)
    module.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    record = result["record"] if "record" in result else result["records"]["0"]
    assert np.isfinite(record["log_likelihood"]) and record["examples"] == 4
    assert (tmp_path / "run" / "report.md").exists() and (tmp_path / "run" / "samples.png").exists()
