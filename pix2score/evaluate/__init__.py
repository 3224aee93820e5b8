"""evaluate: model and dataset -> numbers and a report."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:evaluate")
