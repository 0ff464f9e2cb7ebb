"""Which label is wrong, and which one is in force?

ACTIONS    what a decision says besides a class: keep, drop, unsure, escalate
LABELLING  the kinds of lines that give a label
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
