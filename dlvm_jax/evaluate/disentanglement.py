"""Disentanglement metrics of codes of data whose factors are known: beta-VAE, FactorVAE, MIG, SAP and DCI scores.

All take `codes` [N, M], one code for each of N images (for a VAE the posterior means), and `factors` [N, F], the integer
levels behind them; N, M, F >= 2.  The rows stand for the data: "images that share a factor" are drawn among the rows with
one level of it, so the rows should be a full enumeration or a large independent sample.  Scores are in [0, 1], one for codes
that are the factors themselves (SAP: one minus chance).  ValueError for arrays that are not so, or a factor that never varies.

Settings are those of Locatello et al. 2019 unless a docstring says otherwise.
"""

from typing import Any, NamedTuple

import numpy as np

from dlvm_jax.models.spaces import check_numbers

__all__ = ["DCI", "Scores", "beta_vae_score", "dci", "evaluate", "factor_vae_score", "mig", "sap"]


class DCI(NamedTuple):
    """Each code of one factor; each factor in one code; accuracy of the factors predicted from the codes."""

    disentanglement: float
    completeness: float
    informativeness: float


class Scores(NamedTuple):
    """All scores of `evaluate`."""

    beta_vae: float
    factor_vae: float
    mig: float
    sap: float
    dci: DCI

    def line(self) -> str:
        """The scores as one line of text."""
        return (
            f"beta-VAE {self.beta_vae:.3f}, FactorVAE {self.factor_vae:.3f}, MIG {self.mig:.3f}, SAP {self.sap:.3f}, DCI "
            + " / ".join(f"{value:.3f}" for value in self.dci)
        )


def _checked(codes, factors):
    check_numbers(codes, "codes")
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if not (codes.ndim == factors.ndim == 2 and len(codes) == len(factors)):
        raise ValueError(f"codes are [N, M] and factors [N, F], got {codes.shape} and {factors.shape}")
    if min(*codes.shape, factors.shape[1]) < 2:
        raise ValueError(
            f"the metrics compare two or more codes and factors, got {codes.shape} and {factors.shape}"
        )
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors are integer levels, got {factors.dtype}")
    if not np.isfinite(codes).all():
        raise ValueError("codes must be finite, got nan or infinity")
    if (factors == factors[0]).all(axis=0).any():
        raise ValueError("a factor has the same level in all rows; leave it out")
    return codes, factors


class _Groups:
    """Draws of rows that share the level of a factor."""

    def __init__(self, factors):
        self.order = np.argsort(factors, axis=0, kind="stable")
        self.start, self.end = np.empty_like(self.order), np.empty_like(self.order)
        for k, column in enumerate(factors.T):
            self.start[:, k] = np.searchsorted(column[self.order[:, k]], column, "left")
            self.end[:, k] = np.searchsorted(column[self.order[:, k]], column, "right")

    def like(self, rng, rows, which):
        """A row that has, of factor which[i], the level of rows[i]; any shape."""
        place = rng.integers(self.start[rows, which], self.end[rows, which])
        return self.order[place, which]


def beta_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    seed: int = 0,
) -> float:
    """Accuracy of a linear classifier that finds which factor `batch` pairs of images share, from the mean of |z - z'| over them.

    train, test: number of such means to fit on, and to test on

    It is a logistic regression on standardised inputs: the score does not depend on the codes' scale.
    Source: Higgins et al. 2017, section 3 (their classifier is trained by gradient steps).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, factors = _checked(codes, factors)
    rng, groups = np.random.default_rng(seed), _Groups(factors)

    def points(count):
        label = rng.integers(factors.shape[1], size=count)
        means = np.empty((count, codes.shape[1]))
        for start in range(0, count, 500):  # pairs of 500 points at a time
            which = np.repeat(label[start : start + 500, None], batch, axis=1)
            first = rng.integers(len(codes), size=which.shape)
            second = groups.like(rng, first, which)
            means[start : start + 500] = np.abs(codes[first] - codes[second]).mean(1)
        return means, label

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(*points(train)).score(*points(test)))


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    train: int = 10_000,
    test: int = 5_000,
    batch: int = 64,
    prune: float = 0.05,
    seed: int = 0,
) -> float:
    """Accuracy of a majority vote that finds which factor a batch shares, from the code that varies least in it.

    train, test: number of batches to count votes of, and to test on
    prune: codes with a variance below it take no part; without any the score is zero

    Variances are relative to those over all rows.  Source: Kim & Mnih 2018 (FactorVAE), section 4.
    """
    codes, factors = _checked(codes, factors)
    spread = codes.var(axis=0, ddof=1)
    codes = codes[:, spread >= prune] / np.sqrt(spread[spread >= prune])
    if codes.shape[1] == 0:
        return 0.0
    rng, groups = np.random.default_rng(seed), _Groups(factors)

    def votes(count):
        table = np.zeros((codes.shape[1], factors.shape[1]), int)
        for start in range(0, count, 500):
            label = rng.integers(factors.shape[1], size=min(500, count - start))
            which = np.repeat(label[:, None], batch, axis=1)
            first = np.repeat(rng.integers(len(codes), size=(len(label), 1)), batch, axis=1)
            least = codes[groups.like(rng, first, which)].var(axis=1).argmin(axis=1)
            np.add.at(table, (least, label), 1)
        return table

    guess = votes(train).argmax(axis=1)
    tested = votes(test)
    return float(tested[np.arange(len(guess)), guess].sum() / tested.sum())


def _gap(matrix):
    """Difference of the largest two rows of each column."""
    top = np.sort(matrix, axis=0)
    return top[-1] - top[-2]


def mig(codes: np.ndarray, factors: np.ndarray, *, bins: int = 20) -> float:
    r"""Mutual information gap, over codes cut into so many bins of equal width.

    $\frac1F\sum_k \frac{1}{H(v_k)}\big(I(z_{j_k}; v_k) - \max_{j\ne j_k} I(z_j; v_k)\big),\ j_k = \arg\max_j I(z_j; v_k)$

    Source: Chen et al. 2018 (beta-TCVAE), section 4.1; they estimate I from q(z|x), here from the codes.
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _checked(codes, factors)
    cut = [np.digitize(c, np.histogram_bin_edges(c, bins)[1:-1]) for c in codes.T]
    information = np.array([[mutual_info_score(v, c) for v in factors.T] for c in cut])
    entropy = [mutual_info_score(v, v) for v in factors.T]
    return float((_gap(information) / entropy).mean())


