"""A package that can be called as the job in it: ``pix2score.score`` is a room of modules and a function.

Imports nothing of this package: a package calls it when it is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    """Calls its function, which is imported on use; pickled by its name."""

    _job: str

    @property
    def __wrapped__(self) -> Callable[[Any], Any]:
        """The function itself, where ``inspect`` and schedulers look for a signature."""
        module, _, function = self._job.partition(":")
        name = module if module.startswith("pix2score.") else f"{self.__name__}.{module}"
        found: Callable[[Any], Any] = getattr(import_module(name), function)
        return found

    def __call__(self, config: Any) -> Any:
        return self.__wrapped__(config)

    def __reduce__(self) -> tuple[Callable[[str], ModuleType], tuple[str]]:
        return import_module, (self.__name__,)


def make_callable(package: str, job: str) -> None:
    """``package`` called with a config is the function ``job``: ``module:function`` below it, or of another
    room by its whole name."""
    module = sys.modules[package]
    module.__class__ = _CallablePackage
    vars(module)["_job"] = job
