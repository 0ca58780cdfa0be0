"""The script of voices: accuracies by hand, and a run on tones that two speakers say."""

import dataclasses
import json
import wave

import numpy as np
import pytest

from dlvm_jax.data import spectrograms
from experiments.voice import __main__ as script
from experiments.voice import judges, report


def test_codes_stand_for_what_they_are_met_with():
    """Code 0 is met with label 0 twice, 1 with 1 twice and 0 once, 2 is silent in training and stands for the first label."""
    codes, labels = np.array([[0, 0, 1], [1, 1, -1]]), np.array([0, 1])
    tests, test_labels = np.array([[0, 1, 2], [1, -1, -1], [2, 2, 1]]), np.array([0, 1, 1])
    found = judges.code_map(codes, labels, tests, test_labels, 3)
    error = lambda values: np.std(values, ddof=1) / np.sqrt(3)
    right = [2 / 3, 1, 1 / 3]
    assert found["codes"] == pytest.approx((2 / 3, error(right)))
    assert found["majority"] == pytest.approx((1 / 3, error([1, 0, 0])))
    # of label 0 the shares of codes are 3/6, 2/6, 1/6, of label 1 1/5, 3/5, 1/5; the votes are 0, 1, 1
    assert found["vote"] == (1, 0)


class Says:
    """A classifier that reads the answer off the first number that it sees."""

    def __init__(self, factor):
        self.factor = factor

    def predict(self, seen):
        return (seen[:, 0] // self.factor % 10).astype(int)


def test_accuracies_of_own_voices_and_of_others():
    """Answers are written into the spectrograms: digit + 10 speaker, [voices, utterances]."""
    judge = judges.Judges(Says(1), Says(10))
    spoken = np.array([[13, 4, 25], [13, 14, 12], [3, 24, 25]])  # in the voices of 0, 1, 2
    voices = np.zeros((3, 3, spectrograms.FRAMES, spectrograms.BANDS)) + spoken[..., None, None]
    digit, speaker = np.array([3, 4, 5]), np.array([1, 0, 2])
    found = report.accuracies(judge, voices, digit, speaker)
    error = lambda values: np.std(values, ddof=1) / np.sqrt(3)
    assert found["digit"] == (1, 0) and found["speaker"] == (1, 0)
    # of others: 13 and 3 for (3, 1), 14 and 24 for (4, 0), 25 and 12 for (5, 2)
    assert found["digit kept"] == pytest.approx((5 / 6, error([1, 1, 0.5])))
    assert found["speaker moved"] == pytest.approx((0.5, error([0, 1, 0.5])))
    assert found["speaker stayed"] == pytest.approx((1 / 3, error([0.5, 0, 0.5])))
    alone = report.accuracies(judge, voices[:1], digit, speaker)
    assert set(alone) == {"digit", "speaker"} and alone["speaker"][0] == pytest.approx(1)


@pytest.fixture
def tones(tmp_path, monkeypatch):
    """Two speakers say four digits, in four takes each: tones of the digit, and twice its frequency as loud as the speaker."""
    folder, rng = tmp_path / "data" / "fsdd", np.random.RandomState(0)
    folder.mkdir(parents=True)
    time = np.arange(4000) / spectrograms.RATE
    for who, loud in (("anna", 0.05), ("theo", 0.3)):
        for digit in range(4):
            for take in (0, 5, 10, 11):
                wave_of = lambda hertz, size: size * np.sin(2 * np.pi * hertz * time)
                sound = wave_of(300 + 200 * digit, 0.3) + wave_of(600 + 400 * digit, loud)
                sound = 30_000 * sound + rng.randn(len(time))
                with wave.open(str(folder / f"{digit}_{who}_{take}.wav"), "wb") as file:
                    file.setparams((1, 2, spectrograms.RATE, len(time), "NONE", ""))
                    file.writeframes(sound.astype("<i2").tobytes())
    monkeypatch.setenv("DLVM_DATA", str(tmp_path / "data"))


@pytest.mark.slow
def test_a_run_leaves_sounds_and_a_report(tones, tmp_path, monkeypatch):
    config = script.Config(
        **{"levels": (4,), "width": 4, "depth": 0, "halvings": 3, "steps": 2, "batch_size": 8},
        **{"evaluations": 1, "out": tmp_path / "run"},
    )
    script.run(config)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["recordings"]["digit"][0] == 1  # what is so plain is told
    assert result["records"]["0"]["kl"] == pytest.approx(8 * np.log(4), rel=1e-5)
    text = (tmp_path / "run" / "report.md").read_text()
    share, error = result["sounds"]["digit kept"]
    assert f"{share:.3f} ± {error:.3f}" in text and "16 bits for" in text
    assert (tmp_path / "run" / "voices.png").stat().st_size > 1000
    names = {path.name for path in (tmp_path / "run" / "wav").iterdir()}
    assert len(names) == 2 * 2 * 3 and {"0_anna_0.wav", "3_theo_0_as_anna.wav"} <= names
    with wave.open(str(tmp_path / "run" / "wav" / "2_theo_0_as_anna.wav")) as file:
        assert file.getnframes() == 4000 and file.getframerate() == 8000


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("DLVM_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="spoken digits are not here"):
        script.run(script.Config(out=tmp_path / "run"))
    with pytest.raises(ValueError, match="without condition='label' no speaker can be asked for"):
        script.run(dataclasses.replace(script.Config(), condition=None))
