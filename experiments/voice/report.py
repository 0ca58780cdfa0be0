"""Conversion of test recordings to each speaker: accuracies, sounds, pictures and report."""

import wave
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from dlvm_jax.data import Data, spectrograms, speech
from dlvm_jax.evaluate import pictures
from dlvm_jax.progress import phase
from dlvm_jax.train.fitted import Fitted
from dlvm_jax.train.run import RunFolder
from experiments.evaluation import learning_curves, records_of_seeds
from experiments.voice import judges
from experiments.voice.judges import Judges, share
from experiments.vq_vae.report import code_use

if TYPE_CHECKING:
    from experiments.voice.__main__ import Config

__all__ = ["accuracies", "converted", "evaluate_and_write", "heard_codes"]

BOTH = 2  # recordings of each speaker that are written as sounds, in all voices


def evaluate_and_write(config: "Config", data: Data, fitted: Fitted, folder: RunFolder) -> Mapping[str, Any]:
    """Records of each seed; accuracies, sounds and pictures of the first; report.md: the run's result."""
    recordings = speech.read()
    index = speech.parts(recordings)
    of_test = index["test"]
    digit, speaker = recordings.digit[of_test], recordings.speaker[of_test]
    records = records_of_seeds(config, fitted, (data.test, speaker), folder)
    with phase("classifiers"):
        judge = judges.trained(
            data.train, recordings.digit[index["train"]], recordings.speaker[index["train"]]
        )
    voices = converted(fitted, data.test)
    with phase("sounds of spectrograms"):
        sounds = [spectrograms.griffin_lim(voice, config.seeds[0]) for voice in voices]
        of_recordings = spectrograms.griffin_lim(data.test, config.seeds[0])
        heard = np.stack([spectrograms.log_mel(sound) for sound in sounds])
    codes, test_codes = (
        heard_codes(fitted, spectra, recordings, index[part])
        for part, spectra in (("train", data.train), ("test", data.test))
    )
    levels = fitted.model.parts.quantiser.levels
    maps = {
        name: judges.code_map(codes, labels[index["train"]], test_codes, labels[of_test], levels)
        for name, labels in (("digit", recordings.digit), ("speaker", recordings.speaker))
    }
    result = {
        "records": {str(s): record.as_dict() for s, record in zip(config.seeds, records, strict=True)},
        "recordings": accuracies(judge, data.test[None], digit, speaker),
        "recordings by Griffin-Lim": accuracies(
            judge, spectrograms.log_mel(of_recordings)[None], digit, speaker
        ),
        "spectrograms": accuracies(judge, voices, digit, speaker),
        "sounds": accuracies(judge, heard, digit, speaker),
        "codes": maps,
        "use": code_use(codes[codes >= 0], levels),
        "step": fitted.step,
    }
    shown = [_chosen(recordings, of_test, who) for who in range(len(recordings.speakers))]
    _write_sounds(folder.root / "wav", recordings, of_test, np.concatenate(shown), sounds)
    _picture(folder.root / "voices.png", data, recordings, of_test, [few[0] for few in shown], voices)
    learning_curves(folder.root, folder.metrics())
    report = _report(config, data, fitted, result, folder)
    (folder.root / "report.md").write_text(report)
    print(report)
    return result


def converted(fitted: Fitted, spectra: np.ndarray) -> np.ndarray:
    """The mean of p(x | codes, speaker) for the codes of spectrograms [N, T, M] and each speaker: [speakers, N, T, M]."""
    codes = jax.jit(fitted.model.encode)(fitted.params, jnp.asarray(spectra))
    decode = jax.jit(lambda who: fitted.decode(codes, jnp.full(len(spectra), who)))
    return np.stack([np.asarray(decode(who)) for who in range(fitted.spec.classes or 0)])


