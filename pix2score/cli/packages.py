"""Packages that only some jobs need: whether they are installed, in which version, and what installs them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from pix2score.errors import ConfigError


def missing(packages: Iterable[str]) -> list[str]:
    """Those of ``packages``, by their import names, that are not installed."""
    return [name for name in packages if find_spec(name) is None]


def need(what: str, extra: str, packages: Iterable[str], instead: str = "") -> None:
    """Raise ``ConfigError`` with the command that installs ``extra``, unless all ``packages`` are installed.

    ``what`` needs them; ``instead`` says what else can be done.
    """
    if absent := missing(packages):
        ways = " or ".join(filter(None, [f"pip install 'pix2score[{extra}]'", instead]))
        raise ConfigError(f"{what} needs {', '.join(absent)}, not installed here: {ways}")


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed version by distribution name; without those that are not installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
