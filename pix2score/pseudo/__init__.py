"""pseudo: what a model is sure of becomes a catalog of labels for another one."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:pseudo")
