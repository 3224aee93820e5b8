"""Which training a model folder holds: the same command goes on with it, another one is refused."""

from __future__ import annotations

import json
from typing import Any

from pix2score.cli.flags import as_plain
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.model.card import CARD, load_card
from pix2score.storage.folder import Folder
from pix2score.train.config import TrainConfig

_MAY_DIFFER = {
    *("out", "data", "teacher", "unlabelled"),
    *("gpu_wait_s", "cpus_per_worker", "cache_mib", "memory", "checkpoint_activations"),
}
"""Places may be spelt differently (dataset_id and its like say whether it is the same); the rest changes no
result."""


def identity(config: TrainConfig, dataset: PreparedDataset) -> bytes:
    """Content of ``config.json``: the settings, and the versions of what they name."""
    others = {
        "teacher_version": load_card(config.teacher).version if config.teacher else None,
        "unlabelled_id": open_dataset(config.unlabelled).id if config.unlabelled else None,
    }
    return json.dumps({**as_plain(config), "dataset_id": dataset.id, **others}, indent=1).encode()


def refuse_other_config(config: TrainConfig, dataset: PreparedDataset, out: Folder) -> None:
    """Raise ``ConfigError`` with the differences where another training was begun at ``out``.

    ``DataError`` where something else is there.
    """
    begun = _begun(out)
    if begun is None:
        return
    wanted = json.loads(identity(config, dataset))
    # What an older version did not know was at its default; what it had as a yes or no is a table now.
    begun = {key: value for key, value in begun.items() if (key, value) != ("augment", True)}
    begun = json.loads(identity(TrainConfig(data=config.data, out=config.out), dataset)) | begun
    differences = [
        f"{k}: {begun.get(k)} there, {wanted.get(k)} now"
        for k in begun
        if k not in _MAY_DIFFER and begun.get(k) != wanted.get(k)
    ]
    if differences:
        raise ConfigError(
            f"{out.uri} was begun with another config ({'; '.join(differences)}); give another --out"
        )


def _begun(out: Folder) -> dict[str, Any] | None:
    """The config of the training that was begun at ``out``; None if nothing is there.

    Raises ``DataError`` where something else is.
    """
    try:
        begun = json.loads(out.read("config.json"))
    except (FileNotFoundError, NotADirectoryError):
        if out.is_file(CARD):
            raise DataError(
                f"{out.uri} holds a model that this command did not begin; give another --out"
            ) from None
        return None
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise DataError(f"{out.full('config.json')} is not the config of a training; give another --out")
    return begun
