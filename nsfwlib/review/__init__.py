"""What does a person look at, and what became of it?"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
