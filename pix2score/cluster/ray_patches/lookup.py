"""Private names of Ray looked up and replaced, each guarded, and the switch that leaves Ray as it is."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray

from pix2score.cluster.ray_patches.names import ASKED, NEEDED, PATCHED
from pix2score.errors import ConfigError

logger = logging.getLogger(__name__)
PLAIN_RAY = "PIX2SCORE_PLAIN_RAY"
_NOTHING = object()


def is_plain() -> bool:
    """Whether the operator wants Ray as it is: ``PIX2SCORE_PLAIN_RAY`` is set, and not to 0."""
    return os.environ.get(PLAIN_RAY, "") not in ("", "0")


def missing_names(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that the installed Ray does not have."""
    return [name for name in names if not _has(name)]


def asked(name: str) -> Any:
    """The value of a name of ``ASKED`` or ``PATCHED``; None, and a line in the log, if there is none."""
    assert name in ASKED + PATCHED, f"{name} is not in ray_patches.names"
    found = _look_up(name)
    if found is _NOTHING:
        logger.debug("Ray %s has no %s: done without", ray.__version__, name)
    return None if found is _NOTHING else found


def lacking(name: str) -> ConfigError:
    """The error of a Ray without a name of ``NEEDED``."""
    assert name in NEEDED, f"{name} is not in ray_patches.names.NEEDED"
    return ConfigError(
        f"Ray {ray.__version__} has no {name.partition(':')[2]}, which staging needs: install the version "
        "that this pix2score was made for (its requirements name it)"
    )


@contextlib.contextmanager
def replaced(changes: Mapping[str, Any]) -> Iterator[None]:
    """Names of ``PATCHED`` have these values inside the block, and their own afterwards.

    A name that Ray lacks is left out with a line in the log; all of them under ``PIX2SCORE_PLAIN_RAY``.
    """
    with contextlib.ExitStack() as until_end:
        for name, value in {} if is_plain() else changes.items():
            until_end.enter_context(_replaced(name, value))
        yield


@contextlib.contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    assert name in PATCHED, f"{name} is not in ray_patches.names.PATCHED"
    path, _, attribute = name.replace(":", ":.").rpartition(".")
    owner = _look_up(path)
    if owner is _NOTHING or attribute not in vars(owner):
        logger.debug("Ray %s has no %s: left as it is", ray.__version__, name)
        yield
        return
    kept = vars(owner)[attribute]
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, kept)


def _look_up(name: str) -> Any:
    """What stands there, ``_NOTHING`` if there is none."""
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return _NOTHING
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute, _NOTHING)
    return found


def _has(name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    fields = getattr(_look_up(owner), "__dataclass_fields__", {}) if ":" in owner else {}
    return attribute in fields or _look_up(name) is not _NOTHING
