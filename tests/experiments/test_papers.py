"""Rows of published results and of our own checks: what they say, their verdicts, and that each can run."""

import importlib
import json
import math
import os
import pkgutil
import re

import jax
import numpy as np
import pytest

from dlvm_jax import data, recipes
from experiments import papers
from experiments.papers import burda2016
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import readers, results
from experiments.reproduce.registry import doubtful, every_row, verdict
from experiments.run import recipe_of
from experiments.vae import __main__ as vae
from tests.experiments.common import folders, row_of

ROWS = every_row()


@pytest.mark.parametrize(
    "better, value, expected",
    [
        ("higher", 1.05, "reproduced"),
        ("higher", 1.5, "better"),
        ("higher", 0.5, "missed"),
        ("lower", 1.5, "missed"),
        ("lower", 0.5, "better"),
        ("same", 1.05, "agree"),
        ("same", 1.5, "missed"),
        ("same", 0.5, "missed"),
        ("higher", float("nan"), "missed"),
    ],
)
def test_verdicts(better, value, expected):
    assert verdict(row_of(better=better), value) == expected


@pytest.mark.parametrize(
    "value, error, expected",
    [(1.05, 0.04, False), (1.05, 0.06, True), (1.15, 0.04, False), (1.15, 0.06, True), (0.8, 0.15, True)],
)
def test_a_verdict_within_the_noise_is_marked(value, error, expected):
    assert doubtful(row_of(), value, error) == expected
    assert not doubtful(row_of(better="same"), value, error)
    assert not doubtful(row_of(published=None), value, error)


def test_published_values_stand_as_printed():
    assert row_of(published="-82.40 ± 0.10").known == -82.4
    assert row_of(published="-88.90").known == -88.9
    assert "| -82.40 ± 0.10 |" in results._line(row_of(published="-82.40 ± 0.10"), None)


def test_without_a_published_value_a_number_is_only_measured():
    assert verdict(row_of(published=None), 3.0) == "measured"
    assert verdict(row_of(published=None), float("nan")) == "missed"


@pytest.mark.parametrize("name", ROWS)
def test_every_row_says_what_it_is(name):
    row = ROWS[name]
    assert row.name == name and name == name.lower() and " " not in name
    for field in ("source", "what", "confirmed", "recipe", "evaluation"):
        assert getattr(row, field).strip()
    assert row.tolerance > 0
    assert row.published is None or math.isfinite(row.known)
    assert row.confirmed.startswith("nowhere") == (row.published is None)


def test_published_results_stand_apart():
    """Rows of `experiments.papers` are those with a published number, and no others."""
    modules = [
        importlib.import_module(f"{papers.__name__}.{info.name}")
        for info in pkgutil.iter_modules(papers.__path__)
    ]
    of_papers = {row.name for module in modules for row in module.ROWS}
    assert of_papers == {name for name, row in ROWS.items() if row.is_published}
    assert set(results.SHOWN) <= of_papers and len(results.SHOWN) == 10


def test_the_written_tables_are_those_of_the_records(tmp_path):
    """RESULTS.md is as `table` writes it, and the README's rows and counts are its."""
    whole = (reproduce.HERE.parent / "README.md").read_text()
    before, rest = whole.split(results.BEGIN)
    (tmp_path / "README.md").write_text(
        f"{before}{results.BEGIN}gone\n{results.END}{rest.split(results.END)[1]}"
    )
    reproduce.table(reproduce.Table(out=tmp_path / "RESULTS.md", readme=tmp_path / "README.md"))
    assert (reproduce.HERE / "RESULTS.md").read_text() == (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "README.md").read_text() == whole and whole.count("\n| vae-vamp-mnist |") == 1


def test_two_rows_of_one_name_are_refused(monkeypatch):
    from experiments.checks import linear_vae

    monkeypatch.setattr(linear_vae, "ROWS", [ROWS["linear-vae-freyfaces"]] * 2)
    with pytest.raises(
        ValueError, match=r"two rows are named 'linear-vae-freyfaces'; rename .*checks.linear_vae"
    ):
        every_row()


@pytest.mark.slow
def test_a_vae_row_reads_its_run(tmp_path):
    settings = {
        "latent_dim": 2,
        "hidden": (16,),
        "steps": 40,
        "eval_samples": 4,
        "eval_limit": 30,
        "seeds": (0, 1),
    }
    found = readers.vae_run(**settings)(tmp_path / "row", False)
    result = json.loads((tmp_path / "row" / "result.json").read_text())
    values = [result["records"][seed]["log_likelihood"] for seed in "01"]
    assert found.value == pytest.approx(np.mean(values))
    assert found.details["deviation_over_seeds"] == pytest.approx(np.std(values, ddof=1))
    nats = np.load(tmp_path / "row" / "nats.npy")
    assert found.standard_error == pytest.approx((nats.std(1, ddof=1) / np.sqrt(30)).mean())
    elbo, elbo_in_bits, bits = (
        readers.vae_run(quantity, **settings)(tmp_path / "row", False)
        for quantity in ("elbo", "elbo_in_bits", "bits")
    )
    assert elbo.value == pytest.approx(np.mean([result["records"][seed]["elbo"] for seed in "01"]))
    assert elbo.value < found.value and elbo.standard_error > 0
    for nats, in_bits in ((elbo, elbo_in_bits), (found, bits)):
        assert in_bits.value == pytest.approx(-nats.value / 64 / np.log(2))
        assert in_bits.standard_error == pytest.approx(nats.standard_error / 64 / np.log(2))
    units = readers.vae_run("active_units", **settings)(tmp_path / "row", False)
    assert 0 <= units.value <= 2 and units.standard_error == 0
    assert found.details["protocol_hash"] == result["records"]["0"]["protocol_hash"]
    encoder, decoder = 64 * 16 + 16 + 16 * 4 + 4, 2 * 16 + 16 + 16 * 64 + 64
    assert found.details["parameters"] == 2 * (encoder + decoder) and found.details["steps"] == 40
    weights = 64 * 16 + 16 * 4 + 2 * 16 + 16 * 64  # three products each, but for the gradient of the images
    assert found.details["flops_per_step"] == 2 * 2 * 100 * (3 * weights - 64 * 16)


