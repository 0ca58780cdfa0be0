"""Checkpoints: round trip, retention, and every way they can be damaged."""

import json
import logging
import os
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from dlvm_jax.train import checkpoint, engine
from dlvm_jax.train.checkpoint import CheckpointError, Checkpoints
from dlvm_jax.train.loop import Interrupted
from tests.train.common import assert_same, build, init, objective

CONFIG = {"latent_dim": 2, "data": "digits"}


def write(folder, scores=(3.0, 1.0, 2.0, 4.0, 5.0)):
    state = build(ema=0.9).init()
    noise = jax.random.normal(
        jax.random.key(1), (200, 200)
    )  # does not compress: the largest file is this array
    state = state._replace(params={**state.params, "noise": noise})
    kept = Checkpoints(folder, CONFIG)
    for i, score in enumerate(scores, 1):
        kept.save(10 * i, state._replace(step=jnp.asarray(10 * i, jnp.int32)), score)
    kept.wait()
    return kept, state


def test_a_stop_while_a_checkpoint_is_read_is_no_damage(tmp_path, monkeypatch):
    kept, state = write(tmp_path)

    def stop(*_, **__):
        raise Interrupted(15, "a checkpoint")

    monkeypatch.setattr(kept._checkpointer, "restore", stop)
    with pytest.raises(Interrupted):
        kept.restore(state)


def test_round_trip_is_bitwise_and_keeps_last_and_best(tmp_path):
    kept, state = write(tmp_path)
    # best is 20; the last two before the newest, and the newest
    assert kept.steps() == [20, 30, 40, 50] and kept.best_step() == 20
    step, restored = Checkpoints(tmp_path, CONFIG).restore(state)
    assert step == 50
    assert_same(restored, state._replace(step=jnp.asarray(50, jnp.int32)))
    assert jax.random.uniform(restored.key) == jax.random.uniform(state.key)
    assert kept.restore(state, kept.best_step())[0] == 20


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    kept = Checkpoints(tmp_path, CONFIG)
    assert kept.restore(build().init()) is None and kept.best_step() is None


def array_files(folder):
    return sorted(
        (f for f in folder.rglob("*") if f.is_file() and f.stat().st_size > 0),
        key=lambda f: -f.stat().st_size,
    )


