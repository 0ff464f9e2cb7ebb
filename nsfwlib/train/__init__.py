"""How good does the classifier get on these pictures? Head, fine-tuning, forecast."""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
