"""`fit`, `load` and export: the front door of the library, across processes, with what it refuses."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlvm_jax import data, evaluate, recipes, train
from dlvm_jax.train import config, export, fitting
from tests.train.common import assert_same

SMALL = {"latent_dim": 2, "hidden": (16,)}
BITS = (np.random.RandomState(0).rand(60, 4, 3, 1) < 0.3).astype(np.uint8)


def bits(seed=0, examples=60):
    x = (np.random.RandomState(seed).rand(examples, 4, 3, 1) < 0.3).astype(np.uint8)
    return data.from_arrays(x, test=BITS[:10], labels=np.arange(examples) % 3, test_labels=np.arange(10) % 3)


def fit(out, recipe=None, source=None, **settings):
    settings = {"steps": 30, "batch_size": 10, "eval_every": 10, **settings}
    return train.fit(recipe or recipes.VAE(**SMALL), source or bits(), out=out, progress=False, **settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("labelled") / "run", recipes.VAE(condition="label", **SMALL))


def in_another_process(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_loaded_is_what_was_fitted_without_the_data(tmp_path):
    """In another process, of a model with constants of the data (pseudo-inputs) and several seeds."""
    recipe = recipes.VAE(prior="vamp-data", components=5, **SMALL)
    fitted = fit(tmp_path / "run", recipe, seeds=(0, 1), ema=0.9)
    expected = fitted.log_prob(jax.random.key(7), BITS[:3]), fitted.sample(jax.random.key(3), 2)
    np.savez(tmp_path / "expected.npz", log_prob=expected[0], sample=expected[1])
    code = """
