"""Every public function on numbers of other types: what it computes for integers is what it computes for floats.

Nothing is run: the computation that is traced for integers must be, but for conversions, that for floats.
"""

import inspect
from collections import Counter

import jax
import jax.numpy as jnp

from dlvm_jax import exact, functional
from tests.functional.arguments import NO_ARRAYS, TABLE

# These only move numbers.
MOVED = {
    "checkerboard_merge",
    "checkerboard_split",
    "depth_to_space",
    "space_to_depth",
    "squeeze",
    "unsqueeze",
}
# These answer in the type of what they are given.
AS_GIVEN = MOVED | {"permute", "permute_inverse", "masking_corruption", "contractive_penalty", "runge_kutta"}
SAMPLERS = {"bernoulli_sample", "gaussian_corruption", "von_mises_fisher_sample"}
SAMPLERS |= {"normal_sample", "multivariate_normal_sample"}


def module_of(name):
    package = exact if name.startswith("exact.") else functional
    for part in name.removeprefix("exact.").split("."):
        package = getattr(package, part)
    return package


def functions():
    """Every entry as (name, function of the arrays, arrays)."""
    for module, entries in TABLE.items():
        for name, entry in entries.items():
            function = getattr(module_of(module), name)
            *arrays, last = entry
            if callable(last):
                yield name, last(function), arrays
            else:
                yield name, function, list(entry)


def computation(function, arrays, dtype):
    """How often each operation with each type of result is computed, but for conversions."""
    found = Counter()

    def count(jaxpr):
        for equation in jaxpr.eqns:
            inner = [
                v for value in equation.params.values() for v in jax.tree.leaves(value, is_leaf=is_jaxpr)
            ]
            inner = [v for v in inner if is_jaxpr(v)]
            for v in inner:
                count(getattr(v, "jaxpr", v))
            if equation.primitive.name != "convert_element_type" and not inner:
                found[equation.primitive.name, *(str(v.aval.dtype) for v in equation.outvars)] += 1

    count(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, dtype) for a in arrays)).jaxpr)
    return found


def is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def test_the_table_has_every_public_function():
    names = [f"flows.{name}" for name in functional.flows.__all__]
    names += [name for name in functional.__all__ if name not in ("flows", "diffusion")]
    names += [f"exact.{name}" for name in exact.__all__]
    for name in names:
        module = module_of(name)
        public = {f for f in module.__all__ if inspect.isfunction(getattr(module, f))}
        assert public - NO_ARRAYS == set(TABLE[name]), name


def test_integers_are_computed_with_as_floats():
    wrong = []
    for name, function, arrays in functions():
        if name in AS_GIVEN:
            continue
        expected = computation(function, arrays, jnp.float32)
        try:
            found = computation(function, arrays, jnp.uint8)
        except Exception as error:
            wrong.append((name, repr(error)[:200]))
            continue
        if found != expected:
            wrong.append((name, found - expected, expected - found))
    assert not wrong, "\n".join(map(str, wrong))


def test_lists_are_arrays():
    wrong = []
    for name, function, arrays in functions():
        if name == "runge_kutta":  # its state is a tree, of which a list is one
            continue
        expected = jax.eval_shape(function, *map(jnp.asarray, arrays))
        try:
            found = jax.eval_shape(lambda: function(*(a.tolist() for a in arrays)))  # noqa: B023
        except Exception as error:
            wrong.append((name, repr(error)[:200]))
            continue
        if jax.tree.map(jax.typeof, found) != jax.tree.map(jax.typeof, expected):
            wrong.append((name, found, expected))
    assert not wrong, "\n".join(map(str, wrong))


def test_complex_numbers_are_refused():
    accepted = []
    for name, function, arrays in functions():
        if name in MOVED:
            continue
        for place in range(len(arrays)):
            types = [jnp.complex64 if i == place else jnp.float32 for i in range(len(arrays))]
            try:
                jax.eval_shape(
                    function, *(jax.ShapeDtypeStruct(a.shape, t) for a, t in zip(arrays, types, strict=True))
                )
                accepted.append((name, place))
            except ValueError as error:
                if "real numbers" not in str(error):
                    accepted.append((name, place, str(error)[:150]))
            except Exception as error:
                accepted.append((name, place, repr(error)[:150]))
    assert not accepted, "\n".join(map(str, accepted))


def test_narrow_floats_are_computed_in_float32():
    narrow = []
    for name, function, arrays in functions():
        if name not in AS_GIVEN | SAMPLERS:
            out = jax.eval_shape(function, *(jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in arrays))
            narrow += [name for leaf in jax.tree.leaves(out) if leaf.dtype in (jnp.bfloat16, jnp.float16)]
    assert not narrow