def heard_codes(
    fitted: Fitted, spectra: np.ndarray, recordings: speech.Recordings, numbers: np.ndarray
) -> np.ndarray:
    """The codes of recordings [N, P], -1 at places that begin after the end of the recording."""
    codes = np.array(jax.jit(fitted.model.encode)(fitted.params, jnp.asarray(spectra)))
    samples = np.array([len(recordings.audio[number]) for number in numbers])
    places = codes.shape[1] // fitted.recipe.maps
    begins = np.arange(places).repeat(fitted.recipe.maps) * (spectrograms.FRAMES // places) * spectrograms.HOP
    return np.where(begins < samples[:, None], codes, -1)


def accuracies(
    judge: Judges, voices: np.ndarray, digit: np.ndarray, speaker: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Shares of test utterances, with standard errors over these: of spectrograms [1 or speakers, N, T, M].

    Of one spectrogram an utterance, and of those in its own speaker's voice: "digit" right, "speaker" right.  Of those in the
    voices of others, in the mean over them: "digit kept", "speaker moved" to the one that was asked for, "speaker stayed".
    """
    says = np.stack([judge.says(voice) for voice in voices])
    speaks = np.stack([judge.speaks(voice) for voice in voices])
    rows = np.arange(len(digit))
    own = (speaker if len(voices) > 1 else np.zeros_like(speaker)), rows
    found = {"digit": share(says[own] == digit), "speaker": share(speaks[own] == speaker)}
    if len(voices) == 1:
        return found
    asked = np.arange(len(voices))[:, None]
    other = asked != speaker
    of_others = lambda right: share((right & other).sum(0) / other.sum(0))
    return found | {
        "digit kept": of_others(says == digit),
        "speaker moved": of_others(speaks == asked),
        "speaker stayed": of_others(speaks == speaker),
    }


def _chosen(recordings, of_test, who):
    """Test recordings of a speaker, of digits that differ from those of other speakers: places among the test recordings."""
    mine = recordings.speaker[of_test] == who
    first = recordings.take[of_test] == recordings.take[of_test].min()
    wanted = [(BOTH * who + i) % 10 for i in range(BOTH)]
    return np.flatnonzero(mine & first & np.isin(recordings.digit[of_test], wanted))


def _name(recordings, number):
    return f"{recordings.digit[number]}_{recordings.speakers[recordings.speaker[number]]}_{recordings.take[number]}"


def _write_sounds(folder, recordings, of_test, places, sounds):
    """Sounds as long as the recordings, DIGIT_SPEAKER_TAKE_as_OTHER.wav, beside the recordings themselves."""
    folder.mkdir(exist_ok=True)
    for place in places:
        number = of_test[place]
        audio, name = recordings.audio[number], _name(recordings, number)
        _write_wav(folder / f"{name}.wav", audio)
        for who, voice in zip(recordings.speakers, sounds, strict=True):
            levels = np.clip(voice[place, : len(audio)] * 2**15, -(2**15), 2**15 - 1).round()
            _write_wav(folder / f"{name}_as_{who}.wav", levels.astype("<i2"))


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, spectrograms.RATE, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def _picture(path, data, recordings, of_test, places, voices):
    """A row for each recording: itself, then in each voice; low frequencies at the bottom."""
    rows = [[data.test[place], *(voice[place] for voice in voices)] for place in places]
    images = np.array(rows).swapaxes(-1, -2)[..., ::-1, :]
    pictures.grid(
        path,
        images.reshape(-1, *images.shape[2:]) / -np.log(spectrograms.FLOOR),
        1 + len(voices),
        "recordings, and means of p(x|codes, speaker)",
        scale=2,
        above=["recording", *recordings.speakers],
        beside=[_name(recordings, of_test[place]) for place in places],
    )


def _report(config, data, fitted, result, folder):
    of = lambda found, name: f"{found[name][0]:.3f} ± {found[name][1]:.3f}" if name in found else "-"
    own = ("digit", "speaker")
    others = ("digit kept", "speaker moved", "speaker stayed")
    table = lambda names, columns: "\n".join(
        f"| {name} | " + " | ".join(of(result[name], column) for column in columns) + " |" for name in names
    )
    maps = "\n".join(
        f"| {name} | " + " | ".join(of(found, column) for column in ("codes", "majority", "vote")) + " |"
        for name, found in result["codes"].items()
    )
    records = "\n".join(
        f"| {seed} | {r['log_likelihood']:.1f} ± {r['standard_error']:.1f} | {r['reconstruction']:.1f} | {r['kl']:.1f} |"
        for seed, r in result["records"].items()
    )
    use, places = result["use"], fitted.recipe.grid(fitted.spec)[0]
    bits = places * np.log2(use["codes"])
    return f"""# Spoken digits in other voices

A VQ-VAE of log-mel spectrograms whose decoder is given the speaker: {places} codes of {use["codes"]}, {bits:.0f} bits for
{spectrograms.SAMPLES / spectrograms.RATE:.2f} seconds; likelihood {config.likelihood}.

{data.protocol.description} (protocol `{data.protocol.name}`, hash `{data.protocol.hash}`).
VQ-VAE of step {result["step"]}, {folder.seconds():.0f} s of training.  Classifiers are trained on recordings of training takes.
Shares of {len(data.test)} test recordings; ± is the standard error over them.  By chance a digit is right in 0.1, a speaker in
{1 / data.spec.classes:.3f}.

Each in its own speaker's voice:

| | digit right | speaker right |
|---|---|---|
{table(("recordings", "recordings by Griffin-Lim", "spectrograms", "sounds"), own)}

Each in the voices of the others:

| | digit kept | speaker moved to the one asked for | speaker stayed |
|---|---|---|---|
{table(("spectrograms", "sounds"), others)}

`spectrograms` are what the decoder puts out, `sounds` their sounds by Griffin-Lim, as the classifiers hear them.

If each code stands for the label that it is met with most often in training:

| label | codes right | all for the commonest label | recordings right by all their codes |
|---|---|---|---|
{maps}

Codes of training recordings: perplexity {use["perplexity"]:.1f} of {use["codes"]}, {use["used"]:.1%} of them used.

| seed | bound, nats | log p(x\\|k) | -log p(k) |
|---|---|---|---|
{records}

![voices](voices.png)
![curves](curves.png)

`wav/`: recordings, and DIGIT_SPEAKER_TAKE_as_OTHER.wav.  Settings: `config.json`; versions and devices: `manifest.json`; figures:
`result.json`.
"""
