"""The classifier of C2ST against scikit-learn's, which the published recipe names."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.neural_network import MLPClassifier

from dlvm_jax.evaluate import perceptron


def two_classes(count, seed=0):
    """Examples of N(0, I) and N(.5, I) in the plane, and their classes."""
    rng = np.random.RandomState(seed)
    x = np.concatenate([rng.randn(count, 2), 0.5 + rng.randn(count, 2)])
    order = rng.permutation(2 * count)
    return x[order], np.repeat([0, 1], count)[order]


@pytest.mark.parametrize("count", [50, 200, 225])  # one small batch, two whole ones, and a third of 50
def test_an_epoch_is_that_of_scikit_learn(count):
    """The same function after two epochs, from the same weights, in the same order, but for rounding.

    Adam's epsilon stands elsewhere there, which moves the weights of units that see no example; the function does not show it.
    """
    x, y = two_classes(count)
    net = MLPClassifier((20, 20), shuffle=False).partial_fit(x, y, classes=[0, 1])
    layers = perceptron.start(jax.random.key(0), (2, 20, 20, 1))
    net.coefs_ = [np.asarray(layer.weights, np.float64) for layer in layers]
    net.intercepts_ = [np.asarray(layer.biases, np.float64) for layer in layers]
    del net._optimizer  # what it remembers of the first weights
    adam = optax.adam(perceptron.RATE).init(layers)
    for _ in range(2):
        net.partial_fit(x, y)
        layers, adam, loss = perceptron.epoch(
            layers, adam, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
        )
        assert abs(loss - net.loss_) < 1e-6
    odds = net.predict_proba(x)[:, 1]
    assert abs(jax.nn.sigmoid(perceptron.log_odds(layers, jnp.asarray(x, jnp.float32))) - odds).max() < 1e-5


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
def test_it_stops_where_scikit_learn_stops():
    """Means over ten seeds of the log of epochs and of the final loss, within four standard errors.

    Of 600 sets of seeds one raises a false alarm.
    """
    x, y = two_classes(1000)
    ours, theirs = [], []
    for seed in range(10):
        layers, epochs = perceptron.fit(jax.random.key(seed), jnp.asarray(x), jnp.asarray(y, float), (20, 20))
        ours.append([np.log(int(epochs)), float(perceptron.loss(layers, jnp.asarray(x), jnp.asarray(y)))])
        net = MLPClassifier((20, 20), max_iter=10_000, random_state=seed).fit(x, y)
        theirs.append([np.log(net.n_iter_), net.loss_])
    error = np.sqrt((np.var(ours, 0, ddof=1) + np.var(theirs, 0, ddof=1)) / 10)
    assert (abs(np.mean(ours, 0) - np.mean(theirs, 0)) < 4 * error).all()
