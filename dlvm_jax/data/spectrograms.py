r"""Log-mel spectrograms of short sounds, and sounds of log-mel spectrograms, by SciPy's short-time Fourier transform.

A spectrogram [T, M] has T frames of M mel bands.  A magnitude m, about 1 for a sine of full scale, becomes
$\log\max(m/m_0, 1)$, from 0 to about 9.2: $m_0$ lies 80 decibels below full scale.
"""

from functools import cache

import numpy as np

__all__ = ["BANDS", "FLOOR", "FRAMES", "HOP", "RATE", "SAMPLES", "griffin_lim", "log_mel"]

RATE = 8000  # samples a second
WINDOW, HOP = 384, 128  # samples of a frame, and from frame to frame: 48 and 16 milliseconds
FRAMES, BANDS = 64, 40
SAMPLES = HOP * (FRAMES - 1)
FLOOR = 1e-4  # magnitudes below it count as silence
BLOCK = 300  # sounds that are transformed at a time


@cache
def _filters() -> np.ndarray:
    """Triangles that overlap by half, evenly spaced in mel up to half the rate, on the frequencies of a frame [bins, bands]."""
    mel_of = lambda hertz: 2595 * np.log10(1 + hertz / 700)
    corners = 700 * (10 ** (np.linspace(0, mel_of(RATE / 2), BANDS + 2) / 2595) - 1)
    hertz = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    return np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None)


def _transform(audio):
    """Short-time Fourier transform of sounds [N, SAMPLES], [N, T, bins]."""
    from scipy.signal import stft

    return stft(audio, nperseg=WINDOW, noverlap=WINDOW - HOP, padded=False)[2].swapaxes(-1, -2)


def _sound(transformed):
    from scipy.signal import istft

    return istft(transformed.swapaxes(-1, -2), nperseg=WINDOW, noverlap=WINDOW - HOP)[1]


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Log-mel spectrograms of sounds: float32 [N, SAMPLES] on [-1, 1] -> float32 [N, T, M].

    Raises ValueError for sounds of another length.
    """
    if audio.ndim != 2 or audio.shape[1] != SAMPLES:
        raise ValueError(f"sounds are arrays [N, {SAMPLES}], got shape {audio.shape}")
    found = np.empty((len(audio), FRAMES, BANDS), np.float32)
    for start in range(0, len(audio), BLOCK):
        mel = np.abs(_transform(audio[start : start + BLOCK])) @ _filters()
        found[start : start + BLOCK] = np.log(np.maximum(mel / FLOOR, 1))
    return found


def _magnitudes(spectrograms, iterations=30):
    """Non-negative magnitudes [N, T, bins] whose mel bands come near to those of spectrograms: Lee & Seung 2001."""
    filters = _filters().astype(np.float32)
    mel = FLOOR * np.exp(np.maximum(spectrograms, 0))
    back = mel @ filters.T
    found = back / filters.sum()
    for _ in range(iterations):
        found = found * back / np.maximum(found @ filters @ filters.T, 1e-12)
    return found


def griffin_lim(
    spectrograms: np.ndarray, seed: int, iterations: int = 20, momentum: float = 0.99
) -> np.ndarray:
    """Sounds whose log-mel spectrograms come near to the given ones: float32 [N, T, M] -> float32 [N, SAMPLES].

    Magnitudes of the frequencies by non-negative least squares; phases, random at first, by the fast Griffin-Lim algorithm.
    seed: of the first phases;  iterations, momentum: of the algorithm
    Raises ValueError for spectrograms of another shape.  Source: Griffin & Lim 1984; Perraudin, Balazs, Sondergaard 2013.
    """
    if spectrograms.ndim != 3 or spectrograms.shape[1:] != (FRAMES, BANDS):
        raise ValueError(f"spectrograms are arrays [N, {FRAMES}, {BANDS}], got shape {spectrograms.shape}")
    rng, sounds = np.random.RandomState(seed), [np.zeros((0, SAMPLES), np.float32)]
    for start in range(0, len(spectrograms), BLOCK):
        magnitudes = _magnitudes(np.asarray(spectrograms[start : start + BLOCK], np.float32))
        phases = np.exp(2j * np.pi * rng.random_sample(magnitudes.shape)).astype(np.complex64)
        before = np.zeros_like(phases)
        for _ in range(iterations):
            after = _transform(_sound(magnitudes * phases))
            moved = after + momentum * (after - before)
            phases, before = moved / np.maximum(np.abs(moved), 1e-12), after
        sounds.append(_sound(magnitudes * phases).astype(np.float32))
    return np.concatenate(sounds)