import sys, jax, numpy as np
from dlvm_jax import train
import dlvm_jax.data
def refuse(*a, **k): raise AssertionError("loading asked for data")
dlvm_jax.data.load = refuse
fitted, there = train.load(sys.argv[1]), np.load(sys.argv[2])
x = np.load(sys.argv[3])
np.testing.assert_array_equal(fitted.log_prob(jax.random.key(7), x), there["log_prob"])
np.testing.assert_array_equal(fitted.sample(jax.random.key(3), 2), there["sample"])
print(len(fitted.per_seed), fitted.step, type(fitted.recipe).__name__)
"""
    np.save(tmp_path / "x.npy", BITS[:3])
    printed = in_another_process(code, tmp_path / "run", tmp_path / "expected.npz", tmp_path / "x.npy")
    assert printed.split() == ["2", str(fitted.step), "VAE"]
    again = train.load(tmp_path / "run")
    assert_same(again.per_seed, fitted.per_seed)
    assert again.recipe == recipe and again.spec == fitted.spec and again.config == fitted.config


def test_a_run_that_is_extended_equals_one_of_the_whole_length(tmp_path):
    """30 steps and then 60, against 60: parameters, kept checkpoint and log, bit for bit."""
    fit(tmp_path / "short", ema=0.9)
    extended = fit(tmp_path / "short", ema=0.9, resume=True, steps=60)
    whole = fit(tmp_path / "whole", ema=0.9, steps=60)
    assert_same(extended.per_seed, whole.per_seed)
    assert extended.step == whole.step and extended.config.steps == 60
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("short", "whole")]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_a_run_goes_on_to_its_own_end_and_a_stretched_schedule_is_said(tmp_path):
    fitted = fit(tmp_path / "run", schedule="cosine", steps=40, eval_every=None)
    again = train.fit(
        fitted.recipe,
        bits(),
        out=tmp_path / "run",
        resume=True,
        progress=False,
        batch_size=10,
        schedule="cosine",
    )
    assert again.config.steps == 40 and again.config.eval_every == 1
    assert_same(again.per_seed, fitted.per_seed)
    with pytest.warns(UserWarning, match="cosine schedule .* went over 40 steps, now goes over 50"):
        fit(tmp_path / "run", schedule="cosine", steps=50, resume=True)


def test_fine_tuning_starts_from_the_parameters_it_is_given(plain, tmp_path):
    first = plain
    same = fit(tmp_path / "same", start=first, steps=1, learning_rate=1e-12, eval_every=1)
    for old, new in zip(jax.tree.leaves(first.params), jax.tree.leaves(same.params), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-11)
    other = fit(tmp_path / "other", source=bits(5), start=first)
    assert other.spec.protocol_hash != first.spec.protocol_hash
    moved = max(
        float(jnp.abs(a - b).max())
        for a, b in zip(*map(jax.tree.leaves, (first.params, other.params)), strict=True)
    )
    assert 1e-3 < moved < 1.0  # it moved, from there and not from new random numbers
    with pytest.raises(ValueError, match="other parameters than this recipe's"):
        fit(tmp_path / "wide", recipes.VAE(latent_dim=3, hidden=(16,)), start=first)
    with pytest.raises(ValueError, match="has 1 seeds, this run 2"):
        fit(tmp_path / "seeds", start=first, seeds=(0, 1))


def test_use_of_a_conditional_model(plain, labelled, tmp_path):
    fitted = labelled
    labels = np.arange(3)
    assert fitted.sample(jax.random.key(0), 5, labels).shape == (5, 3, 4, 3, 1)
    x = (BITS[:3], labels)
    assert fitted.log_prob(jax.random.key(0), x).shape == (3,)
    z = fitted.encode(x)
    assert z.shape == (3, 2)
    np.testing.assert_array_equal(fitted.decode(z, labels), fitted.reconstruct(x))
    for use in (fitted.encode, fitted.reconstruct):
        for bad, line in ((np.nan, "value nan"), (0.5, "value 0.5"), (1j, "x must be real numbers")):
            with pytest.raises(ValueError, match=line):
                use((np.full((3, 4, 3, 1), bad), labels))
    for use, line in (
        (lambda: fitted.decode(z * np.nan, labels), "the codes has the value nan"),
        (lambda: fitted.decode(z + 0j, labels), "the codes must be real numbers"),
        (lambda: fitted.sample(jax.random.key(0), 2.0, labels), "number of samples"),
        (lambda: fitted.sample(jax.random.key(0), -1, labels), "number of samples"),
        (lambda: fitted.sample(jax.random.key(0), 2, labels + 0j), "labels must be real numbers"),
        (lambda: fitted.sample(jax.random.key(0), 2, ["a", "b"]), "labels must be real numbers"),
        (lambda: fitted.sample(jax.random.key(0), 5), "give labels"),
        (lambda: fitted.log_prob(jax.random.key(0), BITS[:3]), "conditioned on labels, and none were given"),
        (
            lambda: fitted.log_prob(None, (BITS[:, :2], labels)),
            r"examples of shape \(4, 3, 1\), got an array of",
        ),
    ):
        with pytest.raises(ValueError, match=line):
            use()
    part = fit(tmp_path / "part", recipes.VAE(condition="quadrants-1", **SMALL))
    drawn = part.sample(jax.random.key(0), 5, BITS[:2])
    assert drawn.shape == (5, 2, 4, 3, 1)
    given = np.zeros((4, 3), bool)
    given[2:, :1] = True  # the lower left quadrant, which is kept
    np.testing.assert_array_equal(drawn[:, :, given], np.broadcast_to(BITS[:2][:, given], (5, 2, 2, 1)))
    with pytest.raises(ValueError, match="unconditional; leave `given` out"):
        plain.sample(jax.random.key(0), 2, labels)


def test_weights_come_back_from_one_file(tmp_path):
    fitted = fit(tmp_path / "run", recipes.VAE(prior="vamp", components=5, **SMALL))
    export.save_weights(fitted, tmp_path / "model.safetensors")
    again = export.load_weights(tmp_path / "model.safetensors")
    assert_same(again.params, fitted.params)
    np.testing.assert_array_equal(
        again.log_prob(jax.random.key(0), BITS), fitted.log_prob(jax.random.key(0), BITS)
    )
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds no weights of this library"):
        export.load_weights(tmp_path / "broken.safetensors")


def test_a_sampler_runs_where_this_library_is_not_installed(labelled, tmp_path):
    fitted = labelled
    export.save_sampler(fitted, tmp_path / "sampler.bin", 4, np.arange(3))
    np.save(tmp_path / "expected.npy", fitted.sample(jax.random.key(5), 4, np.arange(3)))
    code = """
import sys
sys.modules["dlvm_jax"] = None  # any import of it fails
import jax, numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    program = export.deserialize(bytearray(file.read()))
np.testing.assert_array_equal(program.call(np.uint32(5)), np.load(sys.argv[2]))
assert not any(name.startswith(("dlvm_jax.", "flax", "optax")) for name in sys.modules)
print("done")
"""
    printed = in_another_process(
        code, tmp_path / "sampler.bin", tmp_path / "expected.npy", JAX_PLATFORMS="cpu"
    )
    assert printed.strip() == "done"


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_loaded_by_its_module(tmp_path):
    """In a module outside of the library."""
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from dlvm_jax import recipes\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Wide(recipes.VAE):\n"
        "    hidden: tuple[int, ...] = (40,)\n"
    )
    code = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
import mine
from dlvm_jax import data, train
x = np.load(sys.argv[3])
train.fit(mine.Wide(latent_dim=2), data.from_arrays(x, test=x[:5]), out=sys.argv[2], steps=2, batch_size=5, progress=False)
"""
    np.save(tmp_path / "x.npy", BITS)
    in_another_process(code, tmp_path, tmp_path / "run", tmp_path / "x.npy")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from dlvm_jax import train; print(train.load(sys.argv[2]).recipe)"
    assert "Wide(latent_dim=2" in in_another_process(code, tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match="the recipe Wide of mine cannot be imported"):
        train.load(tmp_path / "run")


