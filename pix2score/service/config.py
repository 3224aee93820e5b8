"""Settings of ``jobs.serve``, and those of the application that a config file of Ray Serve names."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError
from pix2score.images.decode import MAX_BYTES

MIB = 2**20
RETRY_AFTER_S = 1
"""What a client is told to wait when the queue is full; one that comes too early is told again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig:
    """What each replica is told: ``args`` of the application in a config file of Ray Serve."""

    model: str
    """Model folder that jobs.train made."""
    scores: str | None = None
    """Scores folder: its live snapshot answers /similar, and a newer one takes its place within a minute of
    being published."""
    device: Device = "auto"
    """auto (the GPU that Ray gives a replica, if it gives one), cpu or gpu."""
    batch_size: int | None = None
    """Pictures in one forward pass (default: 1 on a CPU, where more take as much CPU time each,
    and 32 on a GPU)."""
    decoders: int | None = None
    """Decode processes of a replica (default: two more than its cores, so that a picture that takes long
    holds up nobody else's)."""
    max_body_mb: int = 96
    """Largest body of a request in MiB; base64 takes a third more than the pictures. Larger ones are refused
    before they are read (413)."""
    max_images: int = 32
    """Most pictures in one request."""
    max_queue: int = 128
    """Most pictures that a replica is at work on, waiting ones too; further requests are told to come back
    (429)."""
    max_seconds: float = 60.0
    """Longest time that a request may take (504)."""
    explain: bool = True
    """Whether /predict?where=HEAD shows where a head looks. It needs torch in each replica, its memory and
    some seconds more until it is ready."""
    pictures: bool = True
    """Whether /picture shows pictures of the catalog that was scored. A replica lists the catalog for it, on
    the disk of temporary files."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "decoders", "max_body_mb", "max_images", "max_queue"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        if not 0 < self.max_seconds < float("inf"):
            raise ConfigError(f"max_seconds {self.max_seconds}: expected a positive number of seconds")
        if self.max_images > self.max_queue:
            raise ConfigError(
                f"max_images {self.max_images} is over max_queue {self.max_queue}: such a request would "
                "always be refused"
            )

    @property
    def max_body_bytes(self) -> int:
        """Largest body of a request."""
        return self.max_body_mb * MIB

    @property
    def max_image_bytes(self) -> int:
        """Largest picture that can be answered: what is decoded at all, and what fits into a body."""
        return min(MAX_BYTES, self.max_body_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig(AppConfig):
    """Settings of ``jobs.serve``."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in. There is no password: put what has one before
    it."""
    port: int = 8000
    """Port to listen on."""
    replicas: int = 1
    """Processes that answer, each with a model of its own: one for each GPU is right; on CPUs one uses all
    cores of a machine."""

    def __post_init__(self) -> None:
        AppConfig.__post_init__(self)
        if not 1 <= self.port < 2**16:
            raise ConfigError(f"port {self.port}: expected 1 to 65535")
        if self.replicas < 1:
            raise ConfigError(f"replicas {self.replicas}: at least 1")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
