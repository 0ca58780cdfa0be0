"""From a formula to its function: `python -m dlvm_jax.formulas elbo` prints equation, shapes, file:line, source and test.

What people call a method, such as IWAE or DDIM, finds its functions; any other word those whose documentation has it.
Without a word all are listed; `--write` writes them with their equations to FORMULAS.md.

The test of a formula is marked by hand: `@checks(bounds.elbo)` stands on a test that compares the function's value with an
independent answer.
"""

import argparse
import ast
import difflib
import functools
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Formula", "document", "formulas", "search", "show"]

PACKAGES = ("dlvm_jax.functional", "dlvm_jax.exact")
ROOT = Path(__file__).parent.parent
DOCUMENT = Path(__file__).parent / "FORMULAS.md"

# What people call the functions: letters and digits alone, in small letters.
KNOWN = {
    "vae": "bounds.elbo bounds.elbo_sampled kl_standard_normal reparameterise",
    "elbo": "bounds.elbo bounds.elbo_sampled",
    "vlb": "bounds.elbo continuous_bound discrete_bound",
    "iwae": "importance_weighted evidence",
    "iwelbo": "importance_weighted",
    "dreg": "dreg",
    "stl": "dreg",
    "renyi": "renyi",
    "betavae": "bounds.elbo beta_vae_optimum",
    "freebits": "free_bits",
    "hvae": "kl_residual precision_weighted hierarchical.free_bits",
    "laddervae": "precision_weighted",
    "lvae": "precision_weighted",
    "nvae": "kl_residual balancing_coefficients power_iteration tempered",
    "vdvae": "kl_normal tempered",
    "pnphvae": "pnp data_step data_step_masked",
    "plugandplay": "pnp data_step data_step_masked",
    "klbalancing": "balancing_coefficients",
    "spectralnorm": "power_iteration",
    "temperature": "tempered",
    "tcvae": "total_correlation_terms stratified_log_weights",
    "betatcvae": "total_correlation_terms stratified_log_weights",
    "factorvae": "total_correlation_terms gaussian_total_correlation discriminator_loss",
    "infovae": "mmd bounds.elbo",
    "wae": "mmd inverse_multiquadratic_kernel",
    "aae": "discriminator_loss generator_loss",
    "gan": "discriminator_loss generator_loss",
    "vamp": "normal_mixture_log_prob",
    "vampprior": "normal_mixture_log_prob",
    "mixtureprior": "normal_mixture_log_prob",
    "draw": "filterbank window read_patch write_patch",
    "elbosurgery": "normal_mixture_log_prob kl_monte_carlo",
    "ais": "ais adapt_step_size",
    "hmc": "ais adapt_step_size",
    "ess": "summarise chains.effective_sample_size",
    "kl": "kl_normal kl_standard_normal kl_multivariate_normal kl_bernoulli kl_categorical kl_monte_carlo",
    "reparameterizationtrick": "reparameterise",
    "reparameterization": "reparameterise",
    "reparametrization": "reparameterise",
    "reparam": "reparameterise",
    "gaussian": "normal_log_prob multivariate_normal_log_prob normal_sample",
    "bitsdim": "bits_per_dim",
    "bpd": "bits_per_dim",
    "pca": "ppca_fit ppca_em_step linear_gaussian.reconstruct",
    "ppca": "ppca_fit ppca_em_step functional.linear_gaussian.log_evidence functional.linear_gaussian.posterior",
    "probabilisticpca": "ppca_fit ppca_em_step functional.linear_gaussian.log_evidence",
    "em": "ppca_em_step",
    "dae": "gaussian_corruption masking_corruption squared_error",
    "cae": "contractive_penalty",
    "sparsecoding": "sparse_code soft_threshold sparse_penalty",
    "svae": "von_mises_fisher_log_prob von_mises_fisher_sample von_mises_fisher_kl_uniform",
    "vmf": "von_mises_fisher_log_prob von_mises_fisher_sample von_mises_fisher_kl_uniform",
    "vonmisesfisher": "von_mises_fisher_log_prob von_mises_fisher_sample von_mises_fisher_kl_uniform",
    "hyperbolic": "wrapped_normal_log_prob wrapped_normal_sample exp_map log_map",
    "poincare": "wrapped_normal_log_prob mobius_add exp_map",
    "ddpm": "ancestral.ancestral linear_betas denoising_loss discrete_bound",
    "ddim": "ancestral.ddim",
    "iddpm": "cosine_betas hybrid_loss learned_log_std",
    "vdm": "continuous_bound linear_log_snr",
    "edm": "schedules.edm edm_heun preconditioning karras_times",
    "karras": "schedules.edm edm_heun preconditioning karras_times",
    "dpmsolver": "dpm_multistep dpm_singlestep dpm_sde",
    "vp": "variance_preserving",
    "ve": "variance_exploding",
    "subvp": "sub_variance_preserving",
    "sde": "euler_maruyama predictor_corrector drift process.diffusion",
    "ode": "probability_flow diffusion.ode.runge_kutta adaptive",
    "cfg": "classifier_free",
    "guidance": "classifier_free guidance.classifier",
    "minsnr": "objectives.weight",
    "scorematching": "denoising_score_matching implicit_score_matching sliced_score_matching",
    "dsm": "denoising_score_matching",
    "langevin": "langevin langevin_size",
    "flowmatching": "flow_matching_loss rectified",
    "rectifiedflow": "rectified flow_matching_loss",
    "ffjord": "continuous.continuous hutchinson_divergence",
    "neuralode": "continuous.continuous",
    "cnf": "continuous.continuous continuous_inverse",
    "nice": "linear.affine",
    "realnvp": "linear.affine squeeze checkerboard_split",
    "glow": "linear.affine lu_linear actnorm_statistics squeeze",
    "1x1convolution": "lu_linear",
    "actnorm": "actnorm_statistics",
    "maf": "autoregressive.autoregressive autoregressive_inverse linear.affine",
    "iaf": "autoregressive.autoregressive gate",
    "made": "autoregressive.autoregressive",
    "nsf": "rational_quadratic spline_knots linear_tails",
    "neuralsplineflow": "rational_quadratic spline_knots linear_tails",
    "umnn": "monotonic.monotonic",
    "planarflow": "planar.planar planar_u_hat",
    "radialflow": "radial.radial radial_beta_hat",
    "sylvesterflow": "sylvester.sylvester sylvester_triangle",
    "vqvae": "nearest_codes straight_through codebook_loss commitment_loss",
    "rotationtrick": "vector_quantisation.rotation",
    "fsq": "finite_scalar finite_scalar_index",
    "dequantization": "dequantise dequantised_log_prob",
    "pixelcnn": "pixel_mixture_log_prob discretised_logistic_mixture_log_prob discretised_logistic_log_prob",
    "discretizedlogistic": "discretised_logistic_log_prob discretised_logistic_sample",
    "dmol": "pixel_mixture_log_prob pixel_mixture_sample",
    "npe": "sbi.atomic_loss sbi.weighted_loss",
    "snpe": "sbi.atomic_loss sbi.weighted_loss",
    "apt": "sbi.atomic_loss",
    "nre": "contrastive_loss ratio_loss discriminator_loss",
    "bnre": "sbi.balance",
    "fmpe": "flow_matching_loss",
    "npse": "denoising_loss",
    "sbc": "calibration.rank rank_uniformity",
    "lc2st": "local_c2st",
    "tsnpe": "sbi.truncation",
    "truncatedproposals": "sbi.truncation",
    "rhat": "split_r_hat",
    "mcmc": "split_r_hat chains.effective_sample_size",
    "tarp": "calibration.distances calibration.rank",
    "mixtureoflogistics": "pixel_mixture_log_prob discretised_logistic_mixture_log_prob discretised_logistic_mixture_sample",
}


