"""A run: resume, guard, early stopping, signals, logs."""

import json
import os
import re
import signal
import subprocess

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlvm_jax.train import engine, loop, optimisers, run, stream, validation
from dlvm_jax.train.checkpoint import Checkpoints
from dlvm_jax.train.config import TrainConfig
from dlvm_jax.train.run import RunFolder, manifest
from tests.train.common import X, assert_same, build, fit, init, objective


def lines(folder, name="metrics.jsonl"):
    return (folder / name).read_bytes()


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    _, whole, _ = fit(tmp_path / "whole")
    config = {"steps": 60}
    fit(tmp_path / "parts", steps=30, config=config)
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "loss": 1.0}\n{"step": 50, "lo')  # written after the checkpoint, then killed
    _, parts, _ = fit(tmp_path / "parts", steps=60, config=config, resume=True)
    assert_same(whole, parts)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert len(lines(tmp_path / "parts", "timing.jsonl").splitlines()) == 6


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("schedule, same", [("constant", True), ("cosine", False)])
def test_a_run_of_300_steps_extended_to_600_equals_one_of_600(tmp_path, ema, schedule, same):
    """Where the schedule does not depend on the length.  Step 300 is no evaluation of the long run, which pauses every 70."""

    def trained(name, steps, resume=False):
        optimizer = optimisers.make("adam", 0.01, steps, schedule=schedule, warm_up=20)
        trainer = build(ema=ema, optimizer=optimizer)
        config = {"of": "both"}
        return fit(tmp_path / name, steps, every=70, config=config, trainer=trainer, resume=resume)[1]

    whole = trained("whole", 600)
    trained("parts", 300)
    parts = trained("parts", 600, resume=True)
    assert int(parts.step) == 600
    if same:
        assert_same(whole, parts)
    else:
        assert np.abs(np.asarray(whole.params["w"] - parts.params["w"])).max() > 1e-6


def test_non_finite_metric_stops_with_step_metric_and_checkpoint(tmp_path):
    def sick(params, key, batch, step=None):
        loss, metrics = objective(params, key, batch)
        return loss, {**metrics, "kl": jnp.where(jnp.abs(params["w"]).sum() > 3.3, jnp.nan, 1.0)}

    trainer = engine.build(sick, init, optax.adam(0.01))
    with pytest.raises(
        loop.NonFiniteError,
        match=r"stopped at step \d+: kl = nan; the last good checkpoint is that of step \d+",
    ):
        fit(tmp_path, trainer=trainer)


def test_parameters_that_overflow_are_not_saved_and_earlier_checkpoints_stay(tmp_path):
    """sqrt has an infinite gradient at 0: the last loss before an evaluation is finite, the parameters after it are not."""

    def edge(params, key, batch, step=None):
        return jnp.sqrt(params["w"]).sum(), {}

    trainer = engine.build(edge, lambda key: {"w": jnp.zeros(1)}, optax.sgd(1.0))
    with pytest.raises(loop.NonFiniteError, match="step 1: largest parameter = inf; no checkpoint"):
        fit(tmp_path, steps=4, every=1, trainer=trainer)
    assert not list((tmp_path / "checkpoints").glob("*.json"))


def test_a_validation_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    scores = iter([5.0, float("nan")])
    with pytest.raises(loop.NonFiniteError, match=r"step 20: valid_score = nan; the last good .* step 10"):
        fit(tmp_path, validate=lambda params: {"score": next(scores)})
    assert [p.name for p in (tmp_path / "checkpoints").glob("*.json")] == ["10.json"]


def test_an_error_at_an_evaluation_does_not_lose_the_checkpoint_on_its_way(tmp_path):
    calls = iter([1.0])
    with pytest.raises(StopIteration):
        fit(tmp_path, validate=lambda params: {"score": next(calls)})
    trainer = build(ema=0.9)
    restored = Checkpoints(tmp_path / "checkpoints", {"steps": 60}).restore(trainer.init())
    assert restored is not None and restored[0] == 10


def test_equal_scores_are_no_improvement(tmp_path):
    _, state, _ = fit(tmp_path, validate=lambda params: {"score": 1.0}, patience=3)
    assert int(state.step) == 40


def test_parameters_of_size_zero_train_and_are_restored(tmp_path):
    trainer = engine.build(
        objective, lambda key: {**init(key), "unused": jnp.zeros((0, 5))}, optax.adam(0.01), ema=0.9
    )
    _, state, kept = fit(tmp_path, trainer=trainer)
    step, restored = kept.restore(trainer.init())
    assert step == 60 and restored.params["unused"].shape == (0, 5)
    assert_same(state, restored)


def test_nan_in_the_data_stops_at_the_first_step(tmp_path):
    trainer, bad = build(), X.copy()
    bad[:, 0] = np.nan
    with pytest.raises(
        loop.NonFiniteError, match=r"step 0: .*loss = nan; no checkpoint was written yet; check the data"
    ):
        loop.run(
            trainer,
            TrainConfig(steps=10, batch_size=8, eval_every=5),
            bad,
            trainer.init(),
            folder=RunFolder(tmp_path),
            progress=False,
        )


def test_early_stopping_waits_for_patience_and_keeps_the_best(tmp_path):
    scores = iter([5.0, 3.0, 4.0, 3.5, 3.2, 9.0, 9.0])
    _, state, kept = fit(tmp_path, validate=lambda params: {"score": next(scores)}, patience=3)
    assert int(state.step) == 50 and kept.best_step() == 20


def test_early_stopping_goes_on_counting_after_a_resume(tmp_path):
    scores = [5.0, 3.0, 4.0, 3.5, 3.2, 9.0]
    config = {"steps": 60}
    first = iter(scores)
    fit(tmp_path, steps=30, config=config, validate=lambda params: {"score": next(first)}, patience=3)
    rest = iter(scores[3:])
    _, state, _ = fit(
        tmp_path, config=config, validate=lambda params: {"score": next(rest)}, patience=3, resume=True
    )
    assert int(state.step) == 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_stops_and_the_run_can_go_on(tmp_path, number):
    _, whole, _ = fit(tmp_path / "whole")

    calls = iter(range(100))

    def interrupt(params):
        if next(calls) == 2:
            os.kill(os.getpid(), number)
        return {"score": 0.0}

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(loop.Interrupted, match="at step 30") as stop:
        fit(tmp_path / "parts", validate=interrupt)
    assert stop.value.signum == number
    assert signal.getsignal(signal.SIGINT) is before
    _, parts, _ = fit(tmp_path / "parts", resume=True, validate=lambda params: {"score": 0.0})
    assert_same(whole, parts)


@pytest.mark.parametrize("on_device", [True, False])
def test_a_stop_acts_between_two_evaluations_and_loses_nothing(tmp_path, monkeypatch, on_device):
    """Parameters, log and scores are those of a run without a stop, bit for bit, in one part or in several."""
    validate = validation.validator(objective, X[:20], batch_size=8)
    plain = stream.Pace.take
    whole = fit(tmp_path / "whole", every=20, validate=validate)[1]
    taken = []

    def take(pace, *part):
        taken.append(1)
        if len(taken) == 25:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(pace, *part)

    monkeypatch.setattr(stream.Pace, "take", take)
    monkeypatch.setattr(stream, "SECONDS", 0.0)  # one step at once
    with pytest.raises(loop.Interrupted, match="at step 25"):
        fit(tmp_path / "parts", every=20, validate=validate, on_device=on_device)
    _, parts, kept = fit(tmp_path / "parts", every=20, validate=validate, on_device=on_device, resume=True)
    assert_same(whole, parts)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert kept.steps()[-2:] == [40, 60]


def test_a_stop_is_told_at_once(tmp_path, capfd):
    def interrupt(params):
        os.kill(os.getpid(), signal.SIGINT)
        return {"score": 0.0}

    with pytest.raises(loop.Interrupted):
        fit(tmp_path, validate=interrupt)
    assert re.search(
        r"stopping: the steps under way are finished and saved, which takes about \d+ s; "
        r"Ctrl-C again leaves at once, and the run then goes on from step 0\n",
        capfd.readouterr().err,
    )


def test_metrics_of_a_part_keep_their_types(tmp_path):
    folder = RunFolder(tmp_path)
    metrics = {
        "loss": np.float32([0.1, 0.2]),
        "bits": jnp.asarray([0.1, 3], jnp.bfloat16),
        "n": np.int32([2, 3]),
    }
    folder.keep_part(7, metrics, 1.5)
    seconds, again = folder.part(7)
    assert seconds == 1.5 and folder.part(8) is None
    assert_same(again, {name: np.asarray(values) for name, values in metrics.items()})
    (tmp_path / "part.npz").write_bytes(b"PK")  # cut short
    assert folder.part(7) is None


def test_a_signal_while_the_last_checkpoint_is_written_is_not_lost(tmp_path, monkeypatch):
    wait = Checkpoints.wait

    def late(kept):
        if (kept.folder / "60.json").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        wait(kept)

    monkeypatch.setattr(Checkpoints, "wait", late)
    with pytest.raises(loop.Interrupted, match="at step 60"):
        fit(tmp_path)


def test_metrics_are_means_since_the_last_evaluation_and_validation_is_reproducible(tmp_path):
    validate = validation.validator(objective, X[:20], batch_size=8)
    trainer, state, _ = fit(tmp_path, validate=validate)
    log = [json.loads(line) for line in lines(tmp_path).splitlines()]
    assert [line["step"] for line in log] == [10, 20, 30, 40, 50, 60]
    again = validate(trainer.eval_params(state))
    assert log[-1]["valid_score"] == again["score"] == -again["bound"]
    # the same draws by hand, over batches of 8, 8 and 4
    from jax.random import fold_in, key

    parts = [
        objective(state.ema, fold_in(key(2**31), i), jnp.asarray(X[8 * i : min(20, 8 * i + 8)]))[0]
        for i in range(3)
    ]
    assert again["loss"] == pytest.approx(float(8 * parts[0] + 8 * parts[1] + 4 * parts[2]) / 20, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(17, 8, [8, 9]), (18, 8, [8, 8, 2]), (3, 1, [1, 1, 1]), (1, 8, [1]), (9, 8, [9])],
)
def test_validation_leaves_no_single_example_in_a_last_batch(count, batch_size, sizes):
    """A total correlation or an MMD of one example does not exist; every example counts as much as before."""
    seen = []

    def mean(params, key, batch, step=None):
        seen.append(len(batch))  # once for each size, when it is compiled
        return batch.mean(), {}

    x = np.arange(float(count), dtype=np.float32)[:, None]
    values = validation.validator(mean, x, batch_size=batch_size)({})
    assert set(seen) == set(sizes) and values["loss"] == pytest.approx(x.mean(), rel=1e-6)


