"""align: labels of several sources brought onto one scale by a frozen model."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:align")
