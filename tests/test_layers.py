"""The house: what imports what, what a docstring holds, what runs under pmap."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys

import pytest

import dlvm_jax
import dlvm_jax.exact
import dlvm_jax.functional

FRAMEWORKS = (
    "flax",
    "optax",
    "orbax",
    "chex",
    "tensorflow_datasets",
    "tyro",
    "matplotlib",
    "sklearn",
)


def public_functions():
    for package in (dlvm_jax.functional, dlvm_jax.exact):
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            for name in module.__all__:
                if inspect.isfunction(getattr(module, name)):
                    yield f"{info.name}.{name}", getattr(module, name)


@pytest.mark.parametrize("name, function", list(public_functions()))
def test_public_mathematics_is_documented(name, function):
    text = inspect.getdoc(function)
    missing = [part for part in ("$", "Shapes:", "Source:", ">>>") if part not in text]
    assert not missing, f"{name} lacks {missing}"


def modules():
    for info in pkgutil.walk_packages(dlvm_jax.__path__, "dlvm_jax."):
        yield importlib.import_module(info.name)


def own_functions(module):
    """The public functions that a module defines, and the public methods and properties of its public classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                method = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if not key.startswith("_") and inspect.isfunction(method) and method.__doc__:
                    yield f"{name}.{key}", method


def unannotated(function):
    parameters = list(inspect.signature(function).parameters.values())
    missing = [p.name for p in parameters if p.annotation is p.empty and p.name not in ("self", "cls")]
    return missing + ["return"] * ("return" not in function.__annotations__)


def test_public_functions_are_annotated():
    """Whether the types are right, pyright checks (pyproject.toml says where)."""
    missing = {
        f"{module.__name__}.{name}": unannotated(function)
        for module in modules()
        for name, function in own_functions(module)
        if unannotated(function)
    }
    assert not missing, missing


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
    )


def test_the_mathematics_imports_no_framework():
    code = f"""
import sys, dlvm_jax.functional, dlvm_jax.exact
loaded = [m for m in {FRAMEWORKS!r} if m in sys.modules]
assert not loaded, loaded
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_asking_for_no_data_set_imports_no_data_library():
    result = run("import sys, dlvm_jax.data; assert 'tensorflow_datasets' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_functional_losses_run_under_pmap():
    code = """
import jax, jax.numpy as jnp, numpy as np
from dlvm_jax.functional import bounds, densities, divergences
assert jax.device_count() == 8
def loss(key, x, logits, mean, log_std):
    z = densities.normal_sample(key, mean, log_std, (5,))
    log_lik = densities.bernoulli_log_prob(x, logits + z.sum(-1, keepdims=True))
    log_w = bounds.log_weight(log_lik, densities.normal_log_prob(z, 0.0, 0.0), densities.normal_log_prob(z, mean, log_std))
    elbo = bounds.elbo(log_lik, divergences.kl_standard_normal(mean, log_std))
    return elbo, bounds.importance_weighted(log_w), jax.lax.pmean(elbo.mean(), "devices")
keys = jax.random.split(jax.random.key(0), 8)
x = (jax.random.uniform(jax.random.key(1), (8, 4, 9)) < 0.5).astype(float)
logits, mean, log_std = jax.random.normal(jax.random.key(2), (8, 4, 9)), *jax.random.normal(jax.random.key(3), (2, 8, 4, 3))
across = jax.pmap(loss, axis_name="devices")(keys, x, logits, mean, log_std)
one = jax.vmap(loss, axis_name="devices")(keys, x, logits, mean, log_std)
for a, b in zip(across, one):
    np.testing.assert_allclose(a, b, rtol=2e-6)
"""
    result = run(code, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    assert result.returncode == 0, result.stderr
