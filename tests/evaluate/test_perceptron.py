"""The classifier of C2ST against scikit-learn's, which the published recipe names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier, _multilayer_perceptron

from dlvm_jax.evaluate import perceptron, posteriors


def two_classes(count, seed=0):
    """Examples of N(0, I) and N(.5, I) in the plane, and their classes."""
    rng = np.random.RandomState(seed)
    x = np.concatenate([rng.randn(count, 2), 0.5 + rng.randn(count, 2)])
    order = rng.permutation(2 * count)
    return x[order], np.repeat([0, 1], count)[order]


def from_the_same(layers, **settings):
    """scikit-learn's classifier, which starts from these layers."""
    net = MLPClassifier((20, 20), **settings)
    first = iter([tuple(np.array(part, np.float64) for part in layer) for layer in layers])
    net._init_coef = lambda *sizes: next(first)
    return net


def assert_same(layers, net, error):
    for layer, weights, biases in zip(layers, net.coefs_, net.intercepts_, strict=True):
        np.testing.assert_allclose(layer.weights, weights, rtol=0, atol=error)
        np.testing.assert_allclose(layer.biases, biases, rtol=0, atol=error)


# An epoch that ends on a small batch; on a whole one; of one small batch.
SIZES = pytest.mark.parametrize("count", [225, 200, 50])


@SIZES
def test_an_epoch_is_that_of_scikit_learn(count):
    """Single precision: the same weights and losses after two epochs, from the same weights, in the same order."""
    x, y = two_classes(count)
    layers = perceptron.start(jax.random.key(0), (2, 20, 20, 1))
    net, adam = from_the_same(layers, shuffle=False), perceptron.OPTIMISER.init(layers)
    for _ in range(2):
        net.partial_fit(x, y, classes=[0, 1])
        layers, adam, loss = perceptron.epoch(
            layers, adam, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), jnp.arange(2 * count)
        )
        assert abs(loss - net.loss_) < 1e-6
        assert_same(layers, net, 1e-5)
    odds = net.predict_proba(x)[:, 1]
    assert abs(jax.nn.sigmoid(perceptron.log_odds(layers, jnp.asarray(x, jnp.float32))) - odds).max() < 1e-5


@SIZES
def test_training_is_that_of_scikit_learn(count, x64, monkeypatch):
    """Double precision: it stops at the same epoch, with the same weights, if both start and shuffle alike."""
    x, y = two_classes(count)
    key = jax.random.key(0)
    layers, epochs = perceptron.fit(key, jnp.asarray(x), jnp.asarray(y, float), (20, 20))
    first, second = jax.random.split(key)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(second)))
    monkeypatch.setattr(
        _multilayer_perceptron, "shuffle", lambda order, random_state: rng.permutation(len(order))
    )
    net = from_the_same(perceptron.start(first, (2, 20, 20, 1)), max_iter=10_000).fit(x, y)
    assert epochs == net.n_iter_ > 100
    assert_same(layers, net, 1e-6)


def test_each_key_has_its_own_weights_and_orders():
    x, y = two_classes(225)
    fit = lambda seed: perceptron.fit(jax.random.key(seed), jnp.asarray(x), jnp.asarray(y, float), (20, 20))
    (one, epochs), (again, same), (other, _) = fit(0), fit(0), fit(1)
    assert epochs == same and (one[0].weights == again[0].weights).all()
    assert not (one[0].weights == other[0].weights).any()


def test_numbers_beyond_single_precision_are_refused():
    """Not taken for classes that nobody can tell apart."""
    x, y = two_classes(50)
    x[3, 0] = np.inf  # what 1e39 is there
    with pytest.raises(ValueError, match="too large for its precision"):
        perceptron.fit(jax.random.key(0), jnp.asarray(x), jnp.asarray(y, float), (20, 20))


def test_it_starts_as_scikit_learn_does():
    """Weights and biases are uniform within one bound; the largest of 2,000 is within 1 % of it but for a chance of 1e-8."""
    layers = perceptron.start(jax.random.key(0), (20, 100, 1))
    net = MLPClassifier((100,), max_iter=1).partial_fit(
        np.random.RandomState(0).randn(30, 20), [0, 1] * 15, classes=[0, 1]
    )
    assert [layer.weights.shape for layer in layers] == [w.shape for w in net.coefs_]
    assert [layer.biases.shape for layer in layers] == [b.shape for b in net.intercepts_]
    bound = np.sqrt(6 / 120)
    for values in (layers[0].weights, net.coefs_[0]):
        assert 0.99 * bound < abs(values).max() < 1.01 * bound and abs(values.mean()) < 0.02
    assert 0.9 * bound < abs(layers[0].biases).max() <= bound
    assert 0.9 * np.sqrt(6 / 101) < abs(layers[1].weights).max() <= np.sqrt(6 / 101)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_c2st_is_that_of_scikit_learn(shift):
    """Means over five seeds, which share their folds, and the best classifier's accuracy.

    A paired t-test: one of 1,000 sets of seeds raises a false alarm in either.  The best accuracy: 5 standard errors
    of 2,000 examples, and .01 for the network.
    """
    rng = np.random.RandomState(2)
    reference, draws = rng.randn(1000, 2), rng.randn(1000, 2) + shift / np.sqrt(2)
    mean, std = reference.mean(0), reference.std(0, ddof=1)
    both = np.concatenate([(draws - mean) / std, (reference - mean) / std])
    theirs = [
        cross_val_score(
            MLPClassifier((20, 20), max_iter=10_000, random_state=seed),
            both,
            np.repeat([0, 1], 1000),
            cv=KFold(5, shuffle=True, random_state=seed),
        ).mean()
        for seed in range(5)
    ]
    ours = [posteriors.c2st(draws, reference, seed) for seed in range(5)]
    assert scipy.stats.ttest_rel(ours, theirs).pvalue > 1e-3
    best = scipy.stats.norm.cdf(shift / 2)
    assert abs(np.mean(ours) - best) < 5 * np.sqrt(best * (1 - best) / 2000) + 0.01
