"""A model for single pictures, and as one file for other runtimes; called, the service for many."""

from pix2score.host.callable_package import make_callable

make_callable(__name__, "pix2score.service.job:serve")  # which is Ray's, and comes later in the rooms
