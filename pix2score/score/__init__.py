"""score: catalog and model -> the next snapshot."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:score")
