"""Safe photographs and drawings that installed packages ship, as a folder of two classes."""

from pathlib import Path

import matplotlib
import skimage
import sklearn
from PIL import Image

SKIMAGE = Path(skimage.__file__).parent / "data"
MATPLOTLIB = Path(matplotlib.__file__).parent / "mpl-data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOGRAPHS = [
    *(SKLEARN / name for name in ("china.jpg", "flower.jpg")),
    *(SKIMAGE / f"{name}.png" for name in ("brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon")),
    *(SKIMAGE / name for name in ("rocket.jpg", "hubble_deep_field.jpg", "motorcycle_left.png")),
]
GRAPHICS = [
    *(MATPLOTLIB / "images" / f"{name}_large.png" for name in ("back", "filesave", "forward", "help", "home")),
    *(MATPLOTLIB / "images" / f"{name}_large.png" for name in ("matplotlib", "move", "subplots", "zoom_to_rect")),
    MATPLOTLIB / "sample_data" / "Minduka_Present_Blue_Pack.png",
    *(SKIMAGE / f"{name}.png" for name in ("horse", "logo", "page", "text", "color", "clock_motion")),
]
FORMS = {
    "JPEG": ("RGB", "JPEG"),
    "PNG": ("RGB", "PNG"),
    "greyscale": ("L", "PNG"),
    "palette": ("P", "PNG"),
    "RGBA": ("RGBA", "PNG"),
}


def make_folder(folder: Path) -> Path:
    """Every picture as shipped, and each form once a class or more; sizes differ so that copies are no exact copies."""
    for label, sources in (("photographs", PHOTOGRAPHS), ("graphics", GRAPHICS)):
        (folder / label).mkdir(parents=True)
        for i, source in enumerate(sources):
            form, (mode, codec) = list(FORMS.items())[i % len(FORMS)]
            with Image.open(source) as image:
                image = image.convert("RGBA").convert(mode) if mode != "P" else image.convert("RGB").convert("P")
                image.thumbnail((400, 400))
                image.save(folder / label / f"{source.stem}-{form}.{'jpg' if codec == 'JPEG' else 'png'}", codec)
    return folder
