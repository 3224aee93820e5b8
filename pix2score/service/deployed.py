"""A replica with its routes and its limits before it: the class that Ray Serve deploys."""

from __future__ import annotations

from starlette.types import ASGIApp

from pix2score.service.admission import Admission
from pix2score.service.replica import Replica
from pix2score.service.routes import application


class Deployed(Replica):
    """What a deployment makes so many of."""

    def __serve_build_asgi_app__(self) -> ASGIApp:  # noqa: PLW3201 - Ray Serve's name
        return Admission(application(self), self.config, self.queue, self.numbers)
