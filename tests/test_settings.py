"""Settings: checks, messages and JSON derive from the fields and their tables."""

import dataclasses
import math
from typing import NamedTuple

import pytest

from dlvm_jax.settings import Settings, choice, pick, setting, tell_choices


class Entry(NamedTuple):
    help: str
    uses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


TABLE = {"plain": Entry("as it is"), "spiced": Entry("with spice", uses=("spice",), needs=("spice",))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dish(Settings):
    kind: str = choice("plain", TABLE, "what it is")
    spice: float | None = setting(None, "how hot", at_least=0)
    size: int = setting(3, "how large", at_least=1)
    share: float = setting(0.5, "of the plate", at_least=0, below=1)
    sides: tuple[int, ...] = setting((1, 2), "beside it", at_least=1)
    hot: bool = setting(True, "whether it is served hot")
    degree: float | None = setting(None, "any finite number")


def test_what_the_fields_allow_passes_and_goes_through_json():
    for dish in (Dish(), Dish(kind="spiced", spice=2.0, sides=(4,), degree=-1e9), Dish(share=0)):
        dish.check()
        assert Dish.from_dict(dish.as_dict()) == dish


REFUSED = {
    "unknown kind 'spicy'; there are plain, spiced; did you mean 'spiced'?": {"kind": "spicy"},
    "unknown kind 'SPICED'; there are plain, spiced; did you mean 'spiced'?": {"kind": "SPICED"},
    "kind='spiced' needs spice": {"kind": "spiced"},
    "spice=1.0 belongs to kind spiced, not to kind='plain'; leave it out": {"spice": 1.0},
    "spice must be at least 0, got -1": {"kind": "spiced", "spice": -1},
    "size must be at least 1, got 0": {"size": 0},
    "size must be one value, got (3,)": {"size": (3,)},
    "share must be one value, got (0.5,)": {"share": [0.5]},
    "size must be an integer, got True": {"size": True},
    "size must be a number, got 'large'": {"size": "large"},
    "share must be at least 0 and below 1, got 1": {"share": 1},
    "share must be at least 0 and below 1, got nan": {"share": math.nan},
    "sides must be at least 1, got (1, 0)": {"sides": (1, 0)},
    "hot must be True or False, got 1": {"hot": 1},
    "degree must be finite, got inf": {"degree": math.inf},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_they_do_not_allow_is_one_line(line):
    with pytest.raises(ValueError) as error:
        Dish(**REFUSED[line]).check()
    assert str(error.value).startswith(line)


def test_names_that_are_no_settings_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown setting of Dish 'sizes'; .* did you mean 'size'"):
        Dish.from_dict({"sizes": 4})


def test_help_texts_tell_the_choices():
    (field,) = (f for f in dataclasses.fields(Dish) if f.name == "kind")
    assert field.metadata["help"] == "what it is: plain (as it is), spiced (with spice)"
    assert tell_choices({"a": "text", "b": ""}) == "a (text), b"
    assert pick(TABLE, "plain", "kind") is TABLE["plain"]


def test_a_list_counts_as_several_values():
    dish = Dish(sides=[4, 5])
    dish.check()
    assert dish == Dish(sides=(4, 5)) and hash(dish.sides)
    with pytest.raises(ValueError, match="sides must be at least 1"):
        Dish(sides=[0]).check()
    with pytest.raises(ValueError, match="size must be one value"):
        Dish(size=[3]).check()
