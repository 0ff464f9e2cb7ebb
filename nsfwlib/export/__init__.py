"""How does the model leave the notebook, and does it give the same answers there?

FORMATS          TODO
export           Write `model` in each of `formats` to `<out_dir>/<format>/`, checked against the model itself
preprocessing    What an application must do before it asks the export
picture_windows  `count` pixel arrays, uint8 (count, size, size, 3)
install_nsfwjs   `node_modules` with nsfwjs and TensorFlow.js in `cache_dir` (default
ask_nsfwjs       What nsfwjs answers, with the model in `model` loaded by `nsfwjs.load(url, {size})`
write_tfjs       Write `model` as a layers model into the empty `folder`: `model.json` and shards
read_tfjs        What the files in `folder` say, rebuilt layer by layer in Keras
"""

from nsfwlib._doors import door

__getattr__, __dir__, __all__ = door(__name__, __file__)
