"""prepare: catalog -> dataset."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:prepare")
