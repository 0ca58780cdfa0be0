"""Who says what: classifiers of spectrograms, and what the codes of a sound tell of it."""

from typing import Any, NamedTuple

import numpy as np

from dlvm_jax.data.spectrograms import BANDS, FRAMES

__all__ = ["Judges", "code_map", "share", "trained"]

POOLED = 4  # frames that a classifier sees the mean of: what is said changes slowly, and a decoder's mean is smooth


def share(right: np.ndarray) -> tuple[float, float]:
    """Mean of shares [N], one an utterance, and its standard error."""
    return float(np.mean(right)), float(np.std(right, ddof=1) / np.sqrt(len(right)))


class Judges(NamedTuple):
    """Classifiers of what is said and by whom; see `says` and `speaks`."""

    digit: Any
    speaker: Any

    def says(self, spectrograms: np.ndarray) -> np.ndarray:
        """The digits of spectrograms, [N, T, M] -> [N]."""
        return self.digit.predict(_seen(spectrograms))

    def speaks(self, spectrograms: np.ndarray) -> np.ndarray:
        """The speakers of spectrograms, [N, T, M] -> [N]."""
        return self.speaker.predict(_seen(spectrograms))


def _seen(spectrograms):
    pooled = spectrograms.reshape(len(spectrograms), FRAMES // POOLED, POOLED, BANDS).mean(2)
    return np.clip(pooled, 0, None).reshape(len(pooled), -1)


def trained(spectrograms: np.ndarray, digit: np.ndarray, speaker: np.ndarray) -> Judges:
    """Support vector machines with Gaussian kernels, of recordings."""
    from sklearn.svm import SVC

    return Judges(*(SVC(C=10.0).fit(_seen(spectrograms), labels) for labels in (digit, speaker)))


def code_map(
    codes: np.ndarray, labels: np.ndarray, test_codes: np.ndarray, test_labels: np.ndarray, levels: int
) -> dict[str, tuple[float, float]]:
    """Each code stands for the label that it was most often met with; how often that is right for codes of test utterances.

    codes: [N, P], -1 at places of silence;  levels: number of codes
    Returns shares with their standard errors over test utterances: "codes" of right codes in an utterance, "vote" of utterances
    whose codes together (as if they were independent) make their own label the most probable, and "majority" of right codes if
    all stood for the commonest label.
    """
    counts = np.zeros((levels, labels.max() + 1))
    heard = codes >= 0
    np.add.at(counts, (codes[heard], np.broadcast_to(labels[:, None], codes.shape)[heard]), 1)
    heard = test_codes >= 0
    each = heard.sum(1)
    right = (counts.argmax(1)[test_codes] == test_labels[:, None]) & heard
    log_share = np.log((counts + 1) / (counts + 1).sum(0))  # of a label's codes
    votes = np.where(heard[..., None], log_share[test_codes], 0).sum(1).argmax(1)
    return {
        "codes": share(right.sum(1) / each),
        "vote": share(votes == test_labels),
        "majority": share(test_labels == counts.sum(0).argmax()),
    }