def truncate(folder):
    for file in array_files(folder):
        os.truncate(file, file.stat().st_size // 2)


def flip(folder):
    """One bit in the middle of the largest file, which holds the arrays."""
    file = array_files(folder)[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(bytes(data))


def empty(folder):
    for file in array_files(folder):
        file.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    kept, state = write(tmp_path)
    damage(tmp_path / "50")
    with pytest.warns(UserWarning, match=r"checkpoint .*50 is damaged .* trying the one before"):
        assert kept.restore(state)[0] == 40


def test_every_flipped_bit_in_the_array_data_is_noticed(tmp_path):
    """A bit in each of several places of the largest file: either Orbax or the digest notices."""
    kept, state = write(tmp_path)
    file = array_files(tmp_path / "50")[0]
    whole = file.read_bytes()
    for place in range(len(whole) // 10, len(whole), len(whole) // 5):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(bytes(data))
        try:
            with pytest.warns(UserWarning, match="damaged"):
                assert kept.restore(state)[0] == 40
        except pytest.fail.Exception:  # the bit was in padding that no array uses
            assert_same(kept.restore(state)[1], state._replace(step=jnp.asarray(50, jnp.int32)))
    file.write_bytes(whole)
    assert kept.restore(state)[0] == 50


def test_a_wrong_digest_is_noticed(tmp_path):
    kept, state = write(tmp_path)
    path = tmp_path / "50.json"
    note = json.loads(path.read_text()) | {"digest": "0" * 64}
    path.write_text(json.dumps(note | {"seal": checkpoint.seal(note)}))
    with pytest.warns(UserWarning, match="do not match their digest"):
        assert kept.restore(state)[0] == 40


def test_an_unreadable_note_is_passed_over(tmp_path):
    kept, state = write(tmp_path)
    (tmp_path / "50.json").write_text('{"step": 5')
    with pytest.warns(UserWarning, match="its note cannot be read"):
        assert kept.restore(state)[0] == 40


@pytest.mark.parametrize(
    "old, new", [('"latent_dim": 2', '"latent_dim": 3'), ('"score"', '"scope"'), ('"digest"', '"digast"')]
)
def test_a_note_with_a_flipped_bit_is_passed_over(tmp_path, old, new):
    kept, state = write(tmp_path)
    path = tmp_path / "50.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.warns(UserWarning, match="its note cannot be read"):
        assert kept.restore(state)[0] == 40


def test_a_configuration_of_any_plain_types_is_recognised(tmp_path):
    _, state = write(tmp_path, (1.0,))
    config = {"hidden": (300, 200), "place": Path("a/b")}
    kept = Checkpoints(tmp_path / "own", config)
    kept.save(5, state)
    kept.wait()
    assert Checkpoints(tmp_path / "own", config).restore(state)[0] == 5


def test_when_all_are_damaged_nothing_is_guessed(tmp_path):
    kept, state = write(tmp_path, (1.0, 2.0))
    for step in kept.steps():
        truncate(tmp_path / str(step))
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"),
    ):
        kept.restore(state)


def test_another_configuration_is_refused_by_name_of_setting(tmp_path):
    _, state = write(tmp_path, (1.0,))
    with pytest.raises(CheckpointError, match=r"another configuration \(latent_dim 2 there, 3 here\)"):
        Checkpoints(tmp_path, {**CONFIG, "latent_dim": 3}).restore(state)


def test_a_run_of_an_older_version_goes_on(tmp_path):
    """A setting that it did not know is None.  Orbax refuses a state of one more field, of which the value is None, too."""
    _, state = write(tmp_path, (1.0,))
    assert Checkpoints(tmp_path, {**CONFIG, "skip": None}).restore(state)[0] == 10
    with pytest.raises(CheckpointError, match=r"another configuration \(skip None there, 1.0 here\)"):
        Checkpoints(tmp_path, {**CONFIG, "skip": 1.0}).restore(state)
    assert engine.State._fields == ("step", "params", "opt_state", "ema", "key")


def cast(params):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


@pytest.mark.parametrize(
    "options, difference",
    [
        (
            {"init": lambda key: {"w": jnp.zeros((5, 7))}},
            r"params/w is float32\[5, 5\] there, float32\[5, 7\] here",
        ),
        ({"init": lambda key: cast(init(key))}, r"params/w is float32\[5, 5\] there, bfloat16\[5, 5\] here"),
        ({"optimizer": optax.sgd(0.1)}, r"opt_state/0/count is int32\[\] there, absent here"),
        ({"ema": 0.9}, r"ema/w is absent there, float32\[5, 5\] here"),
        ({"seeds": (0, 1)}, r"step is int32\[\] there, int32\[2\] here"),
    ],
)
def test_a_checkpoint_of_another_model_is_not_called_damaged(tmp_path, options, difference):
    kept = Checkpoints(tmp_path, CONFIG)
    kept.save(5, build().init())
    kept.wait()
    other = engine.build(
        objective, options.pop("init", init), options.pop("optimizer", optax.adam(0.01)), **options
    )
    with (
        warnings.catch_warnings(),
        pytest.raises(
            CheckpointError, match=rf"another model or training \({difference}\); use the settings"
        ),
    ):
        warnings.simplefilter("error")
        kept.restore(other.init())
    assert_same(kept.restore(build().init())[1], build().init())  # it is intact


def test_a_note_of_an_older_version_is_read(tmp_path):
    """It does not say what the arrays are."""
    kept, state = write(tmp_path, (1.0,))
    path = tmp_path / "10.json"
    note = {name: value for name, value in json.loads(path.read_text()).items() if name != "arrays"}
    path.write_text(json.dumps(note | {"seal": checkpoint.seal(note)}))
    assert kept.restore(state)[0] == 10


def test_a_score_that_is_no_number_is_not_the_best(tmp_path):
    kept, _ = write(tmp_path, (float("nan"), 2.0, 1.0))
    assert kept.best_step() == 30


def test_leftovers_of_a_killed_save_are_ignored(tmp_path):
    kept, state = write(tmp_path)
    (tmp_path / "60.orbax-checkpoint-tmp-1").mkdir()
    (tmp_path / "60.json").write_text("{}")  # note written, arrays not
    (tmp_path / "70").mkdir()  # arrays without a note
    assert kept.steps() == [20, 30, 40, 50] and kept.restore(state)[0] == 50


def test_an_impossible_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write to"):
        Checkpoints(tmp_path / "file" / "checkpoints", CONFIG)


def test_a_failed_write_names_what_is_left(tmp_path, monkeypatch):
    """A full disk, simulated where Orbax hands over to the file system."""
    kept, state = write(tmp_path)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept._checkpointer, "save", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device.* complete checkpoints are \[20, 40, 50\]"
    ):
        kept.save(60, state)


def test_a_full_disk_is_one_line(tmp_path, capfd):
    """Orbax says much before the reason, and logs it too."""
    long = (
        'RESOURCE_EXHAUSTED: Error writing "params/w" '
        + 300 * "x"
        + ": No space left on device [os_error_code='28']"
    )
    kept = Checkpoints(tmp_path, CONFIG)
    assert (
        kept._write_error(5, ValueError(long + "\nTraceback"))
        .args[0]
        .startswith(
            f"checkpoint 5 could not be written to {tmp_path} (No space left on device); free disk space"
        )
    )
    logging.getLogger("absl").error("the same")
    assert "the same" not in capfd.readouterr().err


def test_a_checkpoint_in_double_precision_says_what_reads_it(tmp_path):
    kept = Checkpoints(tmp_path, CONFIG)
    with jax.enable_x64(True):
        double = engine.build(objective, lambda key: {"w": jnp.zeros((5, 5))}, optax.sgd(0.1))
        kept.save(5, double.init())
        kept.wait()
    with pytest.raises(
        CheckpointError, match=r"is in double precision; start Python with .* JAX_ENABLE_X64=1"
    ):
        kept.restore(engine.build(objective, init, optax.sgd(0.1)).init())
