"""Spoken digits: files and splits, spectrograms of tones against closed forms, sounds of spectrograms."""

import os
import wave

import numpy as np
import pytest

from dlvm_jax import data
from dlvm_jax.data import spectrograms, speech
from dlvm_jax.data.spectrograms import BANDS, FRAMES, RATE, SAMPLES

TIME = np.arange(SAMPLES) / RATE


def tone(hertz, size=0.5):
    return (size * np.sin(2 * np.pi * hertz * TIME)).astype(np.float32)


def magnitudes(spectrogram):
    return 1e-4 * np.exp(spectrogram)


@pytest.mark.parametrize("size", [0.5, 0.05])
def test_a_tone_is_in_its_bands_with_its_size(size):
    """The triangles sum to one at each frequency, and a Hann window spreads a tone by 1/2, 1, 1/2: in all its amplitude."""
    hertz = 40 * RATE / spectrograms.WINDOW
    found = magnitudes(spectrograms.log_mel(tone(hertz, size)[None])[0, 2:-2])
    assert found.shape == (FRAMES - 4, BANDS)
    np.testing.assert_allclose(
        found.sum(1), size, atol=BANDS * 1e-4, rtol=1e-3
    )  # bands without it are at 1e-4
    mel = 2595 * np.log10(1 + np.array([hertz, RATE / 2]) / 700)
    place = mel[0] / mel[1] * (BANDS + 1) - 1  # band k peaks at the share (k + 1) / (BANDS + 1) of all mel
    assert set(found.argmax(1)) == {round(place)}


def test_silence_is_zero_and_ten_times_the_sound_is_log_ten_more():
    np.testing.assert_array_equal(spectrograms.log_mel(np.zeros((1, SAMPLES), np.float32)), 0)
    loud, soft = spectrograms.log_mel(np.stack([tone(1000, 1.0), tone(1000, 0.1)]))
    heard = soft > 0.5
    np.testing.assert_allclose((loud - soft)[heard], np.log(10), atol=1e-3)
    assert 0.25 < magnitudes(loud.max()) < 1


def test_sounds_come_near_to_their_spectrograms():
    """Of a voice-like sound of harmonics; phases at random are further off."""
    pulse = sum(tone(120 * k * (1 + 0.2 * TIME), 0.4 / k) for k in range(1, 20)) * (TIME < 0.6)
    wanted = spectrograms.log_mel(pulse[None])
    off = {}
    for iterations in (0, 32):
        sound = spectrograms.griffin_lim(wanted, 0, iterations)
        assert sound.shape == (1, SAMPLES) and sound.dtype == np.float32
        loud = wanted > 4.6
        off[iterations] = np.abs(spectrograms.log_mel(sound) - wanted)[loud].mean()
    assert off[32] < 0.2 and off[32] < 0.6 * off[0]
    np.testing.assert_array_equal(sound, spectrograms.griffin_lim(wanted, 0, 32))
    assert spectrograms.griffin_lim(wanted[:0], 0).shape == (0, SAMPLES)


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, len(samples), "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two people, two digits, three takes each, in a folder as published; the sounds by name."""
    rng = np.random.RandomState(0)
    sounds = {
        f"{digit}_{who}_{take}": rng.randint(-9000, 9000, 500 + 40 * take)
        for digit in (3, 4)
        for who in ("theo", "anna")
        for take in (4, 9, 10)
    }
    (tmp_path / "fsdd" / "recordings").mkdir(parents=True)
    for name, samples in sounds.items():
        write_wav(tmp_path / "fsdd" / "recordings" / f"{name}.wav", samples)
    monkeypatch.setenv("DLVM_DATA", str(tmp_path))
    return tmp_path / "fsdd", sounds


