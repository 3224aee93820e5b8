"""All private or unstable Ray that this package touches, every name of it in ``names``.

Nothing here is imported from Ray unguarded: what an optimisation lacks is left out with a line in the log,
what cannot be done without is one clear error. ``PIX2SCORE_PLAIN_RAY=1`` leaves out all that changes Ray.
"""
