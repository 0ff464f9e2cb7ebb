"""How does the model leave the notebook, and does it give the same answers there?

FORMATS          name → how the format is written, opened again, and how far it may differ
export           Write `model` in each of `formats` to `<out_dir>/<format>/`, checked against the model itself
install_nsfwjs   `node_modules` with nsfwjs and TensorFlow.js, fetched once by npm
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
