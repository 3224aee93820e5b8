"""Several trainings over one dataset, with several seeds each, side by side in one table."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:compare")
