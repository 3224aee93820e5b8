"""From a command line to the config of a job: reads flags, and a TOML file with the same names.

Owns what all jobs share and nothing of what any job does.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from itertools import groupby
from types import NoneType
from typing import Any, Literal, NoReturn, TypeAlias, get_type_hints

from pix2score.cli.settings import POSITIONAL, WHOLE, Config, Setting, build, settings_of
from pix2score.errors import ConfigError

Device: TypeAlias = Literal["auto", "cpu", "gpu"]
HEADS = "heads"
"""Tables that one file may have for several jobs, of which not all take them."""


def resolve(config_class: type[Config], argv: Sequence[str], *, prog: str = "", about: str = "") -> Config:
    """The config that flags and the file of ``--config`` describe; flags win. Exits after ``--help``.

    Raises:
        ConfigError: an unknown flag or key (the nearest known one is named), a missing one, or a refused
            value.
    """
    settings = [setting for setting in settings_of(config_class) if not setting.is_table]
    flags = _from_flags(settings, argv, prog, about)
    path = flags.pop("config", None)
    file = load_toml(path) if path is not None else {}
    return config_of(config_class, file, f"--config {path}: ", flags)


def config_of(
    config_class: type[Config], table: Mapping[str, Any], where: str, flags: Mapping[str, Any] | None = None
) -> Config:
    """The config that a table with the keys of a file for ``--config`` describes; ``flags`` win.

    ``where`` begins messages about the table. Raises ``ConfigError`` as ``resolve`` does.
    """
    settings = {setting.name: setting for setting in settings_of(config_class)}
    of_tables = {name: settings.pop(name) for name, found in list(settings.items()) if found.is_table}
    tables = {n: _tables(table[n], where, setting) for n, setting in of_tables.items() if n in table}
    rest = {key: value for key, value in table.items() if key not in of_tables}
    given = {**flat(config_class, rest, where), **(flags or {})}
    missing = [s.flag for s in settings.values() if s.is_required and s.name not in given]
    if missing:
        raise ConfigError(f"{', '.join(missing)} must be given; --help lists the flags")
    return build(config_class, {name: settings[name].value(value) for name, value in given.items()} | tables)


def _from_flags(settings: Sequence[Setting], argv: Sequence[str], prog: str, about: str) -> dict[str, Any]:
    """What flags give, by name: words, lists of words, true or false."""
    num_flags = argv.index("--") if "--" in argv else len(argv)  # words after it are no flags
    words = [_with_hyphens(word) for word in argv[:num_flags]]
    known = [flag for s in settings for flag in [s.flag, s.off_flag] if flag]
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        if flag not in (*known, "--config", "--help"):
            near = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
            raise ConfigError(f"unknown flag {flag}; {hint}")
    if words[-1:] == ["--config"]:
        raise ConfigError("--config needs a TOML file")
    return vars(_parser(settings, prog, about).parse_args([*words, *argv[num_flags:]]))


def _with_hyphens(word: str) -> str:
    """``--batch_size`` is ``--batch-size``."""
    flag, is_given, value = word.partition("=")
    return flag.replace("_", "-") + is_given + value if word.startswith("--") else word


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists the flags")


def _parser(settings: Sequence[Setting], prog: str, about: str) -> _Parser:
    required = [f"{s.flag} {_metavar(s)}" for s in settings if s.is_required]
    positional = [f"{_metavar(s)}..." for s in settings if POSITIONAL in s.field.metadata]
    parser = _Parser(
        prog=prog,
        usage=" ".join([prog, *required, "[OPTIONS]", *positional]),
        description=about,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings; flags win.")
    for group, members in groupby(settings, key=lambda setting: setting.group):
        place: argparse._ActionsContainer = parser
        if group:
            place = parser.add_argument_group(f"{group.__name__.lower()} options", inspect.getdoc(group))
        for setting in members:
            _add(place, setting)
    return parser


def _add(place: argparse._ActionsContainer, setting: Setting) -> None:
    how: dict[str, Any] = {"dest": setting.name, "help": _help(setting)}
    if setting.hint is bool:
        place.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **how)
    elif POSITIONAL in setting.field.metadata:
        place.add_argument(nargs="*", metavar=_metavar(setting), **how)
    else:
        action = "append" if setting.is_list else "store"
        place.add_argument(setting.flag, action=action, metavar=_metavar(setting), **how)
    if WHOLE in setting.field.metadata:
        off = setting.field.metadata[WHOLE]
        place.add_argument(
            str(setting.off_flag),
            dest=setting.name,
            action="store_const",
            const=off,
            help=f"The same as {off}.",
        )


def _metavar(setting: Setting) -> str:
    if setting.is_choice:
        return f"{{{','.join(setting.kinds)}}}"
    types = "|".join(kind.__name__.upper() for kind in setting.kinds if kind is not NoneType)
    return str(setting.field.metadata.get(POSITIONAL, types))


def _help(setting: Setting) -> str:
    default = setting.field.default
    note = "" if default in (None, (), MISSING) else f" (default: {default})"
    return (setting.help + (" (required)" if setting.is_required else note)).replace("%", "%%")


def load_toml(path: str) -> dict[str, Any]:
    """The settings in a TOML file, local or on S3. Raises ``ConfigError`` naming the file."""
    from pix2score.storage.folder import read_place  # storage imports s3fs: not needed for --help

    if not path:
        raise ConfigError("--config needs a TOML file")
    try:
        return tomllib.loads(read_place(path).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"--config {path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--config {path} is not valid TOML: {exc}") from None


def flat(config_class: type[Any], table: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """What a table gives, by dotted name. Raises ``ConfigError`` for an unknown key."""
    hints = get_type_hints(config_class)
    found: dict[str, Any] = {}
    for key, given in table.items():
        value, name = _as_group(hints.get(key), given), prefix + key
        if key not in hints:
            raise ConfigError(f"{where}{_unknown(key, name, hints)}")
        if isinstance(value, dict) != is_dataclass(hints[key]):
            kinds = (
                "a single value, not a table" if isinstance(value, dict) else "a table, not a single value"
            )
            raise ConfigError(f"{where}{name!r} is {kinds}")
        found |= flat(hints[key], value, where, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _unknown(key: str, name: str, known: Mapping[str, Any]) -> str:
    if key == HEADS:
        return f"unknown key {HEADS!r}: heads belong to jobs.prepare; give this job a file without them"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown key {name!r}; {hint}"


def _as_group(hint: Any, given: Any) -> Any:
    """``group = value`` of a file as a table, where one of the group's fields stands for all of it."""
    whole = [f for f in (fields(hint) if is_dataclass(hint) else ()) if WHOLE in f.metadata]
    if not whole or not isinstance(given, str | bool):
        return given
    if given is True:
        return {}
    return {whole[0].name: given or whole[0].metadata[WHOLE]}


def _tables(given: Any, where: str, setting: Setting) -> Any:
    """What a file gives where a job takes a table, tables by name, or a list of tables."""
    name, form, tables = setting.name, f"a table, [{setting.name}]", [given]
    if setting.is_list:
        form, tables = f"tables, each under its own [[{name}]]", given
    elif setting.holds_tables_by_name:
        form = f"tables by name here, such as [{name}.NAME]"
        tables = [given, *given.values()] if isinstance(given, dict) else [given]
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise ConfigError(f"{where}{name} must be {form}")
    return tuple(given) if setting.is_list else given


def as_plain(config: Any) -> dict[str, Any]:
    """The resolved config as plain values, for JSON beside the output."""
    return asdict(config)
