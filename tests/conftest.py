"""Settings for all tests: how they are compiled, double precision on request, which cases run by default."""

import os
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

if "PYTEST_XDIST_WORKER" not in os.environ and (  # workers inherit the flags
    "slow" not in " ".join(sys.argv) or "--quick" in sys.argv
):
    # Compiling takes most of the time, and these halve it; else the slow tests compile as users do.
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    if metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the flag
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_llvm_disable_expensive_passes=true"]
    os.environ["XLA_FLAGS"] = " ".join(flags)

import gc

import jax
import pytest

CACHE = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
jax.config.update("jax_compilation_cache_dir", str(Path(CACHE) / "dlvm_jax" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def pytest_addoption(parser):
    """The option that is read above, before JAX is."""
    about = "compile slow tests without optimisation: for those of mathematics, in which nothing is trained to its end"
    parser.addoption("--quick", action="store_true", help=about)


@pytest.fixture
def x64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


MAPS, finished = Path("/proc/self/maps"), Counter()
LOWERED = (  # JAX has no public way to forget these alone; a version without one of them only makes tests slower
    ("jax._src.pjit", "_pjit_lower"),
    ("jax._src.interpreters.pxla", "_cached_lowering_to_hlo"),
)


@pytest.fixture(autouse=True)
def few_programs():
    """Forget what compiled programs were made from: each piece that is kept slows the next compilation, three thousand by half.

    Programs that are kept hold memory maps, and the compiler dies beyond 65,530 of them: with many, all is forgotten.
    """
    yield
    finished["tests"] += 1
    if finished["tests"] % 5 == 0:
        for module, name in LOWERED:
            cache = getattr(sys.modules.get(module), name, None)
            if hasattr(cache, "cache_clear"):
                cache.cache_clear()
        if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 30_000:
            jax.clear_caches()


gc.set_threshold(200_000, 20, 100)  # programs are many small objects that live on: 5 % of the time

# By default only so many parameter cases of each test run; the others are slow.  Some files have a number of their own, and of
# what is refused all run.
FEW, SEVERAL, ALL = 1, 10, 1000
CASES = {
    **dict.fromkeys(
        (
            "test_layers.py",
            "test_readme.py",
            "recipes/test_vae.py",
            "recipes/test_vae_settings.py",
            "train/test_fitting.py",
            "models/test_spaces.py",
            "functional/test_arguments.py",
        ),
        ALL,
    ),
    **dict.fromkeys(
        ("data/test_forms.py", "data/test_loading.py", "data/test_rows.py", "data/test_tables.py"), ALL
    ),
    **{
        f"experiments/test_{name}.py": SEVERAL
        for name in (
            "vae",
            "diffusion",
            "flow",
            "energy",
            "diffusion_prior",
            "autoencoder",
            "disentangle",
            "papers",
            "bad_inputs",
        )
    },
    **dict.fromkeys(("recipes/test_diffusion.py", "recipes/test_autoencoder.py"), 5),
    **dict.fromkeys(("test_nets.py", "test_denoisers.py"), SEVERAL),
    "functional/flows/test_layers.py": 3,
    "exact/test_simulators.py": 2,
    "functional/flows/test_sphere.py": 2,
    "functional/flows/test_scalars.py": 2,
    **dict.fromkeys(("functional/diffusion/test_solvers_laws.py", "functional/flows/test_bijections.py"), 3),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the later parameter cases of a test as slow."""
    seen = Counter()
    for item in items:
        if hasattr(item, "callspec"):
            test = item.path, item.originalname
            seen[test] += 1
            place = item.path.relative_to(Path(__file__).parent)
            cheap = "refused" in item.originalname and "experiments" not in place.parts  # nothing is computed
            if seen[test] > (ALL if cheap else CASES.get(str(place), FEW)):
                item.add_marker(pytest.mark.slow)
