"""What changed in the live snapshot, sent to where recommenders keep theirs (``jobs.push``)."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:push")