def test_a_logger_gets_every_evaluation_as_floats(tmp_path):
    """And TensorBoard with it; of several processes only the one that writes calls it."""
    calls, silent = [], []
    folder = RunFolder(tmp_path, tensorboard=True, logger=lambda step, metrics: calls.append((step, metrics)))
    other = RunFolder(tmp_path, logger=lambda *call: silent.append(call), writes=False)
    for each in (folder, other):
        each.log(1, {"loss": 1.0, "bound": [1.0, 2.0]}, 0.1)
        each.log(2, {"loss": 0.5, "bound": [3.0, 4.0]}, 0.2)
    assert calls == [
        (1, {"loss": 1.0, "bound/seed0": 1.0, "bound/seed1": 2.0}),
        (2, {"loss": 0.5, "bound/seed0": 3.0, "bound/seed1": 4.0}),
    ]
    assert not silent and len(folder.metrics()) == 2 and folder.metrics()[0]["bound"] == [1.0, 2.0]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_logger_hears_of_a_whole_run(tmp_path):
    calls, trainer = {}, build(seeds=(0, 1))
    loop.run(
        trainer,
        TrainConfig(steps=20, batch_size=8, eval_every=5, seeds=(0, 1)),
        X,
        trainer.init(),
        folder=RunFolder(tmp_path, logger=calls.__setitem__),
        validate=lambda params: {"score": 1.0},
        progress=False,
    )
    assert list(calls) == [5, 10, 15, 20]
    log = json.loads(lines(tmp_path).splitlines()[-1])
    assert calls[20] == {
        "valid_score": 1.0,
        **{f"{name}/seed{i}": log[name][i] for name in ("loss", "bound") for i in (0, 1)},
    }


