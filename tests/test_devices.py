"""The same training on 1, 2 and 8 devices and on two processes gives the same losses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
WORKER = """
import json, sys
import jax
from dlvm_jax.train import parallel
if len(sys.argv) > 1 and ":" in sys.argv[1]:
    parallel.initialise(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
import numpy as np, optax
from dlvm_jax import nets
from dlvm_jax.models import density, objectives
from dlvm_jax.models.vae import vae
from dlvm_jax.train import engine, order
x = (np.random.RandomState(0).rand(256, 20) < 0.4).astype(np.uint8)
encoder = density.from_linen(nets.MLP((32,), (3, 2)), (1, 20))
decoder = density.from_linen(nets.MLP((32,), (20, 1)), (1, 3))
model = vae(density.standard_normal(3), density.conditional(encoder, density.normal(), (3,)),
            density.conditional(decoder, density.bernoulli(), (20,)))
elbo = objectives.preprocessed(objectives.negative_elbo(model), lambda key, raw: raw.astype(float))
def objective(params, key, raw, step=None):  # with a variable, a running mean, which the loss sees
    parameters, mean = params
    loss, metrics = elbo(parameters, key, raw, step)
    return loss + 0.02 * (mean ** 2).sum(), {**metrics, "variables": 0.9 * mean + 0.1 * raw.astype(float).mean(0)}
init = lambda key: (model.init(key), np.zeros(20, np.float32))
trainer = engine.build(objective, init, optax.adam(1e-2), ema=0.9, variables=True)
state, data = trainer.init(), trainer.put(x)
if "stop" in sys.argv:  # the first process is asked to stop at the second evaluation: both must leave after it
    import os, signal
    from dlvm_jax.train import loop
    from dlvm_jax.train.config import TrainConfig
    from dlvm_jax.train.run import RunFolder
    evaluations = []
    def validate(params):
        evaluations.append(1)
        if len(evaluations) == 2 and parallel.is_primary():
            os.kill(os.getpid(), signal.SIGTERM)
        return {"score": 0.0}
    folder = RunFolder(sys.argv[-1], writes=parallel.is_primary())
    try:
        config = TrainConfig(steps=50, batch_size=64, eval_every=10, on_device=False)
        loop.run(trainer, config, x, state, folder=folder, validate=validate, progress=False)
    except loop.Interrupted as stop:
        print(json.dumps({"evaluations": len(evaluations), "stop": str(stop)}))
    sys.exit()
if "stream" in sys.argv:  # an epoch at a time; rows of which only another process has need are spoilt here
    seeds = json.loads(sys.argv[-1])
    trainer = engine.build(objective, init, optax.adam(1e-2), ema=0.9, variables=True, seeds=seeds)
    state, other, spoilt = trainer.init(), trainer.init(), 0
    share = slice(jax.process_index() * 64 // jax.process_count(), (jax.process_index() + 1) * 64 // jax.process_count())
    for epoch in range(10):
        rows = np.stack([order.minibatches(256, 64, seed, 4 * epoch, 4) for seed in seeds], axis=1)
        rows = rows if len(seeds) > 1 else rows[:, 0]
        mine = np.full_like(x, 9)
        mine[rows[..., share]] = x[rows[..., share]]
        spoilt += int((mine == 9).all(1).sum())
        state, metrics = trainer.chunk(state, data, rows)
        other, again = trainer.stream(other, trainer.gather(mine, rows))
    found, same = jax.tree.leaves((state._replace(key=0), metrics)), jax.tree.leaves((other._replace(key=0), again))
    equal = all(np.array_equal(a, b) for a, b in zip(found, same, strict=True))
    print(json.dumps({"equal": equal, "spoilt": spoilt, "loss": float(np.mean(metrics["loss"]))}))
    sys.exit()
losses = []
for start in (0, 20):
    state, metrics = trainer.chunk(state, data, order.minibatches(256, 64, 0, start, 20))
    losses += jax.device_get(metrics["loss"]).tolist()
if parallel.is_primary():
    print(json.dumps({"devices": jax.device_count(), "losses": losses}))
"""


def start(devices, *arguments):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()  # after jax.distributed starts, a gentler signal is swallowed
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]) if "{" in out else None  # Gloo prints a line of its own


@pytest.fixture(scope="module")
def one_device():
    return finish(start(1))["losses"]


@pytest.mark.parametrize("devices", [2, 8])
def test_devices_give_the_same_losses(devices, one_device):
    """Sums over the batch are taken in another order: float32 rounding, grown through 40 steps of Adam."""
    found = finish(start(devices))
    assert found["devices"] == devices and one_device[-1] < 0.95 * one_device[0]
    np.testing.assert_allclose(found["losses"], one_device, rtol=2e-5)


@pytest.mark.parametrize("seeds", ["[0]", "[1, 2, 3]"])
@pytest.mark.slow
def test_eight_devices_stream_the_same_bits(seeds):
    assert finish(start(8, "stream", seeds))["equal"]


def two_processes(*arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    workers = [start(1, address, 2, number, *arguments) for number in range(2)]
    return [finish(worker) for worker in workers]


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path):
    """Though only one of them receives the signal."""
    found = two_processes("stop", tmp_path)
    assert [each["evaluations"] for each in found] == [2, 2] and "step 20" in found[1]["stop"]


def test_two_processes_give_the_same_losses(one_device):
    found = two_processes()
    assert found[0]["devices"] == 2 and found[1] is None
    np.testing.assert_allclose(found[0]["losses"], one_device, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["[0]", "[1, 2, 3]"])
def test_two_processes_stream_the_same_bits_and_each_needs_its_own_rows_alone(seeds):
    """Of one seed's epoch each process needs one half; of several seeds a row is in some seed's half seven times of eight."""
    found = two_processes("stream", seeds)
    assert all(each["equal"] for each in found) and found[0]["loss"] == found[1]["loss"]
    assert min(each["spoilt"] for each in found) >= (1280 if seeds == "[0]" else 200)


def test_incomplete_process_settings_are_refused():
    from dlvm_jax.train import parallel

    with pytest.raises(ValueError, match="several processes need all of"):
        parallel.initialise("127.0.0.1:1", 2, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "vae --steps 20 --eval-samples 2 --eval-limit 20",
        "ppca --method gradient --steps 20 --latent-dim 2",
        "flow.energy --target U1 --steps 20 --batch-size 100",
    ],
)
def test_scripts_take_as_many_devices_as_split_their_batch(command, tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    script, *options = command.split()
    started = [sys.executable, "-m", f"experiments.{script}", *options, "--out", str(tmp_path / "run")]
    done = subprocess.run(started, cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "a batch of 100 does not split over 8 devices: using 5" in done.stderr
