"""Settings for all tests: a compilation cache, and double precision on request."""

import os
from pathlib import Path

import jax
import pytest

CACHE = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
jax.config.update("jax_compilation_cache_dir", str(Path(CACHE) / "dlvm_jax" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield
