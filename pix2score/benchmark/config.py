"""Settings of ``jobs.benchmark``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pix2score.benchmark.score import PEERS
from pix2score.errors import ConfigError
from pix2score.model.backbones import check_backbone

LIMIT = "limit"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkConfig:
    """Settings of ``jobs.benchmark``."""

    stage: Literal[
        "plan",
        "decode",
        "model",
        "start",
        "score",
        "train",
        "heads",
        "fetch",
        "list",
        "index",
        "serve",
        "all",
    ] = "all"
    """plan: planning a night and rewriting the scores table. decode: one core, beside Pillow. model: the bare
    forward pass. start: what a run of one image costs, by cause. score: the whole job from command to exit,
    beside peers. train: the job beside steps on a ready batch, and reading shards beside original files.
    heads: a night answered from stored embeddings, beside one of pictures. fetch: what a GET of S3 costs,
    beside other clients; one whose package is missing is left out by name. list: a catalog of a bucket,
    beside a plain listing. index: building and asking the nearest-neighbour index, beside the exact answer.
    serve: the service under load, beside bare calls of the predictor."""
    rows: tuple[int, ...] = ()
    """plan: rows of the live snapshot; may be repeated (default: 1, 3 and 10 million). A million takes about
    0.5 GB of disk. heads: stored embeddings (default: a million; of 2,048 numbers they take 4 GB).
    index: made-up embeddings (default: 100,000, which take 1 GB of disk with their index). list: objects
    (default: a million)."""
    dim: int = 2048
    """index: numbers of an embedding."""
    workers: tuple[int, ...] = ()
    """plan: measure whole nights in Ray tasks instead, by ranges of keys on so many cores, and up to 10
    million rows in one task too; may be repeated: 1 and 2 tell how far it scales."""
    place: str | None = None
    """plan with workers: a folder on a large disk to work in; what was measured there is not measured again
    (default: a temporary one)."""
    images: str | None = None
    """score: a local folder of images, and nothing else (default: drawn photographs)."""
    num_images: int = 2000
    """score, train: images to draw; heads: at most 256; decode: per kind and size, at most 64 thumbnails,
    32 of 500 px, 8 of 1,200 px and 4 of 3,000 px."""
    side: int = 500
    """score, train, serve: width in px of the drawn photographs, which are 4:3."""
    model: str | None = None
    """decode: a trained model's folder, to measure how far its probabilities are apart; pictures are resized
    to its input."""
    backbone: str = "resnet18"
    """model, start, score, train, heads, serve: the network, with random weights."""
    input_size: int = 224
    """model, start, score, train, heads, serve: side of its input in px."""
    batch_size: int = 32
    """model, train: images per forward pass or step."""
    peers: str = "ray-recipe,dataloader,daft,limit"
    """score: what runs beside this package, comma-separated; a peer whose package is missing is left out by
    name; limit: the rate that the bare forward pass and the decoder imply on these cores."""
    seconds: float = 10.0
    """serve: of each measurement."""
    minutes: float = 0.0
    """serve: of load with hostile pictures among it, after the measurements."""
    runs: int = 3
    """Times that everything is run, in turns; medians are reported."""
    out: str | None = None
    """Folder for benchmark.json (default: none is written)."""

    def __post_init__(self) -> None:
        check_backbone(self.backbone)
        for rows in self.rows:
            if rows < 1000:
                raise ConfigError(f"rows {rows}: at least 1000")
        if any(workers < 1 for workers in self.workers):
            raise ConfigError(f"workers {', '.join(map(str, self.workers))}: at least 1")
        for name, least in (
            ("num_images", 4),
            ("side", 64),
            ("runs", 1),
            ("batch_size", 1),
            ("input_size", 8),
            ("dim", 8),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} {getattr(self, name)}: at least {least}")
        if not 0 < self.seconds < float("inf") or not 0 <= self.minutes < float("inf"):
            raise ConfigError(f"seconds {self.seconds}, minutes {self.minutes}: expected positive numbers")
        unknown = [peer for peer in self.named_peers() if peer not in (*PEERS, LIMIT)]
        if unknown:
            raise ConfigError(f"peer {', '.join(unknown)} is not known; one of {', '.join((*PEERS, LIMIT))}")

    def named_peers(self) -> list[str]:
        """``peers``, split."""
        return [peer.strip() for peer in self.peers.split(",") if peer.strip()]
