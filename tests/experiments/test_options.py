"""The generated options in experiments/README.md are those of the scripts."""

from experiments import options


def test_the_readme_holds_the_generated_options():
    text = options.README.read_text().split(options.BEGIN)[1].split(options.END)[0]
    assert text == options.text(), "run `python -m experiments.options`"
    assert "| `--prior` | standard | p(z): standard (N(0, I)), " in text
