"""The recipe and the length of a training: what a preset says, but for what was given."""

from __future__ import annotations

import math
from dataclasses import fields

from pix2score.train.flags import TrainFlags
from pix2score.train.step.recipe import PRESETS, Augment, Recipe, preset_for, scaled_rate

SGD_RATE, SGD_WEIGHT_DECAY = 50.0, 5e-4
"""SGD's usual rate of 0.05 for 64 images beside AdamW's 0.001, and its usual decay, which its rate multiplies
too."""
FINE_TUNE_RATE, FINE_TUNE_EPOCHS = 0.2, 10
"""For a trunk that learns on from weights, near where they should be: share of the rate, most epochs."""
STALLED_SHARE = 1 / 3
"""Of the epochs: so many without anything better end a training on small data, which is soon learnt by
heart."""
FEWEST_EPOCHS_TO_TRY = 8
"""Of which one goes without augmentation, to see what of it the data set bears."""

_OF_STEPS = {
    *("learning_rate", "head_rate", "layer_decay", "weight_decay", "optimizer", "schedule", "milestones"),
    *("gamma", "cycles", "floor", "warmup_fraction", "dropout", "accumulate", "checkpoint_activations"),
    *("average", "r_drop"),
}
"""Settings that only steps obey."""
_AS_GIVEN = (
    *(
        "head_rate",
        "layer_decay",
        "frozen_fraction",
        "optimizer",
        "schedule",
        "milestones",
        "gamma",
        "cycles",
    ),
    *("floor", "accumulate", "checkpoint_activations", "label_noise", "r_drop", "adversarial", "gradient"),
    *("precision", "seed"),
)
"""Settings that are the recipe's own, whatever the preset."""


def default_epochs(flags: TrainFlags, num_rows: int) -> int:
    """Those of the preset; fewer for a trunk that begins with weights."""
    of_preset = preset_for(flags.recipe, num_rows).epochs
    return min(of_preset, FINE_TUNE_EPOCHS) if flags.is_fine_tuned else of_preset


def stops_after(flags: TrainFlags, num_rows: int) -> int | None:
    """Epochs in a row without anything better that end the training; None: it goes to its end."""
    if flags.patience or flags.epochs or flags.max_steps or flags.solves_outputs:
        return flags.patience
    is_small = preset_for(flags.recipe, num_rows) is PRESETS["small"]
    return math.ceil(default_epochs(flags, num_rows) * STALLED_SHARE) if is_small else None


def unused_where_outputs_are_solved(flags: TrainFlags) -> list[str]:
    """Settings of steps that were given."""
    return [f.name for f in fields(flags) if f.name in _OF_STEPS and getattr(flags, f.name) != f.default]


def make_recipe(
    flags: TrainFlags, *, num_rows: int, images_per_step: int, total_steps: int, num_epochs: int = 1
) -> Recipe:
    """What the preset says, but for what was given. Raises ``ConfigError``."""
    values = dict(preset_for(flags.recipe, num_rows).recipe)
    values["learning_rate"] = _learning_rate(flags, values["learning_rate"], images_per_step)
    if flags.weight_decay is not None:
        values["weight_decay"] = flags.weight_decay
    elif flags.optimizer == "sgd":
        values["weight_decay"] = SGD_WEIGHT_DECAY
    if flags.warmup_fraction is not None:
        values["warmup_fraction"] = flags.warmup_fraction
    values["label_noise_by_head"] = {
        name: options["label_noise"] for name, options in flags.heads.items() if "label_noise" in options
    }
    values["augment"] = Augment() if flags.freeze == "trunk" else flags.augment.over(values["augment"])
    values["tries_augment"] = _tries_augment(flags, num_epochs)
    for name in ("dropout", "average"):
        if getattr(flags, name) is not None:
            values[name] = getattr(flags, name)
    if flags.begins_solved(num_rows):
        values |= {"dropout": flags.dropout or 0.0, "keeps_statistics": True}
    if flags.solves_outputs:
        values |= {"average": 0.0, "dropout": 0.0, "r_drop": 0.0}
    given = {name: getattr(flags, name) for name in _AS_GIVEN}
    return Recipe(**{**given, **values}, total_steps=total_steps)


def _learning_rate(flags: TrainFlags, of_preset: float, images_per_step: int) -> float:
    """The rate that was given; else the preset's, for this optimiser and so many images a step."""
    if flags.learning_rate is not None:
        return flags.learning_rate
    base = of_preset * (SGD_RATE if flags.optimizer == "sgd" else 1)
    base *= FINE_TUNE_RATE if flags.is_fine_tuned else 1
    return scaled_rate(base, flags.optimizer, images_per_step)


def _tries_augment(flags: TrainFlags, num_epochs: int) -> bool:
    is_free = flags.augment.preset == "auto" and not flags.augment.given
    return is_free and flags.freeze == "none" and num_epochs >= FEWEST_EPOCHS_TO_TRY
