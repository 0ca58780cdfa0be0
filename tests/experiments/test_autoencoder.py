"""The autoencoder script: its measurements by hand, classifiers, report, resume, what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from dlvm_jax import train
from dlvm_jax.train import loop
from experiments.autoencoder import __main__ as autoencoder
from experiments.autoencoder import report
from experiments.autoencoder.classifier import Classifier
from tests.train.common import assert_same

TINY = autoencoder.Config(
    hidden=(8,), latent_dim=3, steps=20, classifier_steps=10, label_limit=50, eval_limit=40, train_limit=200
)


def test_auc_is_the_share_of_pairs_in_order():
    """All pairs by hand, ties counting half; DeLong's error against that of U by ranks, and against many draws."""
    rng = np.random.RandomState(0)
    inside, outside = rng.randint(0, 6, 40) / 2, rng.randint(2, 9, 25) / 2
    pairs = (outside[:, None] > inside) + 0.5 * (outside[:, None] == inside)
    value, error = report.auc(inside, outside)
    assert value == pytest.approx(pairs.mean(), abs=1e-12)
    assert (pairs == 0.5).any() and 0.5 < value < 1  # there are ties, and it is no trivial area
    every = np.concatenate([inside, outside])
    ranks = np.array([(every < each).sum() + ((every == each).sum() + 1) / 2 for each in every])
    u = ranks[len(inside) :].sum() - len(outside) * (len(outside) + 1) / 2
    assert value == pytest.approx(u / (len(inside) * len(outside)), abs=1e-12)
    by_hand = pairs.mean(1).var(ddof=1) / len(outside) + pairs.mean(0).var(ddof=1) / len(inside)
    assert error == pytest.approx(np.sqrt(by_hand), rel=1e-9)
    draws = [report.auc(rng.randn(40), rng.randn(25) + 1) for _ in range(400)]
    values, errors = np.array(draws).T
    assert errors.mean() == pytest.approx(
        values.std(), rel=0.15
    )  # 4 deviations of the deviation of 400 draws


