"""Optional packages: one line says what is missing and what installs it."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.cli.packages import missing, need, versions
from pix2score.errors import ConfigError


def test_only_what_is_not_installed_is_missing() -> None:
    assert missing(["numpy", "no_such_package", "PIL", "nor_this"]) == ["no_such_package", "nor_this"]


def test_what_is_missing_is_one_line_with_the_command_that_installs_it() -> None:
    need("a report", "report", ["numpy", "PIL"])
    line = r"^a report needs no_such_package, not installed here: pip install 'pix2score\[report\]'$"
    with pytest.raises(ConfigError, match=line):
        need("a report", "report", ["numpy", "no_such_package"])
    with pytest.raises(ConfigError, match=r"'pix2score\[export\]' or export to .pt2$"):
        need("ONNX", "export", ["no_such_package"], "export to .pt2")


def test_versions_are_those_of_installed_packages() -> None:
    assert versions(["numpy", "no-such-package"]) == {"numpy": np.__version__}
