"""The user's catalog: its columns, its rows by key, and the bytes they name. Never written, but for those
that ``catalog`` makes of the pictures at a place."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "job:catalog")