def test_auc_of_separate_and_equal_scores():
    assert report.auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == (1.0, 0.0)
    assert report.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == (0.0, 0.0)
    assert report.auc(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == (0.5, 0.0)


def test_effective_units_count_the_units_at_work():
    codes = np.array([[3.0, 0, 0, 0], [2, -2, 0, 0], [1, 1, -1, 1], [3, 1, 0, 0]])
    np.testing.assert_allclose(report.effective_units(codes), [1, 2, 4, 1.6])
    np.testing.assert_allclose(report.effective_units(1e-3 * codes), [1, 2, 4, 1.6])


def test_principal_axes_span_the_data():
    """Rows in a plane of R^5: two axes give them back, one leaves the smaller variance."""
    rng = np.random.RandomState(0)
    basis = np.linalg.qr(rng.randn(5, 2))[0]
    x = rng.randn(500, 2) * [3.0, 0.5] @ basis.T + 7
    for dim, left in ((2, 0.0), (1, x.var(0).sum() - np.linalg.eigvalsh(np.cov(x.T, bias=True))[-1])):
        mean, axes = report.pca(x, dim)
        again = mean + (x - mean) @ axes @ axes.T
        assert np.square(again - x).sum(1).mean() == pytest.approx(left, abs=1e-9)


@pytest.mark.slow
def test_a_run_leaves_a_report_and_goes_on(tmp_path):
    """Every part: classifiers, VAE with a likelihood of its own scale, outliers, pictures; a continued run changes nothing."""
    config = dataclasses.replace(
        TINY, kind="denoising", compare_vae=True, vae_std=0.5, against="digits", out=tmp_path / "run"
    )
    config = dataclasses.replace(config, steps=400, learning_rate=0.01)  # long enough to remove noise
    autoencoder.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert list(result["accuracy"]) == ["frozen", "fine-tuned", "from scratch"]
    assert all(0 <= value <= 1 for value, _ in result["accuracy"].values())
    area, error = result["auc"]["digits"]  # the data against themselves; false alarms 6e-5
    assert abs(area - 0.5) < 4 * error
    assert result["auc"]["gaussian noise"][0] > 0.8
    errors = result["squared_error"]
    assert errors["autoencoder"][0] < errors["the noisy input itself"][0]
    assert {"VAE, from the posterior mean", "PCA with 3 axes", "mean image"} <= set(errors)
    text = (config.out / "report.md").read_text()
    for name in ("compare", "reconstructions", "denoised", "interpolation", "outliers", "latent", "curves"):
        assert (config.out / f"{name}.png").stat().st_size > 3000 and f"![{name}]" in text
    assert train.load(config.out / "vae").recipe.std == 0.5
    assert train.load(config.out).spec.examples == 200
    with pytest.raises(ValueError, match="already holds a run"):
        autoencoder.run(config)
    autoencoder.run(dataclasses.replace(config, resume=True))
    assert json.loads((config.out / "result.json").read_text()) == result
    with pytest.raises(ValueError, match=r"scaled-first-200 .* there"):
        autoencoder.run(dataclasses.replace(config, resume=True, train_limit=300))


@pytest.mark.slow
def test_a_run_is_extended_and_its_classifiers_begin_again(tmp_path):
    config = dataclasses.replace(TINY, out=tmp_path / "run")
    autoencoder.run(config)
    before = train.load(config.out / "classifier-frozen")
    autoencoder.run(dataclasses.replace(config, resume=True, steps=2 * config.steps))
    longer, after = train.load(config.out), train.load(config.out / "classifier-frozen")
    assert longer.config.steps == 2 * config.steps
    encoder = lambda fitted: jax.tree.leaves(fitted.params["encoder"])[0]
    np.testing.assert_array_equal(encoder(after), encoder(longer))
    assert not np.array_equal(encoder(after), encoder(before))


@pytest.mark.slow
def test_classifiers_start_from_the_encoder_and_the_same_head(tmp_path):
    """The frozen encoder stays that of the autoencoder, the fine-tuned one moves; the head of all starts alike."""
    config = dataclasses.replace(TINY, steps=4, classifier_steps=2, out=tmp_path / "run")
    data = autoencoder._load(
        config, fitted_recipe := autoencoder.common.recipe_of(config, autoencoder.recipes.Autoencoder)
    )
    fitted = train.fit(fitted_recipe, data, out=config.out, steps=4, progress=False)
    further = autoencoder._train_further(config, data, fitted)
    encoders = {name: trained.params["encoder"] for name, trained in further.classifiers.items()}
    assert_same(encoders["frozen"], fitted.params["encoder"])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), encoders["fine-tuned"], encoders["frozen"])
    assert 0 < max(jax.tree.leaves(moved)) < 0.1
    assert further.vae is None and all(t.spec.examples == 50 for t in further.classifiers.values())
    start = autoencoder.on_encoder_of(fitted, Classifier(**dataclasses.asdict(fitted_recipe)), data.spec)
    scratch = train.fit(
        Classifier(**dataclasses.asdict(fitted_recipe)),
        data,
        out=tmp_path / "scratch",
        steps=1,
        learning_rate=1e-12,
        progress=False,
    )
    for a, b in zip(*map(jax.tree.leaves, (start.params["head"], scratch.params["head"])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


@pytest.mark.slow
def test_vectors_and_data_without_labels(tmp_path):
    """Rows of real numbers: no classifiers, no pictures of images."""
    np.savetxt(tmp_path / "rows.csv", np.random.RandomState(0).randn(200, 6), delimiter=",")
    config = dataclasses.replace(
        TINY, data=str(tmp_path / "rows.csv"), train_limit=None, out=tmp_path / "run"
    )
    autoencoder.run(config)
    result = json.loads((config.out / "result.json").read_text())
    assert result["accuracy"] == {} and (config.out / "latent.png").exists()
    assert not (config.out / "reconstructions.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (0,)}, r"hidden must be at least 1, got \(0,\)"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"noise": float("nan")}, "noise must be at least 0, got nan"),
        ({"weight": float("nan"), "kind": "sparse"}, "weight must be at least 0, got nan"),
        ({"vae_std": 0.0}, "vae_std must be above 0, got 0.0"),
        ({"resume": True}, "resume=True goes on with the run in out; say which"),
        ({"data": "binarized_mnist"}, "has no protocol whose values are scaled"),
        ({"against": "binarized_mnist"}, "has no protocol whose values are scaled"),
        (
            {"against": "breast_cancer"},
            r"outliers must have the shape \(8, 8, 1\) of digits, those of breast_cancer have",
        ),
        ({"train_limit": 5000}, "train_limit is at most the 1000 training examples, got 5000"),
        ({"label_limit": 5000}, "label_limit is at most the 1000 training examples, got 5000"),
    ],
)
def test_bad_input_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        autoencoder.run(autoencoder.Config(**options))
    assert not list(tmp_path.iterdir())


def test_a_run_that_stops_has_left_its_settings_and_is_not_overwritten(tmp_path, monkeypatch):
    def stopped(trainer, config, data, state, *, checkpoints, **_):
        checkpoints.save(1, state)
        checkpoints.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.run(autoencoder.Config(hidden=(8,), out=tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 5000
    assert (tmp_path / "manifest.json").exists() and not (tmp_path / "result.json").exists()
    with pytest.raises(ValueError, match=r"already holds a run .* give resume=True"):
        autoencoder.run(autoencoder.Config(hidden=(9,), out=tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["hidden"] == [8]
