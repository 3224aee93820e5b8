"""Heads learnt anew from today's labels and the embeddings that a scores folder stores (``jobs.refit``)."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:refit")
