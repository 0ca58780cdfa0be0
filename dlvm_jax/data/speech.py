"""Spoken digits: the recordings of the Free Spoken Digit Dataset, and their log-mel spectrograms as `Data`.

Six people say each of ten digits fifty times.  Takes 0 to 4 are the test set, as its authors say; 5 to 9 are held out for
validation, 10 to 49 are for training.
"""

import hashlib
import re
import wave
from typing import NamedTuple

import numpy as np

from dlvm_jax.data import spectrograms
from dlvm_jax.data.dataset import Data, of_vectors
from dlvm_jax.data.files import data_folder
from dlvm_jax.data.protocol import Protocol

__all__ = ["NAME", "PROTOCOL", "Recordings", "dataset", "parts", "read", "waveforms"]

NAME, PROTOCOL = "spoken_digits", "takes"
FOLDER, PACKED = "fsdd", "fsdd.npz"
FILE = re.compile(r"(\d)_([a-z]+)_(\d+)")  # of 7_jackson_32.wav
TEST, VALID = 5, 10  # the first take after those of a part


class Recordings(NamedTuple):
    """Sounds, int16 [length] each at 8,000 samples a second, by speaker, digit and take; what is said, by whom, and its number.

    speakers: their names
    """

    audio: list[np.ndarray]
    digit: np.ndarray
    speaker: np.ndarray
    take: np.ndarray
    speakers: tuple[str, ...]


def read() -> Recordings:
    """The recordings in the folder `fsdd` of the data folder (`DLVM_DATA`).

    Files DIGIT_SPEAKER_TAKE.wav at any depth, as they are published; or fsdd.npz, which has `audio` of all of them, `offsets`,
    `digit`, `speaker`, `take` and `speaker_names`.
    Raises FileNotFoundError where they are not there, ValueError for other files.
    """
    folder = data_folder(FOLDER, "the spoken digits", "the recordings of the Free Spoken Digit Dataset")
    files = sorted(folder.rglob("*.wav"))
    if not files and not (folder / PACKED).exists():
        raise FileNotFoundError(f"{folder} has no recordings: neither .wav files nor {PACKED}")
    return _of_files(files) if files else _of_arrays(folder / PACKED)


def _of_files(files):
    named = {}
    for file in files:
        match = FILE.fullmatch(file.stem)
        if match is None:
            raise ValueError(f"{file} is not named DIGIT_SPEAKER_TAKE.wav; take it away")
        named[match[2], int(match[1]), int(match[3])] = file
    order = sorted(named)
    speakers = tuple(sorted({name for name, _, _ in order}))
    numbers = np.array([(digit, speakers.index(name), take) for name, digit, take in order], np.int32)
    digit, speaker, take = numbers.T
    return Recordings([_samples(named[key]) for key in order], digit, speaker, take, speakers)


def _samples(file):
    try:
        with wave.open(str(file)) as opened:
            found = opened.getnchannels(), opened.getsampwidth(), opened.getframerate()
            samples = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
    except (wave.Error, EOFError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a sound ({error})") from None
    if found != (1, 2, spectrograms.RATE):
        raise ValueError(
            f"{file} has {found[0]} channels of {8 * found[1]} bits at {found[2]} Hz; "
            f"one of 16 bits at {spectrograms.RATE} Hz was expected"
        )
    return samples


def _of_arrays(file):
    with np.load(file) as packed:
        audio = np.split(packed["audio"], packed["offsets"][1:-1])
        digit, speaker, take = (packed[name].astype(np.int32) for name in ("digit", "speaker", "take"))
        return Recordings(audio, digit, speaker, take, tuple(map(str, packed["speaker_names"])))


def parts(recordings: Recordings) -> dict[str, np.ndarray]:
    """The numbers of the recordings of "train", "valid" and "test", by their takes."""
    take = recordings.take
    chosen = {"train": take >= VALID, "valid": (take >= TEST) & (take < VALID), "test": take < TEST}
    return {part: np.flatnonzero(which) for part, which in chosen.items()}


def waveforms(recordings: Recordings) -> np.ndarray:
    """The sounds on [-1, 1], cut off or filled up with silence to one length: float32 [N, `spectrograms.SAMPLES`]."""
    sounds = np.zeros((len(recordings.audio), spectrograms.SAMPLES), np.float32)
    for row, audio in zip(sounds, recordings.audio, strict=True):
        kept = audio[: spectrograms.SAMPLES]
        row[: len(kept)] = kept / np.float32(2**15)
    return sounds


def dataset(recordings: Recordings) -> Data:
    """Log-mel spectrograms [T, M] of recordings, labelled with the speakers.

    The protocol's hash is over the recordings, the split and the settings of the spectrograms.
    Raises ValueError where a part has no recordings.
    """
    index = parts(recordings)
    for part, numbers in index.items():
        if not len(numbers):
            raise ValueError(f"there is no take for {part} among the spoken digits; put all of them there")
    mel = spectrograms.log_mel(waveforms(recordings))
    sizes = len(index["train"]), len(index["valid"]), len(index["test"])
    counts = "/".join(map(str, sizes))
    transform = f"log-mel {spectrograms.FRAMES} x {spectrograms.BANDS}, window {spectrograms.WINDOW}, hop {spectrograms.HOP}"
    protocol = Protocol(
        PROTOCOL,
        sizes,
        transform,
        0,
        f"{counts}, takes 10 to 49, 5 to 9 and 0 to 4, {transform}; the labels are the speakers",
        "Free Spoken Digit Dataset (Jackson et al.)",
    )
    total = hashlib.sha256()
    for array in (*recordings.audio, recordings.digit, recordings.speaker, recordings.take):
        total.update(np.ascontiguousarray(array).data)
    split = [index[part] for part in ("train", "valid", "test")]
    data = of_vectors(NAME, [mel[i] for i in split], protocol, [recordings.speaker[i] for i in split])
    return data._replace(protocol=protocol.with_hash(total.hexdigest()))
