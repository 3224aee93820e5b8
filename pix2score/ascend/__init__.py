"""ascend: pictures moved along a model's gradient, to see what a head wants and how little sways it."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:ascend")
