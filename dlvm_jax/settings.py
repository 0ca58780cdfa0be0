"""Settings of recipes and of training: frozen dataclasses whose fields say what they mean and what they allow.

A field made by `setting` has a help text and bounds, one made by `choice` a table of named entries.  From them derive the
checks, the messages, the command lines and the tables of the documentation.
"""

import dataclasses
import difflib
import json
import math
import numbers
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

__all__ = ["Settings", "choice", "pick", "setting", "tell_choices"]

T = TypeVar("T")


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table, or a ValueError that says what there is and what was perhaps meant."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(str(name).lower(), table, 1, 0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {name!r}; there are {', '.join(table)}{hint}")


def tell_choices(table: Mapping[str, Any]) -> str:
    """The names of a table with the `help` of their entries, as a sentence."""
    listed = []
    for name, entry in table.items():
        text = entry if isinstance(entry, str) else getattr(entry, "help", "")
        listed.append(f"{name} ({text})" if text else str(name))
    return ", ".join(listed)


def setting(default: Any, help: str, at_least: float | None = None, below: float | None = None) -> Any:
    """A field with a help text; a number, or each of several, is finite, at least `at_least` and less than `below`."""
    return dataclasses.field(default=default, metadata={"help": help, "at_least": at_least, "below": below})


def choice(default: str | None, table: Mapping[str, Any], help: str) -> Any:
    """A field that names an entry of a table.  Its help text goes on with the names and their own help texts."""
    return dataclasses.field(
        default=default, metadata={"help": f"{help}: {tell_choices(table)}", "choices": table}
    )


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError for a single number where several are expected, and for other numbers where integers are."""
    kinds = {hint, *typing.get_args(hint)}
    several = [kind for kind in kinds if typing.get_origin(kind) is tuple]
    if several:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{name} must be several values, such as ({value},), got {value!r}")
        kinds = set(typing.get_args(several[0]))
    elif isinstance(value, (tuple, list)):
        raise ValueError(f"{name} must be one value, got {value!r}")
    if int in kinds and float not in kinds:
        for each in value if several else (value,):
            whole = isinstance(each, numbers.Integral) and not isinstance(each, bool)
            if not whole and isinstance(each, numbers.Number):
                raise ValueError(f"{name} must be an integer, got {value!r}")


def _is_number(field: dataclasses.Field) -> bool:
    """Whether a field is of numbers: by its bounds, or by its default."""
    bounded = any(field.metadata.get(bound) is not None for bound in ("at_least", "below"))
    return bounded or isinstance(field.default, (int, float))


def _check_number(name: str, value: Any, given: Any, metadata: Mapping[str, Any]) -> None:
    low, high = metadata.get("at_least"), metadata.get("below")
    if not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, got {given!r}")
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value >= high):
        bounds = [f"at least {low:g}"] if low is not None else []
        bounds += [f"below {high:g}"] if high is not None else []
        raise ValueError(f"{name} must be {' and '.join(bounds) or 'finite'}, got {given!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen dataclass of settings; `check` raises ValueError for values that their fields do not allow."""

    def __post_init__(self) -> None:
        """Several values may be given as a list, as JSON has them."""
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))

    def check(self) -> None:
        """Raise ValueError, in one line, for a value that is impossible whatever the data."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            _check_kind(field.name, value, hints[field.name])
            if "choices" in field.metadata:
                pick(field.metadata["choices"], value, field.name)
            elif isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ValueError(f"{field.name} must be True or False, got {value!r}")
            else:
                for each in value if isinstance(value, (tuple, list)) else (value,):
                    if isinstance(each, (int, float)) or _is_number(field):
                        _check_number(field.name, each, value, field.metadata)
        self._check_uses()

    def _check_uses(self) -> None:
        """Settings that belong to some entries of a table are not given with others, and those that an entry needs are."""
        chosen, owners = {}, {}
        for field in dataclasses.fields(self):
            table = field.metadata.get("choices", {})
            entry = table.get(getattr(self, field.name))
            chosen[field.name] = getattr(entry, "uses", ())
            for name in getattr(entry, "needs", ()):
                if getattr(self, name) is None:
                    raise ValueError(f"{field.name}={getattr(self, field.name)!r} needs {name}; give it")
            for name, other in table.items():
                for used in getattr(other, "uses", ()):
                    owners.setdefault(used, {}).setdefault(field.name, []).append(name)
        for field in dataclasses.fields(self):
            value, tables = getattr(self, field.name), owners.get(field.name)
            if tables is None or value == field.default:
                continue
            if any(field.name in chosen[t] or getattr(self, t) is None for t in tables):
                continue  # None: the data will choose
            where = " or ".join(f"{t} {' or '.join(names)}" for t, names in tables.items())
            now = " and ".join(f"{t}={getattr(self, t)!r}" for t in tables)
            raise ValueError(f"{field.name}={value!r} belongs to {where}, not to {now}; leave it out")

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `as_dict` wrote; raises ValueError for names that are not among them."""
        cls.check_names(values)
        return cls(**{k: _tuples(v) for k, v in values.items()})

    @classmethod
    def check_names(cls, given: Iterable[str]) -> None:
        """Raise ValueError for a name that is not a setting of this class, with the nearest that is."""
        for name in given:
            pick(dict.fromkeys(cls.names()), name, f"setting of {cls.__name__}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
