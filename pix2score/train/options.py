"""What the options of a training come to on its dataset: losses, resampling, teacher, more pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError
from pix2score.heads.spec import HeadSpec
from pix2score.train.config import TrainConfig, head_and_exponent
from pix2score.train.flags import AS_PREPARED
from pix2score.train.head_options import with_options
from pix2score.train.resample import Resampling, plan_resampling
from pix2score.train.teaching import TeacherPlace, find_teacher


@dataclass(frozen=True, slots=True)
class Options:
    """Of one training, checked against its dataset."""

    heads: tuple[HeadSpec, ...]
    """The dataset's, with the losses asked for."""
    resampling: Resampling | None
    teacher: TeacherPlace | None
    unlabelled: PreparedDataset | None

    def num_rows(self, dataset: PreparedDataset) -> int:
        """Different rows that an epoch has."""
        return dataset.num_rows("train") + (self.unlabelled.num_rows("train") if self.unlabelled else 0)

    def epoch_rows(self, dataset: PreparedDataset) -> int:
        """Rows that an epoch has, expected where it is left to chance; each as often as it comes."""
        more = self.resampling.num_rows - dataset.num_rows("train") if self.resampling else 0
        return self.num_rows(dataset) + int(more)


def find_options(config: TrainConfig, dataset: PreparedDataset) -> Options:
    """What a config asks for. Raises ``ConfigError`` or ``DataError`` where the dataset cannot have it."""
    heads, resampling, teacher = asked_heads(config, dataset), None, None
    if config.resample is not None:
        resampling = plan_resampling(*head_and_exponent(config.resample), dataset, heads)
    if config.teacher is not None:
        teacher = find_teacher(config.teacher, config.teacher_weight, heads, config.preprocess())
    return Options(heads, resampling, teacher, _unlabelled(config, dataset))


def _unlabelled(config: TrainConfig, dataset: PreparedDataset) -> PreparedDataset | None:
    if config.unlabelled is None:
        return None
    found = open_dataset(config.unlabelled)
    found.parts("train")
    sizes = [d.card["config"]["image_size"] for d in (dataset, found)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"unlabelled {config.unlabelled} was prepared with image_size {sizes[1]}, the dataset with "
            f"{sizes[0]}: prepare both alike"
        )
    return found


def asked_heads(config: TrainConfig, dataset: PreparedDataset) -> tuple[HeadSpec, ...]:
    """The dataset's heads with the losses asked for."""
    asked = {"bins": config.bins_loss, "levels": config.levels_loss}
    losses = [asked.get(head.kind, AS_PREPARED) for head in dataset.heads]
    heads = [
        head if loss == AS_PREPARED else replace(head, loss=loss)
        for head, loss in zip(dataset.heads, losses, strict=True)
    ]
    return with_options(heads, config.heads)
