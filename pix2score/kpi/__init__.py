"""From the vector to a business number: expected clicks or sales of every image (``jobs.kpi``)."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:kpi")
