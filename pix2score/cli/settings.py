"""The settings of a job: fields of its config dataclass, each with its flag, its type and its help.

The text below a field is its help; a dataclass in it is a group of settings, such as ``columns.id``. Where
values come from is no matter here: ``cli.flags`` reads flags and files.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from itertools import pairwise
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pix2score.errors import ConfigError

Config = TypeVar("Config")
POSITIONAL = "positional"
"""In the metadata of a field whose values are given without a flag: what the help calls one of them."""
WHOLE = "whole"
"""In the metadata of a field of a group that has the group's own name as its flag, and ``--no-GROUP`` for the
value that is given here."""
_KINDS = {NoneType: "None", int: "a whole number", float: "a number", str: "text"}
"""In the order in which they are tried: every word is a text."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, or of a dataclass in it."""

    name: str
    """Dotted: columns.id."""
    hint: Any
    field: Field[Any]
    help: str
    group: type | None
    """The dataclass in the config that it is a field of."""

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        name = self.name.rpartition(".")[0] if WHOLE in self.field.metadata else self.name
        return f"--{name}".replace("_", "-")

    @property
    def off_flag(self) -> str | None:
        """The flag that switches it off, if it has one."""
        if self.hint is bool or WHOLE in self.field.metadata:
            return f"--no-{self.flag[2:]}"
        return None

    @property
    def is_list(self) -> bool:
        """Whether it holds any number of values."""
        return get_origin(self.hint) is tuple or self._is_single_or_list

    @property
    def _is_single_or_list(self) -> bool:
        """Whether it is one value, or a tuple where several are given: ``str | tuple[str, ...]``."""
        return any(get_origin(kind) is tuple for kind in get_args(self.hint))

    @property
    def is_table(self) -> bool:
        """Whether it holds tables, which only a file can give: they are unreadable as flags."""
        return any(get_origin(hint) is dict for hint in (self.hint, *get_args(self.hint)[:1]))

    @property
    def holds_tables_by_name(self) -> bool:
        """Whether a file gives it as ``[NAME.X]``, any number of them."""
        return get_origin(self.hint) is dict and get_origin(get_args(self.hint)[1]) is dict

    @property
    def is_choice(self) -> bool:
        """Whether its value is one of ``kinds``, not of a type that ``kinds`` names."""
        return get_origin(self.hint) is Literal

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def kinds(self) -> tuple[Any, ...]:
        """Types that a value may have; of a choice the words."""
        kinds = tuple(kind for kind in get_args(self.hint) if kind is not ...) or (self.hint,)
        return tuple(kind for kind in kinds if get_origin(kind) is not tuple)

    def value(self, given: Any) -> Any:
        """``given``, by a flag or a file, in the field's type. Raises ``ConfigError`` naming the flag."""
        if self.is_list:
            values = tuple(self._one(value) for value in (given if isinstance(given, list) else [given]))
            return values[0] if self._is_single_or_list and len(values) == 1 else values
        return self._one(given)

    def _one(self, given: Any) -> Any:
        if self.hint is bool or isinstance(given, bool | list | dict):
            if self.hint is bool and isinstance(given, bool):
                return given
        elif self.is_choice:
            if given in self.kinds:
                return given
        else:
            for kind in sorted(self.kinds, key=[*_KINDS].index):
                with suppress(ValueError):
                    return _none(given) if kind is NoneType else kind(str(given))
        shown = given if self.field.repr else "…"  # it may hold a password
        raise ConfigError(f"{self.flag} {shown}: expected {self._expected()}; --help lists the flags")

    def _expected(self) -> str:
        if self.is_choice:
            return f"one of {', '.join(self.kinds)}"
        return "true or false" if self.hint is bool else " or ".join(_KINDS[kind] for kind in self.kinds)


def _none(word: Any) -> None:
    if word != "None":
        raise ValueError


def settings_of(config_class: Any, prefix: str = "", group: type | None = None) -> Iterator[Setting]:
    """All settings, in the order of the fields."""
    hints, texts = get_type_hints(config_class), _texts_below_fields(config_class)
    for field in fields(config_class):
        hint, name = hints[field.name], prefix + field.name
        if is_dataclass(hint):
            yield from settings_of(hint, f"{name}.", hint)  # type: ignore[arg-type]
        else:
            yield Setting(name, hint, field, texts.get(field.name, ""), group)


def _texts_below_fields(config_class: type[Any]) -> dict[str, str]:
    """Those of the classes that it is made from too."""
    owners = [owner for owner in reversed(config_class.__mro__) if is_dataclass(owner)]
    return {name: text for owner in owners for name, text in _own_texts(owner).items()}


def _own_texts(config_class: type[Any]) -> dict[str, str]:
    try:
        source = inspect.getsource(config_class)
    except OSError:  # made at a prompt
        return {}
    body = ast.parse(inspect.cleandoc(source)).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def build(config_class: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """The config that holds ``values``, by dotted name, and defaults for the rest."""
    arguments: dict[str, Any] = {}
    for name, hint in get_type_hints(config_class).items():
        if is_dataclass(hint):
            arguments[name] = build(hint, values, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif prefix + name in values:
            arguments[name] = values[prefix + name]
    return config_class(**arguments)