def _halves(count, seed):
    """A random two thirds of the rows for training, the rest for testing."""
    order = np.random.default_rng(seed).permutation(count)
    return order[: 2 * count // 3], order[2 * count // 3 :]


def sap(codes: np.ndarray, factors: np.ndarray, *, seed: int = 0) -> float:
    """Attribute predictability: the mean gap between the two codes that best predict a factor, each alone.

    The prediction is by thresholds on the code, as many as there are levels less one, and its score the balanced accuracy on
    held-out rows; codes that are the factors score one minus the mean of 1/levels.  A decision tree finds the thresholds: the
    one-versus-rest linear classifiers of some implementations cannot find a level between two others.
    Source: Kumar et al. 2018 (DIP-VAE), section 3.
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    codes, factors = _checked(codes, factors)
    train, test = _halves(len(codes), seed)

    def score(code, factor):
        levels = len(np.unique(factor))
        tree = DecisionTreeClassifier(max_leaf_nodes=levels, class_weight="balanced", random_state=seed)
        tree.fit(code[train, None], factor[train])
        return balanced_accuracy_score(factor[test], tree.predict(code[test, None]))

    return float(_gap(np.array([[score(c, v) for v in factors.T] for c in codes.T])).mean())


def _one_minus_entropy(weights):
    """1 - H(p) / log K of each row of nonnegative weights [*, K], p the row over its sum; 0 for a row of zeros."""
    total = weights.sum(axis=1, keepdims=True)
    p = np.where(total > 0, weights / np.where(total > 0, total, 1.0), 1 / weights.shape[1])
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1)
    return 1 - entropy / np.log(weights.shape[1])


def dci(codes: np.ndarray, factors: np.ndarray, *, trees: int = 50, seed: int = 0) -> DCI:
    r"""Disentanglement, completeness and informativeness from the importance of each code for each factor.

    $D = \sum_j \rho_j\,(1 - H_F(R_{j\cdot})),\quad C = \tfrac1F\sum_k 1 - H_M(R_{\cdot k})$

    Entropies are to base F and M, $\rho_j$ is the share of code j in all importance.  R comes from random forests, one a
    factor, with all codes tried at each split (Locatello et al. take gradient-boosted trees, much slower); informativeness is
    their mean accuracy on held-out rows.
    Source: Eastwood & Williams 2018, section 2.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _checked(codes, factors)
    train, test = _halves(len(codes), seed)
    all_codes: Any = None  # scikit-learn says "all" so, and its stubs do not know it
    forests = [
        RandomForestClassifier(trees, max_features=all_codes, random_state=seed).fit(codes[train], v[train])
        for v in factors.T
    ]
    importance = np.stack([forest.feature_importances_ for forest in forests], axis=1)
    share = importance.sum(axis=1) / max(importance.sum(), np.finfo(float).tiny)
    return DCI(
        float(share @ _one_minus_entropy(importance)),
        float(_one_minus_entropy(importance.T).mean()),
        float(np.mean([f.score(codes[test], v[test]) for f, v in zip(forests, factors.T, strict=True)])),
    )


def evaluate(codes: np.ndarray, factors: np.ndarray, *, seed: int = 0) -> Scores:
    """All `Scores` of codes; about ten seconds for ten thousand rows of ten codes."""
    return Scores(
        beta_vae_score(codes, factors, seed=seed),
        factor_vae_score(codes, factors, seed=seed),
        mig(codes, factors),
        sap(codes, factors, seed=seed),
        dci(codes, factors, seed=seed),
    )
