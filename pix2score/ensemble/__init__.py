"""Several models to one that says the mean of what they say."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:ensemble")
