"""What a process runs on that changes pixels or answers without a word: versions of packages and codecs.

Imports nothing of this package: its functions also run where that is not installed.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

OURS = "pix2score"
PACKAGES = {
    name.lower(): name
    for name in (
        "Pillow",
        "pillow-heif",
        "pillow-jxl-plugin",
        "numpy",
        "pyarrow",
        "onnxruntime",
        "openvino",
        "torch",
        "torchcodec",
        "torchvision",
        "timm",
    )
}
"""What decodes, resizes, stores and answers: name of the distribution -> how people write it."""
CODECS = {
    "libjpeg_turbo": "libjpeg-turbo",
    "webp": "libwebp",
    "avif": "libavif",
    "libtiff": "libtiff",
}
"""Libraries that Pillow brings or finds on the system, of the same Pillow in several versions: its name of
each -> that of the library."""
NUM_HEX = 8


def environment() -> dict[str, str]:
    """Name -> version of all that matters here; without what is not installed. Imports no torch.

    pix2score's own version has a hash of its files behind a ``+``: a checkout changes without its version.
    What torch was built for (``+cpu``, ``+cu126``) is left out: it is the same code on a CPU.
    """
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    if spec := find_spec(OURS):
        number = importlib.import_module(OURS).__version__
        found[OURS] = f"{number}+{_hash_of_files(Path(str(spec.origin)).parent)}"
    for distribution, name in PACKAGES.items():
        try:
            found[name] = version(distribution).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found | _codecs()


def _hash_of_files(root: Path) -> str:
    """Of all modules below ``root``; without its entry points, which a checkout has elsewhere."""
    files = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    content = hashlib.sha256()
    for path in files:
        if path.parts[0] != "jobs":
            content.update(path.as_posix().encode() + b"\0" + (root / path).read_bytes() + b"\0")
    return content.hexdigest()[:NUM_HEX]


def _codecs() -> dict[str, str]:
    try:
        features = importlib.import_module("PIL.features")
    except ImportError:
        return {}
    versions = {name: features.version(feature) for feature, name in CODECS.items()}
    return {name: number for name, number in versions.items() if number}


def differences(driver: Mapping[str, str], node: Mapping[str, str]) -> str:
    """What ``node`` has other than ``driver``, as a clause: ``Pillow 11.0.0, the driver 12.0.0``.

    Several are joined by ``and``; empty where there is none.
    """
    names = [name for name in [*driver, *(node.keys() - driver.keys())] if driver.get(name) != node.get(name)]
    if not names:
        return ""
    of_node, of_driver = (
        [f"{name} {found[name]}" if name in found else f"no {name}" for name in names]
        for found in (node, driver)
    )
    if len(names) == 1:  # need not be named twice
        of_driver = [driver.get(names[0], "none")]
    return f"{' and '.join(of_node)}, the driver {' and '.join(of_driver)}"