class Formula(NamedTuple):
    """A public function of the mathematics, what its docstring contains, and the tests that check its value."""

    name: str
    module: str
    purpose: str
    equation: str
    source: str
    place: str
    text: str
    tests: tuple[str, ...]

    @property
    def full_name(self) -> str:
        """The name with its module, without the library's."""
        return f"{self.module}.{self.name}".removeprefix("dlvm_jax.")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL)
    if match is None:
        raise ValueError(f"no {pattern!r} in the docstring {text!r}")
    return " ".join(match.group(1).split())


def _formula(module: str, name: str, function: Any) -> Formula:
    text = inspect.getdoc(function) or ""
    path = Path(inspect.getfile(function)).relative_to(ROOT)
    return Formula(
        name,
        module,
        _found(r"(.*?)\n\n", text),
        _found(r"\n\n.*?\$(.+?)\$", text),
        _found(r"Source: (.+?)(?:\.?\s*\n\s*\n|$)", text),
        f"{path}:{inspect.getsourcelines(function)[1]}",
        text,
        _tests().get(function, ()),
    )


def formulas() -> list[Formula]:
    """Every public function of `functional` and `exact`, in order of file and name."""
    found = []
    for package in PACKAGES:
        for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            module = importlib.import_module(info.name)
            for name in module.__all__:
                if inspect.isfunction(getattr(module, name)):
                    found.append(_formula(info.name, name, getattr(module, name)))
    return found


