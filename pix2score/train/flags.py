"""What ``jobs.train`` may be told: each setting with its help, and what follows from one or two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError
from pix2score.images.preprocess import Preprocess
from pix2score.model.backbones import wanted_input
from pix2score.snapshots.tables import EmbeddingDtype
from pix2score.train.augmentation import Augmentation
from pix2score.train.step.recipe import SMALL_DATA_ROWS, Gradient, Optimizer, Precision, Schedule

AS_PREPARED = "as prepared"
Freeze: TypeAlias = Literal["none", "trunk"]
MAX_PADDING = 10_000
"""Empty validation rows that an elastic number of workers may need, each a black picture to decode."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """Settings of ``jobs.train``, as given: ``config`` checks them."""

    data: str
    """Prepared dataset: a local folder or s3://bucket/prefix."""
    out: str
    """Where the model goes. The same command again resumes what is there."""
    backbone: str = "resnet101"
    """A network of timm's by name: resnet18, convnext_tiny, vit_small_patch14_dinov2 or any other; with a
    tag, as resnet50.tv2_in1k, where it has several pretrained weights. Pictures are normalised as it wants
    them."""
    weights: str = "none"
    """Start of the trunk: none, pretrained (timm's hub; imagenet means the same), or the place of a model or
    state dict, of which is taken what fits by name and shape. The outputs then begin solved (up to 50,000
    rows), BatchNorm keeps its statistics, and all learns without dropout at a fifth of the preset's rate for
    at most 10 epochs, where these are not given."""
    freeze: Freeze = "none"
    """trunk: it stays as it begins, each picture is embedded once, unaugmented, and the outputs alone learn,
    a linear probe: they are solved at strengths of a penalty on their squared weights, an epoch each, from
    strong to weak, and each head keeps what validation likes best. none: all learns."""
    hidden: int = 0
    """Width of a layer with BatchNorm and ReLU between the embedding and the outputs; 0: none."""
    embedding_dtype: EmbeddingDtype = "float16"
    """What embeddings are stored in, and rounded to before the heads see them, so that heads answer from a
    stored embedding as from the picture. float16 ends at 65,504: a picture beyond it fails; float32 takes
    twice the space."""
    dropout: float | None = None
    """Of what the outputs see (default: the preset's)."""
    drop_path: float = 0.0
    """Chance that the last block of the trunk is passed over in a step; of earlier ones less."""
    input_size: int = 224
    """Side of the square that the network sees, px."""
    resize: str = "squash"
    """squash (whole picture, aspect given up), pad (on white) or crop (centre)."""
    recipe: str = "auto"
    """Preset that fills in what is not given below: small, large, or auto (small below 50,000 training
    rows)."""
    epochs: int | None = None
    """Passes over the train split (default: the preset's)."""
    batch_size: int = 64
    """Images per step and worker; a set of compared images counts as one."""
    accumulate: int = 1
    """Pieces in which a worker computes its batch: less memory, the same step, but that BatchNorm sees the
    pieces. Where a GPU's memory is too small, more are made without asking."""
    checkpoint_activations: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time. Without
    asking where eight times the pieces do not fit."""
    memory: str | None = None
    """Most memory of its GPU that a worker may take, such as 12GiB: a step is cut to fit (default: all)."""
    learning_rate: float | None = None
    """Top rate, for the batch of all workers together. Default: the preset's, which holds for 64 images a
    step, scaled by the square root of the images a step of all workers (sgd: in proportion)."""
    head_rate: float = 1.0
    """Rate of the heads, as a multiple of the trunk's."""
    layer_decay: float = 1.0
    """Rate of each layer of the trunk over that of the next one, such as 0.75; the last has the top rate. A
    ResNet's layers are its blocks, and what is before them."""
    frozen_fraction: float = 0.0
    """Share of the steps, at the start, that move the heads alone; for a trunk that begins with weights."""
    optimizer: Optimizer = "adamw"
    """adamw or sgd."""
    schedule: Schedule = "cosine"
    """How the rate falls after a linear warm-up: cosine, step, exponential, plateau (to 0.3 of it after two
    epochs of no lower validation loss) or onecycle (which rises and falls by cosines)."""
    warmup_fraction: float | None = None
    """Share of the steps in which the rate rises (default: the preset's)."""
    milestones: tuple[float, ...] = ()
    """Of schedule step: a share of all steps after which the rate is multiplied by gamma, such as 0.7. May be
    given several times (default: after each third)."""
    gamma: float = 0.1
    """Of schedule step: what the rate is multiplied by."""
    cycles: int = 1
    """Of schedule cosine: how often the rate falls; each fall begins at the top rate."""
    floor: float | None = None
    """Least rate as a share of the top one, of schedules cosine (default: 0) and exponential (default:
    0.01)."""
    weight_decay: float | None = None
    """Of kernels and matrices (default: the preset's); norms and biases have none."""
    augment: Augmentation = field(default_factory=Augmentation)
    label_noise: float = 0.0
    """Standard deviation of noise on the training labels, in their own unit, before they are binned. For a
    single head: [heads.NAME] in --config, with weight, loss or label_noise of that head."""
    average: float | None = None
    """Share of all steps over which weights are averaged, exponentially; each epoch the averaged ones or the
    last step's are taken, whichever validate better (default: the preset's; 0: the last step's)."""
    r_drop: float = 0.0
    """R-Drop: weight of how far two answers to the same picture, under two dropout masks, are apart. Needs
    dropout."""
    adversarial: float = 0.0
    """Each step also learns from its pictures moved by so much (L2 norm of the normalised picture) where the
    loss grows fastest; such as 0.5. Twice the time."""
    gradient: Gradient = "sum"
    """sum, or pcgrad: conflicting parts of the heads' gradients are projected out; about as many times slower
    as there are heads."""
    resample: str | None = None
    """HEAD:0.5: rows of the head's rare bins, classes or tags come more often in an epoch, (t / f) ^ 0.5
    times (LVIS), at most 10: f is the share of the rarest one that the row has, t an even share, of tags the
    median tag's. 0.5 is usual, 1 makes all even, near 0 none. Probabilities stay those of the data as it is;
    the labels of other heads come once."""
    teacher: str | None = None
    """A model, or an ensemble, that answers the pictures as the student sees them in each step; the student
    learns from its answers too, where they have the same heads."""
    teacher_weight: float = 0.7
    """Of the teacher's answers in the loss; the rest is the labels'. A row without a label learns from the
    teacher alone."""
    unlabelled: str | None = None
    """A second prepared dataset, of which each picture of the train split is mixed in, without its labels:
    the teacher answers it."""
    bins_loss: str = "as prepared"
    """Of all heads of kind bins: ordinal, cross_entropy, squared_emd, class_weighted, logit_adjusted or
    pairwise."""
    levels_loss: str = "as prepared"
    """The same of heads of kind levels."""
    best_by: str = "val_loss"
    """Metric that chooses the saved epoch: val_loss, or HEAD.METRIC such as bookmark.spearman."""
    patience: int | None = None
    """Stop when so many epochs in a row brought nothing better (default: a third of the epochs of the preset
    for small data, none of others; none where the number of epochs is given)."""
    checkpoint_minutes: float = 10.0
    """A checkpoint after so many minutes, besides that of every epoch: about the most that a killed worker
    costs."""
    shuffle_mib: int = 256
    """Memory of decoded pixels among which each worker shuffles, beside what a step takes. Shards are random
    samples already."""
    cache_mib: int | None = None
    """MiB of decoded pixels that may be kept in Ray's object store: a dataset that fits is decoded once, not
    in every epoch (default: a quarter of the store of all nodes; 0: never)."""
    precision: Precision = "auto"
    """auto (bf16 on a GPU that has it, else fp16; fp32 on a CPU), fp32, bf16 or fp16."""
    max_steps: int | None = None
    """Stop after this many steps in all."""
    num_workers: int | str | None = None
    """Data-parallel workers (default: the cluster's GPUs; without any 1, and 0 on a Ray of this machine
    alone). MIN..MAX, such as 2..8: as many as there are nodes for, always with batch_size * MAX images a
    step. 0: in this process, which starts some ten seconds sooner; if it dies, the same command goes on."""
    cpus_per_worker: int | None = None
    """CPUs that each worker holds in Ray's books (default: 1 without a GPU, none beside one). Nearly all of a
    node's: one worker a node."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def solves_outputs(self) -> bool:
        """Whether outputs are solved rather than stepped: ``train.step.probe``."""
        return self.freeze == "trunk" and not self.hidden

    @property
    def is_fine_tuned(self) -> bool:
        """Whether a trunk that begins with weights learns on."""
        return self.weights != "none" and self.freeze == "none"

    def begins_solved(self, num_rows: int) -> bool:
        """Whether outputs are solved first: over a trunk with weights, where all embeddings are few."""
        return self.is_fine_tuned and not self.hidden and num_rows < SMALL_DATA_ROWS

    def worker_range(self, default: int) -> tuple[int, int]:
        """Least and greatest number of workers. Raises ``ConfigError``."""
        given = default if self.num_workers is None else self.num_workers
        low, _, high = str(given).partition("..")
        if not (low.isdigit() and (high.isdigit() or ".." not in str(given))):
            raise ConfigError(f"num_workers {given}: expected a number, or a range such as 2..8")
        least, most = int(low), int(high or low)
        if high and not 1 <= least < most:
            raise ConfigError(f"num_workers {given}: a range begins at 1 or more, and ends above")
        if math.lcm(*range(max(1, least), max(1, most) + 1)) > MAX_PADDING and high:
            raise ConfigError(
                f"num_workers {given}: so wide a range cannot share the validation rows evenly; 1..10 or "
                "8..10 can"
            )
        return least, most

    def preprocess(self) -> Preprocess:
        """How images become the network's input. Raises ``ConfigError``."""
        wanted = wanted_input(self.backbone)
        return Preprocess(size=self.input_size, resize=self.resize, mean=wanted.mean, std=wanted.std)
