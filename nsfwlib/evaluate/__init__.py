"""How good is it really? Scores, thresholds and audits, each with its interval."""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
