"""Which safe photographs and drawings do installed packages ship?"""

import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

PHOTOGRAPHS = {  # folder → names
    "sklearn/datasets/images": "china.jpg flower.jpg",
    "matplotlib/mpl-data/sample_data": "grace_hopper.jpg",
    "skimage/data": "chelsea.png coffee.png astronaut.png camera.png coins.png brick.png grass.png gravel.png moon.png "
    "motorcycle_left.png rocket.jpg hubble_deep_field.jpg",
}
OTHERS = {
    "skimage/data": "clock_motion.png horse.png logo.png text.png no_time_for_that_tiny.gif",
    "matplotlib/mpl-data/sample_data": "logo2.png Minduka_Present_Blue_Pack.png",
    "matplotlib/mpl-data/images": "back_large.png filesave_large.png help_large.png home_large.png "
    "matplotlib_large.png move_large.png",
}


def shipped_pictures(folder: Path) -> Path:
    """Copy the safe pictures that installed packages ship to `<folder>/<package>/`, and return `folder`."""
    for package, source in _installed([*PHOTOGRAPHS.items(), *OTHERS.items()]):
        target = folder / package / source.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return folder


def shipped_photographs() -> list[Path]:
    """Safe photographs that installed packages ship: three, or fifteen where scikit-image is installed."""
    return [source for _, source in _installed(PHOTOGRAPHS.items())]


def _installed(lists: Iterable[tuple[str, str]]) -> Iterable[tuple[str, Path]]:
    for folder, names in lists:
        package, _, inside = folder.partition("/")
        spec = importlib.util.find_spec(package)
        sources = [Path(spec.origin).parent / inside / name for name in names.split()] if spec else []
        yield from ((package, source) for source in sources if source.exists())