REFUSED = {
    "unknown setting of TrainConfig 'step'; .*did you mean 'steps'": {"step": 5},
    "steps must be at least 1, got 0": {"steps": 0},
    "give steps or epochs, not both": {"epochs": 2},
    "the batch size lies between 1 and the 54 training examples, got 100": {"batch_size": 100},
    "patience=9 needs more than the 3 evaluations": {"patience": 9},
    "seeds needs different seeds": {"seeds": (1, 1)},
    "ema must be at least 0 and below 1, got 1": {"ema": 1.0},
    "unknown optimiser 'adamm'; .*did you mean 'adam'": {"optimiser": "adamm"},
    "learning_rate must be above 0": {"learning_rate": 0.0},
    "latent_dim must be at least 1, got 0": {"recipe": recipes.VAE(latent_dim=0)},
    "components is at most the 54 training": {"recipe": recipes.VAE(prior="vamp", components=61)},
    "a normal likelihood needs real data, .*2 integer levels": {"recipe": recipes.VAE(likelihood="normal")},
    "resume=True goes on with a run": {"resume": True, "out": None},
    "steps must be an integer, got 10000.0": {"steps": 1e4},
    "seeds must be several values, such as": {"seeds": 1},
    "hidden must be several values, such as": {"recipe": recipes.VAE(hidden=300)},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_impossible_is_refused_before_anything_is_written(line, tmp_path):
    settings = {"out": tmp_path / "run", **REFUSED[line]}
    with pytest.raises(ValueError, match=line):
        fit(**settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("out", [None, "run"])
def test_a_run_that_is_stopped_while_it_is_prepared_leaves_no_folder(out, tmp_path, monkeypatch):
    build = fitting.engine.build

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting.engine, "build", lambda *a, **b: build(*a, **b)._replace(init=stopped))
    with pytest.raises(KeyboardInterrupt):
        fit(out)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_mixed_up_with_another(tmp_path):
    fit(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    with pytest.raises(ValueError, match=r"already holds a run \(up to step 30\); give resume=True"):
        fit(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another configuration \(latent_dim 2 there, 3 here\)"):
        fit(tmp_path / "run", recipes.VAE(latent_dim=3, hidden=(16,)), resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")} == before
    with pytest.raises(ValueError, match="holds no run that this version reads"):
        train.load(tmp_path)
    (tmp_path / "begun").mkdir()
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    (tmp_path / "begun" / "model.json").write_text(json.dumps(about))
    np.savez(tmp_path / "begun" / "constants.npz")
    with pytest.raises(ValueError, match="holds no checkpoint yet"):
        train.load(tmp_path / "begun")


def test_a_warm_up_that_does_not_end_is_said(tmp_path):
    with pytest.warns(UserWarning, match="warm-up of 100 steps does not end within the 30"):
        fit(tmp_path / "run", recipes.VAE(beta_warm_up=100, **SMALL))


def test_a_logger_sees_each_evaluation(tmp_path):
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tmp_path / "run", logger=lambda step, metrics: seen.append((step, metrics["bound"])))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert seen == [(line["step"], line["bound"]) for line in lines] and len(seen) == 3


def test_one_seed_of_several(tmp_path):
    fitted = fit(tmp_path / "run", seeds=(3, 4))
    second = fitted.of_seed(1)
    assert second.config.seeds == (4,) and second.params is fitted.per_seed[1]
    assert dataclasses.replace(fitted).params is fitted.per_seed[0]


@pytest.mark.slow
def test_what_a_run_goes_on_with(tmp_path):
    """Never to fewer steps; a family's clipping can be switched off; a result of before is taken away."""
    fit(tmp_path / "run")
    with pytest.raises(ValueError, match="is trained to step 30; steps must not be below, got 20"):
        fit(tmp_path / "run", resume=True, steps=20)
    (tmp_path / "run" / "result.json").write_text("{}")
    fit(tmp_path / "run", resume=True, steps=40)
    assert not (tmp_path / "run" / "result.json").exists()
    rows = data.from_arrays(np.random.RandomState(0).randn(60, 3).astype(np.float32))
    flow = recipes.Flow(width=8, depth=1)
    assert fit(tmp_path / "usual", flow, rows).config.clip == 5.0
    assert fit(tmp_path / "free", flow, rows, clip=None).config.clip is None
    with pytest.warns(UserWarning, match="went over 30 steps, now goes over 40"):
        longer = fit(tmp_path / "usual", flow, rows, steps=None, epochs=10, resume=True)
    assert (longer.config.steps, longer.config.warm_up) == (40, 1)  # the share of the first 30


def test_models_that_are_not_trained_by_data_or_steps(plain, tmp_path):
    """Several seeds of a flow on an energy and of pPCA in closed form, whose scalar parameters also come back from a file."""
    energy = recipes.EnergyFlow(target="torus correlated", components=2, hidden=(8,))
    fitted = train.fit(energy, out=tmp_path / "energy", steps=4, batch_size=16, seeds=(0, 1), progress=False)
    assert len(fitted.per_seed) == 2 and fitted.step > 0
    rows = data.from_arrays(np.random.RandomState(0).randn(60, 4).astype(np.float32))
    closed = train.fit(recipes.PPCA(latent_dim=2), rows, out=tmp_path / "ppca", seeds=(0, 1), progress=False)
    assert_same(*closed.per_seed)
    export.save_weights(closed, tmp_path / "w.safetensors")
    again = export.load_weights(tmp_path / "w.safetensors")
    assert again.params.log_std.shape == () and again.config.seeds == (0,)
    for recipe, settings, line in (
        (recipes.PPCA(latent_dim=2), {"start": closed.of_seed(0)}, "does not start from another"),
        (
            recipes.PPCA(latent_dim=2, method="gradient"),
            {"patience": 2, "batch_size": 9},
            "nothing is held out",
        ),
        (energy, {}, "is trained without data"),
    ):
        with pytest.raises(ValueError, match=line):
            train.fit(recipe, rows, out=tmp_path / "refused", progress=False, **settings)
        assert not (tmp_path / "refused").exists()
    with pytest.raises(ValueError, match="has no 'pseudo_inputs' of its data; use its recipe"):
        fit(tmp_path / "vamp", recipes.VAE(prior="vamp", components=5, **SMALL), start=plain)


def test_data_far_from_the_size_of_one_are_told(tmp_path):
    rows = data.from_arrays(1e-22 * np.random.RandomState(0).randn(60, 4))
    with pytest.warns(UserWarning, match="the training data are of size .*e-22"):
        fit(tmp_path / "small", recipes.VAE(likelihood="normal", **SMALL), rows)


def test_labels_are_checked(plain, labelled):
    fitted = labelled
    for batch, line in (
        (BITS[:3], "conditioned on labels, and none were given"),
        ((BITS[:3], np.arange(2)), "labels are one integer for each example"),
        ((BITS[:3], np.array([0, 1, 3])), "labels lie between 0 and 2, got 0 to 3"),
    ):
        with pytest.raises(ValueError, match=line):
            fitted.log_prob(jax.random.key(0), batch)
        with pytest.raises(ValueError, match=line):
            evaluate.log_likelihood(fitted, batch, samples=2, progress=False)
    both = [
        evaluate.log_likelihood(plain, x, samples=2, progress=False)
        for x in (BITS, (BITS, np.zeros(60, int)))
    ]
    assert both[0].log_likelihood == both[1].log_likelihood  # labels that a model does not take are left out


def test_what_sampling_or_evaluation_refuses_is_refused_before_training(tmp_path):
    """Before anything is written, too."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Unsampled(recipes.VAE):
        def build(self, spec, constants):
            def sample(*_, **__):
                raise ValueError("this density has no samples")

            model = super().build(spec, constants)
            return model._replace(density=model.density._replace(sample=sample))

    with pytest.raises(ValueError, match="this density has no samples"):
        train.fit(Unsampled(hidden=(4,)), data.load("digits"), steps=2, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_usual_warm_up_is_shorter_than_a_short_training():
    """One that is asked for is refused."""
    usual = {"warm_up": 100, "steps": 4000}
    assert config.configured(usual, {"steps": 50}, None, 1000).warm_up == 5
    assert config.configured(usual, {"steps": 101}, None, 1000).warm_up == 100
    assert config.configured(usual, {}, None, 1000).warm_up == 100
    with pytest.raises(ValueError, match="warm_up must be below the 50 steps of training, got 60"):
        config.configured(usual, {"steps": 50, "warm_up": 60}, None, 1000)
