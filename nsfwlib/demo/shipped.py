"""Which safe photographs and drawings do installed packages ship?"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import matplotlib
import sklearn

# Safe photographs and drawings, package by package; those of a package that is not installed are left out.
SHIPPED = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": (
        *(f"data/{name}.png" for name in ("astronaut", "camera", "chelsea", "coffee", "coins", "grass", "gravel")),
        *(f"data/{name}.png" for name in ("brick", "clock_motion", "horse", "logo", "moon", "motorcycle_left")),
        *(f"data/{name}" for name in ("hubble_deep_field.jpg", "no_time_for_that_tiny.gif", "rocket.jpg", "text.png")),
    ),
    "matplotlib": (
        *(
            f"mpl-data/sample_data/{name}"
            for name in ("grace_hopper.jpg", "logo2.png", "Minduka_Present_Blue_Pack.png")
        ),
        *(f"mpl-data/images/{name}_large.png" for name in ("back", "filesave", "help", "home", "matplotlib", "move")),
    ),
}


def shipped_pictures(folder: Path) -> Path:
    """Copy the safe pictures that installed packages ship to `<folder>/<package>/`, and return `folder`."""
    for package, names in SHIPPED.items():
        found = importlib.util.find_spec(package)
        for name in names if found is not None else ():
            source, target = Path(found.origin).parent / name, folder / package / Path(name).name
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    return folder


def shipped_photographs() -> list[Path]:
    """Safe photographs that installed packages ship: three, or fifteen where scikit-image is installed."""
    samples = Path(sklearn.__file__).parent / "datasets" / "images"
    found = [samples / "china.jpg", samples / "flower.jpg"]
    found.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    try:
        import skimage
    except ImportError:
        return found
    names = ("chelsea", "coffee", "astronaut", "camera", "coins", "brick", "grass", "gravel", "moon", "motorcycle_left")
    folder = Path(skimage.__file__).parent / "data"
    found += [folder / f"{name}.png" for name in names] + [folder / "rocket.jpg", folder / "hubble_deep_field.jpg"]
    return [path for path in found if path.exists()]
