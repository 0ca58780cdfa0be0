"""Which likelihood suits which data: the usual one of a kind, the transformation that gives it its data, what does not fit."""

from dlvm_jax.data import Spec
from dlvm_jax.recipes.vae_parts import LIKELIHOODS

__all__ = ["check_likelihood", "kind_of", "likelihood_of", "transform_of"]

LIKELIHOOD_OF = {
    "bits": "bernoulli",
    "levels": "discretised-logistic",
    "reals": "normal",
}  # where none is named
TRANSFORM_OF = {"bits": None, "levels": "levels", "reals": "dequantised"}


def kind_of(spec: Spec) -> str:
    """What the data are, in the words of the likelihoods: bits, levels or reals."""
    if not spec.discrete:
        return "reals"
    return "bits" if spec.levels == 2 else "levels"


def likelihood_of(name: str | None, spec: Spec) -> str:
    """The name of the likelihood for data of a spec: the one that is named, or the usual one."""
    return name or LIKELIHOOD_OF[kind_of(spec)]


def transform_of(name: str | None) -> str | None:
    """What becomes of raw data: integer levels or dequantised ones where the likelihood says so."""
    return None if name is None else TRANSFORM_OF[LIKELIHOODS[name].data]


def check_likelihood(name: str | None, spec: Spec) -> None:
    """Raise ValueError, in one line, for a likelihood of other data."""
    kind, name = kind_of(spec), likelihood_of(name, spec)
    wanted = LIKELIHOODS[name].data
    described = f"{spec.levels} integer levels" if spec.discrete else "real values"
    if wanted == "bits" and kind != "bits":
        raise ValueError(
            f"a {name} likelihood needs bits, the protocol {spec.protocol!r} has {described}; "
            "use likelihood='discretised-logistic', or a protocol that binarises"
        )
    if (wanted == "reals") != (kind == "reals"):
        raise ValueError(
            f"a {name} likelihood needs {'real' if wanted == 'reals' else 'integer'} data, the protocol "
            f"{spec.protocol!r} has {described}; use the protocol {TRANSFORM_OF[wanted] or 'binarised'!r}"
        )