def test_a_commit_is_dirty_when_code_was_changed_or_added(tmp_path, monkeypatch):
    """And not when results were, tracked or new."""

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    (tmp_path / "pkg").mkdir()
    monkeypatch.setattr(run, "__file__", str(tmp_path / "pkg" / "run.py"))
    git("init")
    for name in ("pkg/run.py", "result.json"):
        (tmp_path / name).write_text("1")
    git("add", "-A")
    git("commit", "-m", "first")
    clean = manifest()["commit"]
    (tmp_path / "result.json").write_text("2")
    (tmp_path / "new.json").write_text("2")
    assert manifest()["commit"] == clean and "dirty" not in clean
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "new.py").write_text("1")
    assert manifest()["commit"] == f"{clean}-dirty"
    git("add", "-A")
    git("commit", "-m", "second")
    (tmp_path / "pkg" / "run.py").write_text("2")
    assert manifest()["commit"].endswith("-dirty") and not manifest()["commit"].startswith(clean)


def test_manifest_says_what_produced_a_result():
    content = manifest()
    assert content["packages"]["jax"] and content["devices"] and content["matmul_precision"]


@pytest.mark.parametrize("name", ["steps", "batch_size", "eval_every", "patience"])
def test_impossible_configurations_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        TrainConfig(**{name: 0}).check()


