"""How good is it really? Scores, thresholds and audits, each with its interval, of 95 %.
Everywhere `class_names` are the K classes in order, `unsafe_classes` those of them to be flagged, `groups` (N,) the
near-duplicate group of each row, `detectors` tables by name as from `read_detector`, and `seed` is of what is drawn.
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
