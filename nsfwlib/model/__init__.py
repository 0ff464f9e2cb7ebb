"""What is the classifier, and how are many pictures put through it?

CLASS_NAMES  the five classes of 2019, in the order of the published model's outputs
PACKAGE      the npm package that ships the published weights
VERSION      of that package, the one that is pinned
Forward      RGB 0–255 (B, S, S, 3) → float32 arrays: what `forward_pass` returns
PRECISIONS   What a converted model may compute in
RUNTIMES     What computes
COMPARED     Pictures that answers in lowered precision are compared on
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