def test_a_length_that_is_not_known_is_refused(tmp_path):
    trainer = build()
    with pytest.raises(ValueError, match="length of training is not known yet; use `resolved`"):
        loop.run(trainer, TrainConfig(batch_size=8), X, trainer.init(), folder=RunFolder(tmp_path))


def test_where_the_data_live_is_true_false_or_none():
    with pytest.raises(ValueError, match="on_device must be True, False or None, got 'no'"):
        TrainConfig(on_device="no").check()


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match="patience of 2 evaluations needs validation"):
        fit(tmp_path, patience=2)
    trainer = build(seeds=(0, 1))
    for seeds, state, data, line in (
        ((0,), trainer.init(), X, r"the engine is of seeds \(0, 1\), the configuration of \(0,\)"),
        ((0, 1), build().init(), X, r"the state is of 1 seed\(s\), the engine of 2"),
        ((0, 1), trainer.init(), (X, X[:5]), r"one length, got \[64, 5\]"),
    ):
        with pytest.raises(ValueError, match=line):
            loop.run(
                trainer,
                TrainConfig(steps=2, batch_size=8, eval_every=1, seeds=seeds),
                data,
                state,
                folder=RunFolder(tmp_path),
            )
    with pytest.raises(ValueError, match="no examples to validate on"):
        validation.validator(objective, X[:0])


def test_training_without_shuffling_takes_the_examples_in_their_order(tmp_path):
    """Against the same steps on those rows; 64 examples, of which 60 fill the six batches of ten."""
    config = TrainConfig(steps=12, batch_size=10, eval_every=5, shuffle=False)
    trainer = build()
    state = loop.run(trainer, config, X, trainer.init(), folder=RunFolder(tmp_path), progress=False)
    rows = np.tile(np.arange(60, dtype=np.int32).reshape(6, 10), (2, 1))
    assert_same(state, trainer.chunk(trainer.init(), trainer.put(X), rows)[0])