def _checked(path: Path) -> list[tuple[str, Any]]:
    """The marks of a test file, read without importing it: names of tests, and the functions that they check."""
    tree = ast.parse(path.read_text())
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dlvm_jax")
        for alias in node.names
    }
    found = []
    for test in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for mark in test.decorator_list:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "checks":
                for argument in mark.args:
                    first, *rest = ast.unparse(argument).split(".")
                    module, name = imported[first]
                    value = _attribute(module, name)
                    found.append((test.name, functools.reduce(getattr, rest, value)))
    return found


def _attribute(module: str, name: str) -> Any:
    """What `from module import name` gives."""
    parent = importlib.import_module(module)
    return getattr(parent, name) if hasattr(parent, name) else importlib.import_module(f"{module}.{name}")


@functools.cache
def _tests() -> dict[Any, tuple[str, ...]]:
    """The tests that check each function, as path::name; none where the repository is not around."""
    found: dict[Any, tuple[str, ...]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / "tests" / package.split(".")[1]).rglob("test_*.py")):
            for name, function in _checked(path):
                found[function] = (*found.get(function, ()), f"{path.relative_to(ROOT)}::{name}")
    return found


def _row(f: Formula) -> str:
    equation = f.equation.replace("\\|", "\\Vert ").replace("|", "\\vert ")
    path = f.place.split(":")[0].removeprefix("dlvm_jax/")
    tests = (test.split("::") for test in f.tests)
    links = "<br>".join(f"[{name}](../{file})" for file, name in tests)
    return f"| ${equation}$ | [`{f.name}`]({path}) | {links} | {f.source} |"


def document() -> str:
    """The formulas as Markdown: one table a module of equation, function, tests and source."""
    lines = [
        "# Formulas",
        "",
        "Written by `python -m dlvm_jax.formulas --write`.  `python -m dlvm_jax.formulas elbo` prints one with its shapes,",
        "units, errors and an example.  The tests named are those that check the function's value.",
    ]
    module = None
    for f in formulas():
        if f.module != module:
            module = f.module
            heading = (inspect.getdoc(importlib.import_module(module)) or "").split("\n\n")[0]
            lines += ["", f"## {module.removeprefix('dlvm_jax.')}", "", " ".join(heading.split()), ""]
            lines += ["| formula | function | test | source |", "|---|---|---|---|"]
        lines.append(_row(f))
    return "\n".join(lines) + "\n"


def _is_name(word: str, f: Formula) -> bool:
    return f".{f.full_name}".endswith(f".{word.lower()}")


def _known(word: str, everything: list[Formula]) -> list[Formula]:
    """The functions of what people call a method."""
    names = KNOWN.get("".join(c for c in word.lower() if c.isalnum()), "").split()
    return [f for name in names for f in everything if _is_name(name, f)]


def search(word: str) -> list[Formula]:
    """The functions that a word finds; raises ValueError, with close names, for none.

    They are those of the name, else of a method that people call so, such as IWAE, else those with the word in name or docstring.
    """
    everything = formulas()
    found = [f for f in everything if _is_name(word, f)] or _known(word, everything)
    if not found:
        spelt = word.lower().replace("-", "_").replace(" ", "_").replace("iz", "is")
        pattern = re.compile(rf"(?<![a-z]){re.escape(word)}(?![a-z])", re.IGNORECASE)
        found = [f for f in everything if spelt in f.full_name or pattern.search(f.text)]
    if not found:
        close = difflib.get_close_matches(word.lower(), {*KNOWN, *(f.name for f in everything)}, 3, 0.4)
        hint = f"perhaps {', '.join(close)}" if close else "without a word all are listed"
        raise ValueError(f"no formula named {word!r}; {hint}")
    return found


def show(word: str) -> str:
    """Docstring, place and tests of the functions of a name, or a list of the functions that the word finds."""
    found = search(word)
    if len(found) > 1 and not _is_name(word, found[0]):
        return _listed(found)
    return "\n\n".join(
        "\n".join([f"{f.full_name}  ({f.place})", *(f"checked by {test}" for test in f.tests), "", f.text])
        for f in found
    )


def _listed(found: list[Formula]) -> str:
    return "\n".join(f"{f.full_name}  {f.purpose}" for f in found)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dlvm_jax.formulas", description=__doc__)
    parser.add_argument("word", nargs="?", help="a function's name, or a word of its documentation")
    parser.add_argument("--write", action="store_true", help="write FORMULAS.md")
    arguments = parser.parse_args()
    if arguments.write:
        if not (ROOT / "tests").is_dir():
            raise ValueError("FORMULAS.md names the tests: write it in a clone of the repository")
        DOCUMENT.write_text(document())
    else:
        print(show(arguments.word) if arguments.word else _listed(formulas()))


if __name__ == "__main__":
    try:
        _main()
    except ValueError as error:
        sys.exit(f"error: {error}")
