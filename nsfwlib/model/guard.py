"""Is it safe to let Keras open a model file? Nothing in it may be executed, or fill the memory.

Layers that carry code are refused before Keras sees them, as are files that expand to more than they say.
"""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py

from nsfwlib._tensorflow import keras

OLD = (".h5", ".hdf5")  # endings of the files of Keras 2
MOST_BYTES = 4 << 30  # of an unpacked model file
# What a network of keras.applications with a head of dense layers is made of; a Lambda is not among them.
_PLAIN_LAYERS = {
    *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Cropping2D"),
    *("Dense", "DepthwiseConv2D", "Dropout", "Flatten", "Functional", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *("InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Model", "Multiply", "Normalization", "ReLU"),
    *("Rescaling", "Reshape", "SeparableConv2D", "Sequential", "Softmax", "ZeroPadding2D"),
}


def read_model(path: Path) -> keras.Model:
    """What Keras makes of the file, once it is known to carry no code; by its ending, as Keras tells kinds of files."""
    if not path.exists():
        raise FileNotFoundError(
            f"There is no model file {path}. Train one with 02_fine_tune, or take the published one: model='published' "
            "to score, weights='nsfwjs' to train."
        )
    if (path / "saved_model.pb").exists():
        raise ValueError(
            f"{path} is a SavedModel folder, which Keras 3 cannot load as a model. Load it with Keras 2 "
            "(`pip install tf-keras`; `tf_keras.models.load_model(folder).save('model.h5')`) and give the `.h5` here, "
            "or use it as it is with `keras.layers.TFSMLayer`."
        )
    if not path.is_file():
        raise ValueError(f"{path} is no regular file but a folder, pipe or device. Expected a `.keras` or `.h5` file.")
    if not (h5py.is_hdf5(path) if path.suffix in OLD else path.suffix == ".keras" and zipfile.is_zipfile(path)):
        raise ValueError(f"{path} is no model file. Expected `.keras`, or the `.h5` of 2019, neither of them damaged.")
    try:
        _check_size(*(_opened_old(path) if path.suffix in OLD else _opened(path)))
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds; the first line says which layer or part is at fault
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} was not loaded: {reason} Expected an undamaged classifier that nsfwlib saved; code in a file is "
            "never run."
        ) from error


def _check_size(config: dict[str, Any], stored: int, declared: int) -> None:
    """A ValueError where weights or layers would fill the memory: as stored, Keras' take a byte or more a number."""

    def count() -> int:  # of the network that a configuration describes, without making room for any
        network = keras.Sequential if config["class_name"] == "Sequential" else keras.Model  # Keras 2's have no module
        with keras.StatelessScope(initialize_variables=False):
            return network.from_config(config["config"]).count_params()

    with ThreadPoolExecutor(1) as pool:  # what Keras remembers of these layers, it forgets with the thread
        parameters = pool.submit(count).result()
    if max(declared, parameters) > stored:
        raise ValueError(
            f"it holds {stored / 1e6:,.1f} MB, of weights that would expand to {declared / 1e6:,.1f} MB and a network "
            f"of {parameters / 1e6:,.1f} million numbers."
        )


def _declared_bytes(weights: h5py.File) -> int:
    """What the arrays of an HDF5 file take in memory, by their shapes."""
    found = []
    weights.visititems(lambda _, item: found.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    return sum(found)


def _opened(path: Path) -> tuple[dict[str, Any], int, int]:
    """Configuration, bytes unpacked and bytes of weights of a `.keras`; a ValueError where it would fill the memory."""
    with zipfile.ZipFile(path) as archive:  # it reads no more of a part than that declares
        parts = archive.infolist()
        if any(part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for part in parts):
            raise ValueError("it is compressed in a way that Keras does not use.")
        whole, limit = sum(part.file_size for part in parts), min(MOST_BYTES, max(64 << 20, 20 * path.stat().st_size))
        if whole > limit:
            raise ValueError(f"it expands to {whole / 1e6:,.0f} MB. At most {limit / 1e6:,.0f} are expected of it.")
        config = json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:  # to seek in the archive takes seconds
            return config, whole, _declared_bytes(weights)


def _opened_old(path: Path) -> tuple[dict[str, Any], int, int]:
    """The same of an `.h5`; a ValueError where it has no model, or layers that carry code or are unknown here."""
    with h5py.File(path) as file:
        text, declared = file.attrs.get("model_config"), _declared_bytes(file)
    if text is None:
        raise ValueError(
            "it holds weights without a model. Build the classifier with model.build_classifier, load the weights with "
            "Keras, and save it as `.keras`."
        )
    names: set[str] = set()  # of all layers, those in nested models and wrappers included

    def note(part: dict) -> dict:
        names.add(str(part.get("class_name", "__keras_tensor__")))
        return part

    config = json.loads(text, object_hook=note)
    # these have a class name too, as have links between layers; all else counts as a layer
    others = (keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
    if strange := sorted(names - _PLAIN_LAYERS.union({"__keras_tensor__"}, *map(dir, others))):
        raise ValueError(
            f"it holds layers that can carry code or are unknown here ({', '.join(strange)}), none of "
            f"{', '.join(sorted(_PLAIN_LAYERS))}."
        )
    return config, path.stat().st_size, declared
