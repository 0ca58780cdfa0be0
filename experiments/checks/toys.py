"""Densities in the plane whose entropy is known: what is left between data and model."""

from experiments.reproduce.readers import diffusion_run, flow_run
from experiments.reproduce.registry import Row

DIFFUSION = {"steps": 8000, "batch_size": 512, "ode_examples": 10_000, "eval_samples": 200}
RECIPE = "Log-odds of 64 bins, 8,000 steps of 512 points"
RUNS = {  # run, recipe, evaluation
    ("eight_gaussians", "diffusion"): (
        diffusion_run(data="eight_gaussians", **DIFFUSION),
        f"{RECIPE}; one seed.",
    ),
    ("checkerboard", "diffusion"): (
        diffusion_run(data="checkerboard", fourier=(-1, 0, 1), **DIFFUSION),
        f"{RECIPE}, Fourier features; one seed.",
    ),
    ("eight_gaussians", "flow"): (
        flow_run(data="eight_gaussians", steps=6000),
        "Four spline couplings, 6,000 steps; one seed.",
    ),
    ("checkerboard", "flow"): (
        flow_run(
            data="checkerboard", flow="spline-autoregressive", steps=30_000, depth=4, bins=24, ema=0.999
        ),
        "Four spline autoregressive layers of 24 bins, 30,000 steps, an average of the parameters; one seed.",
    ),
}
EVALUATION = {
    "diffusion": "10,000 fresh points: exact log-density less the model's by its ODE.",
    "flow": "10,000 fresh points: exact log-density less the flow's.",
}

ROWS = [
    Row(
        name=f"{data.replace('_', '-')}-{model}",
        source="no paper: the exact density",
        what=f"KL(data, {model}), nats, {data.replace('_', ' ')}",
        published=None,
        confirmed="nowhere: it is zero for a perfect model",
        better="lower",
        tolerance=0.02,
        recipe=f"{recipe} No paper prints such a number.",
        evaluation=EVALUATION[model],
        run=run,
        minutes=6,
    )
    for (data, model), (run, recipe) in RUNS.items()
]
