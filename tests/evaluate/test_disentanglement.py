"""Disentanglement metrics of codes whose scores are known: the factors themselves, copies, constants, noise, mixtures."""

import numpy as np
import pytest

from dlvm_jax.data.factors import LEVELS, all_factors
from dlvm_jax.evaluate import disentanglement as metrics

FEW = {"train": 1000, "test": 1000}
RNG = np.random.default_rng(0)
FACTORS = all_factors()[RNG.permutation(7680)[:3000]]
SIGNS = np.array([1.0, -3.0, 0.5, 10.0, 2.0])


def all_scores(codes):
    return metrics.Scores(
        metrics.beta_vae_score(codes, FACTORS, **FEW),
        metrics.factor_vae_score(codes, FACTORS, **FEW),
        metrics.mig(codes, FACTORS),
        metrics.sap(codes, FACTORS),
        metrics.dci(codes, FACTORS, trees=20),
    )


def test_the_factors_themselves_score_one():
    """In any order, sign and scale.  MIG is short of one by the bias of 3,000 rows, below 1%; SAP is one minus chance."""
    order = [3, 0, 4, 2, 1]
    scores = all_scores(FACTORS[:, order] * SIGNS)
    assert scores.beta_vae > 0.99 and scores.factor_vae == 1
    assert 0.99 < scores.mig <= 1
    assert scores.sap == pytest.approx(1 - np.mean([1 / n for n in LEVELS.values()]), abs=0.03)
    assert min(scores.dci) > 0.99


def test_constant_codes_are_at_chance():
    """Five factors: one in five; five standard errors of 1,000 test points are 0.063."""
    scores = all_scores(np.zeros((3000, 5)))
    assert scores.beta_vae == pytest.approx(0.2, abs=0.07)
    assert scores.factor_vae == scores.mig == scores.sap == 0
    assert scores.dci[:2] == pytest.approx((0, 0), abs=1e-12)
    chance = np.mean([1 / n for n in LEVELS.values()])
    assert scores.dci.informativeness == pytest.approx(chance, abs=0.03)


def test_permuted_codes_know_nothing():
    """The codes of other rows: chance, plus the best of a few useless codes (0.02 of MI's bias and of accuracy)."""
    scores = all_scores(RNG.permutation(FACTORS) * SIGNS)
    assert scores.beta_vae == pytest.approx(0.2, abs=0.08) and scores.factor_vae < 0.3
    assert max(scores.mig, scores.sap) < 0.02
    assert max(scores.dci[:2]) < 0.05


def test_duplicated_codes_are_disentangled_and_not_complete():
    """Two codes share each factor: no gap, and completeness 1 - log 2 / log 10."""
    scores = all_scores(np.concatenate([FACTORS, FACTORS], axis=1).astype(float))
    assert scores.beta_vae > 0.99 and scores.factor_vae == 1
    assert scores.mig == scores.sap == 0
    assert scores.dci.disentanglement > 0.99
    assert scores.dci.completeness == pytest.approx(1 - np.log(2) / np.log(10), abs=0.02)


def test_rotated_codes_are_informative_and_entangled():
    """Every factor in every code equally: beta-VAE's linear classifier still knows the factor, the gaps do not."""
    standard = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
    rotation, _ = np.linalg.qr(np.random.RandomState(0).randn(5, 5))
    scores = all_scores(standard @ rotation)
    assert scores.beta_vae > 0.9
    assert max(scores.mig, scores.sap, scores.dci.disentanglement) < 0.4
    assert scores.dci.informativeness > 0.4


def test_mutual_information_gap_by_hand():
    """Code 1 is two-level v1 wherever a fair coin says so and else another coin: I = log 2 - H(1/4), code 2 is noise."""
    rng = np.random.default_rng(1)
    v = rng.integers(2, size=(200_000, 2))
    first = np.where(rng.random(len(v)) < 0.5, v[:, 0], rng.integers(2, size=len(v)))
    codes = np.stack([first, v[:, 1]], axis=1).astype(float)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    expected = 0.5 * (1 - entropy / np.log(2)) + 0.5
    assert metrics.mig(codes, v) == pytest.approx(expected, abs=0.01)


def test_dci_by_hand_from_importances():
    rows = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(metrics._one_minus_entropy(rows), [1, 0.5, 0, 0], atol=1e-12)


def test_pairs_share_the_factor_they_should():
    rng = np.random.default_rng(0)
    groups = metrics._Groups(FACTORS)
    rows, which = rng.integers(3000, size=(500, 8)), rng.integers(5, size=(500, 8))
    other = groups.like(rng, rows, which)
    assert (FACTORS[rows, which] == FACTORS[other, which]).all()
    assert len(np.unique(other)) > 1500  # and are otherwise drawn freely
    rest = (which + 1) % 5
    assert (FACTORS[rows, rest] == FACTORS[other, rest]).mean() < 0.3


def test_prune_leaves_out_collapsed_codes():
    """A code of tiny variance that happens to follow a factor exactly would win every vote of it."""
    codes = np.concatenate([FACTORS.astype(float), 1e-3 * RNG.normal(size=(3000, 3))], axis=1)
    assert metrics.factor_vae_score(codes, FACTORS, **FEW) == 1
    assert metrics.factor_vae_score(1e-3 * codes, FACTORS, **FEW) == 0
    whole = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
    for variance, score in ((0.045, 0), (0.055, 1)):  # the paper's threshold
        assert metrics.factor_vae_score(variance**0.5 * whole, FACTORS, **FEW) == score


def test_scores_do_not_depend_on_the_scale_of_a_code():
    """Noisy codes, so that a shared factor leaves its code some variance."""
    codes = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0) + 0.3 * RNG.normal(size=FACTORS.shape)
    first, again = all_scores(codes), all_scores(codes * SIGNS)
    assert first.factor_vae == again.factor_vae > 0.95
    assert first.beta_vae == pytest.approx(again.beta_vae, abs=0.005)  # where the solver stops
    assert first.mig == pytest.approx(
        again.mig, abs=0.002
    )  # one code changes sign, and its bins their closed side


def test_scores_are_reproducible_and_print():
    codes = FACTORS[:300] + RNG.normal(size=(300, 5))
    first, again = (metrics.evaluate(codes, FACTORS[:300], seed=3) for _ in range(2))
    assert first == again
    assert first.line().startswith(f"beta-VAE {first.beta_vae:.3f}, ") and " DCI 0." in first.line()


@pytest.mark.parametrize(
    ("codes", "factors", "said"),
    [
        (np.zeros((5, 2)), np.zeros((4, 2), int), "got (5, 2) and (4, 2)"),
        (np.zeros((5, 1)), np.zeros((5, 2), int), "two or more codes and factors"),
        (np.zeros((5, 2)), np.zeros((5, 2)), "integer levels, got float64"),
        (np.zeros((5, 2)), np.zeros((5, 2), int), "same level in all rows"),
        (np.full((5, 2), np.nan), np.eye(5, 2, dtype=int), "codes must be finite"),
    ],
)
def test_bad_arrays_are_refused(codes, factors, said):
    with pytest.raises(ValueError) as error:
        metrics.mig(codes, factors)
    assert said in str(error.value)


def test_complex_codes_are_refused():
    with pytest.raises(ValueError, match="codes must be real numbers"):
        metrics.mig(np.eye(4) + 1j, np.arange(8).reshape(4, 2))