@pytest.mark.slow
def test_orders_on_a_network_after_a_short_training(tmp_path, short_solutions):
    """Any network has them; what is left is the next term of the error.  The second and the third read the run of the first."""
    for name, order in [("ddim", 1), ("edm-heun", 2), ("dpm-multistep-2", 2)]:
        found = ROWS[f"order-{name}-trained"].run(tmp_path, True)
        assert found.value == pytest.approx(order, abs=0.1) and found.standard_error < 0.05, name


@pytest.mark.slow
def test_rows_of_annealing_and_of_a_difference(tmp_path):
    """Each against the runs that it reads."""
    short = {"latent_dim": 2, "hidden": (16,), "steps": 40, "eval_samples": 4, "eval_limit": 30}
    found = readers.vae_run("annealing", **short, ais=20, ais_limit=10)(tmp_path / "one", False)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    annealed = float(result["annealed importance sampling"].split("~ ")[1].split(" +-")[0])
    nats = np.load(tmp_path / "one" / "nats.npy")[0]
    assert found.value == pytest.approx(annealed - nats[:10].mean(), abs=0.006)  # two printed digits
    pair = [{**short, "objective": objective, "samples": 3} for objective in ("dreg", "iwae")]
    found = readers.paired_run(*pair, "iwae-3")(tmp_path / "dreg-3", False)
    dreg, iwae = (np.load(tmp_path / name / "nats.npy")[0] for name in ("dreg-3", "dreg-3/iwae-3"))
    assert "elbo" not in found.details and found.details["iwae-3"]["settings"]["objective"] == "iwae"
    assert found.value == pytest.approx((dreg - iwae).mean()) and found.value != 0
    assert found.standard_error == pytest.approx((dreg - iwae).std(ddof=1) / np.sqrt(30))


@pytest.mark.parametrize("options, message", [
    ({"published": "0.71 (mean)"}, r"published is '1.23', .* got '0\.71 \(mean\)'"),
    ({"published": "nan"}, "got 'nan'"),
    ({"published": 0.71}, "got 0\\.71"),
    ({"published": None, "tolerance": 0}, "tolerance must be above 0, got 0"),
    ({"better": "more"}, "better is 'higher', 'lower' or 'same', got 'more'"),
])  # fmt: skip
def test_a_malformed_row_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=f"row toy: .*{message}"):
        row_of(**options)


def test_a_row_says_what_it_costs_or_how_long_it_takes():
    assert all(row.minutes or re.search(r"\d", row.cost) for row in ROWS.values())


def test_rows_that_read_one_seed_refuse_several():
    for make in (lambda **s: readers.vae_run("annealing", **s), lambda **s: readers.paired_run(s, s, "b")):
        with pytest.raises(ValueError, match=r"read off one seed, got seeds \(0, 1\)"):
            make(seeds=(0, 1))
        assert make(seeds=(3,)) and make()


class Seen(Exception):
    pass


@pytest.mark.parametrize(
    "name", [name for name, row in ROWS.items() if row.run.__module__ == readers.__name__]
)
@pytest.mark.parametrize("quick", [False, True])
def test_every_run_of_a_row_is_possible(name, quick, tmp_path, monkeypatch):
    """Its script accepts the settings, of the row itself and of its quick version."""

    def check(run, config):
        config.check()
        raise Seen

    monkeypatch.setattr(readers.common, "carried_out", check)
    with pytest.raises(Seen):
        ROWS[name].run(tmp_path, quick)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ppca-freyfaces-5",
        "order-dpm-multistep-3",
        "linear-vae-freyfaces",
        "kl-nre-gaussian-1000",
        "sphere-moebius-spline-effective",
        "levels-mnist",
        "law-ancestral-large-1000",
        "iwae-5-mnist-2-layers-original-units",
        "normal-posterior-frey-faces",
    ],
)
def test_a_row_of_each_kind_runs(name, tmp_path, capsys, short_solutions):
    """In its quick version, on the real data; the diffusion model of the plane runs with its orders, above."""
    if not os.environ.get("DLVM_DATA") and any(part in name for part in ("frey", "mnist")):
        pytest.skip("this row needs data: set DLVM_DATA")
    reproduce.run(reproduce.Run((name,), quick=True, **folders(tmp_path)))
    assert "QUICK" in capsys.readouterr().out


@pytest.mark.parametrize("layers, parameters", [(1, 425_284), (2, 521_084)])
def test_the_networks_of_burda_have_as_many_parameters_as_theirs(layers, parameters):
    """Counted by hand: 784-200-200-2 x 50 and back; or -2 x 100 and back, and 100-100-100-2 x 50, 50-100-100-2 x 100."""
    settings = burda2016.settings(layers, "iwae", 5, burda2016.ORIGINAL)
    recipe = recipe_of(vae.Config(**settings), recipes.VAE)
    spec = data.Spec("mnist", "bits", "", (28, 28, 1), 9, 2, True, 1.0)
    model = recipe.build(spec, {"mean": np.zeros((28, 28, 1))})
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters
