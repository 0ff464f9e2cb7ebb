"""Which safe photographs and drawings do installed packages ship?"""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

PHOTOGRAPHS = (
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    *(f"skimage/data/{name}.png" for name in ("chelsea", "coffee", "astronaut", "camera", "coins", "brick", "grass")),
    *(f"skimage/data/{name}.png" for name in ("gravel", "moon", "motorcycle_left")),
    *(f"skimage/data/{name}.jpg" for name in ("rocket", "hubble_deep_field")),
)
OTHERS = (
    *(f"skimage/data/{name}.png" for name in ("clock_motion", "horse", "logo", "text")),
    "skimage/data/no_time_for_that_tiny.gif",
    *(f"matplotlib/mpl-data/sample_data/{name}.png" for name in ("logo2", "Minduka_Present_Blue_Pack")),
    *(
        f"matplotlib/mpl-data/images/{name}_large.png"
        for name in ("back", "filesave", "help", "home", "matplotlib", "move")
    ),
)


def shipped_pictures(folder: Path) -> Path:
    """Copy the safe pictures that installed packages ship to `<folder>/<package>/`, and return `folder`."""
    for package, source in _installed((*PHOTOGRAPHS, *OTHERS)):
        target = folder / package / source.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return folder


def shipped_photographs() -> list[Path]:
    """Safe photographs that installed packages ship: three, or fifteen where scikit-image is installed."""
    return [source for _, source in _installed(PHOTOGRAPHS)]


def _installed(names: Iterable[str]) -> Iterable[tuple[str, Path]]:
    for name in names:
        package, _, inside = name.partition("/")
        spec = importlib.util.find_spec(package)
        source = Path(spec.origin).parent / inside if spec else None
        if source and source.exists():
            yield package, source