def test_files_are_split_by_their_takes(folder):
    _, sounds = folder
    read = speech.read()
    assert read.speakers == ("anna", "theo")
    names = [
        f"{d}_{read.speakers[s]}_{t}" for d, s, t in zip(read.digit, read.speaker, read.take, strict=True)
    ]
    assert names == sorted(sounds, key=lambda name: (name[2:6], name[0], int(name[7:])))
    for name, audio in zip(names, read.audio, strict=True):
        np.testing.assert_array_equal(audio, sounds[name])
    index = speech.parts(read)
    assert [set(read.take[index[part]]) for part in ("train", "valid", "test")] == [{10}, {9}, {4}]
    found = data.load("spoken_digits")
    assert found.protocol.sizes == (4, 4, 4) and found.spec.event_shape == (FRAMES, BANDS)
    assert found.levels == 0 and found.spec.classes == 2
    np.testing.assert_array_equal(found.test_labels, [0, 0, 1, 1])
    first = np.zeros((1, SAMPLES), np.float32)
    first[0, :660] = sounds["3_anna_4"] / 2**15
    np.testing.assert_array_equal(found.test[:1], spectrograms.log_mel(first))


def test_the_hash_is_that_of_the_sounds_however_they_are_packed(folder):
    place, sounds = folder
    found, read = data.load("spoken_digits"), speech.read()
    write_wav(place / "recordings" / "3_theo_4.wav", sounds["3_theo_4"] + (np.arange(660) == 7))
    assert data.load("spoken_digits").protocol.hash != found.protocol.hash
    for file in (place / "recordings").iterdir():
        file.unlink()
    ends = np.cumsum([0, *map(len, read.audio)])
    arrays = {"digit": read.digit, "speaker": read.speaker, "take": read.take, "speaker_names": read.speakers}
    np.savez(place / "fsdd.npz", audio=np.concatenate(read.audio), offsets=ends, **arrays)
    packed = data.load("spoken_digits")
    assert packed.protocol == found.protocol
    np.testing.assert_array_equal(packed.train, found.train)


def test_what_is_not_there_or_no_recording_is_refused(folder, tmp_path, monkeypatch):
    place, sounds = folder
    with pytest.raises(ValueError, match="unknown protocol of spoken_digits 'levels'; there are takes"):
        data.load("spoken_digits", "levels")
    with pytest.raises(ValueError, match="spoken_digits has no setting levels"):
        data.load("spoken_digits", levels=3)
    with pytest.raises(ValueError, match=r"sounds are arrays .*, got shape"):
        spectrograms.log_mel(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match=r"spectrograms are arrays .*, got shape"):
        spectrograms.griffin_lim(np.zeros((2, 100), np.float32), 0)
    file = place / "recordings" / "3_theo_4.wav"
    write_wav(file, sounds["3_theo_4"], 16000)
    with pytest.raises(
        ValueError, match=r"3_theo_4.wav has 1 channels of 16 bits at 16000 Hz; one of 16 bits at 8000"
    ):
        speech.read()
    file.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"3_theo_4.wav cannot be read as a sound"):
        speech.read()
    file.rename(file.with_name("theo.wav"))
    with pytest.raises(ValueError, match=r"theo.wav is not named DIGIT_SPEAKER_TAKE.wav"):
        speech.read()
    for file in (place / "recordings").glob("*[49].wav"):
        file.unlink()
    file = place / "recordings" / "theo.wav"
    file.unlink()
    with pytest.raises(ValueError, match="no take for valid among the spoken digits"):
        data.load("spoken_digits")
    for file in (place / "recordings").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"fsdd has no recordings: neither .wav files nor fsdd.npz"):
        speech.read()
    monkeypatch.setenv("DLVM_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"not here \(DLVM_DATA=.*elsewhere has no fsdd\)"):
        speech.read()
    monkeypatch.delenv("DLVM_DATA")
    with pytest.raises(
        FileNotFoundError, match=r"not here \(DLVM_DATA is not set\); put the recordings .* set DLVM_DATA"
    ):
        data.load("spoken_digits")


def test_the_recordings_at_hand_are_all_of_them():
    if not os.path.isdir(os.path.join(os.environ.get("DLVM_DATA", "no data"), "fsdd")):
        pytest.skip("DLVM_DATA names no folder with fsdd")
    read = speech.read()
    assert {part: len(numbers) for part, numbers in speech.parts(read).items()} == {
        "train": 2400,
        "valid": 300,
        "test": 300,
    }
    assert len(read.speakers) == 6
    assert set(np.bincount(10 * read.speaker + read.digit)) == {50}
    assert min(map(len, read.audio)) == 1148 and max(map(len, read.audio)) == 18262
