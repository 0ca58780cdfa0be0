"""The benchmark of data that are read from a file."""

import numpy as np
import pytest

from experiments.benchmark import streaming


@pytest.mark.slow
def test_both_ways_are_timed_and_end_in_the_same_parameters(monkeypatch):
    for name, value in {"BATCH": 20, "HIDDEN": 8}.items():
        monkeypatch.setattr(streaming, name, value)
    x = (np.random.RandomState(0).rand(100, 784) < 0.13).astype(np.uint8)
    seconds = streaming.measure(x, 3)
    assert list(seconds) == ["resident", "streamed"]
    assert all(each.shape == (3, 2) and (each[:, 0] > 0).all() for each in seconds.values())

    feed = streaming.stream.feed

    def wrong(trainer, config, x, start):
        return feed(trainer, config, x if config.on_device else 1 - x, start)

    monkeypatch.setattr(streaming.stream, "feed", wrong)
    with pytest.raises(ValueError, match="streamed and resident training differ"):
        streaming.measure(x, 2)
