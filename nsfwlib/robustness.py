"""Does the answer survive what happens to pictures on their way: compression, resizing, blur, mirroring, cropping?"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter, ImageOps

from nsfwlib.confusions import class_codes
from nsfwlib.intervals import effective_count, group_codes, group_correlation, jeffreys

Level = int | str
CHANGES: dict[str, tuple[Level, ...]] = {
    "JPEG quality": (90, 70, 50, 30, 10),
    "blur (px)": (1, 2, 4),
    "resize method": ("nearest", "bicubic", "lanczos"),
    "crop (% a side)": (2, 5, 10),
    "greyscale": ("yes",),
    "mirror": ("yes",),
}


def changed(picture: np.ndarray, change: str, level: Level, *, size: int) -> np.ndarray:
    """The picture after one change, at the model's input size: uint8 (size, size, 3).

    Blur is in pixels of the input; everything else happens to the picture as it is.

    Args:
        picture: uint8 (H, W, 3).
        change: a key of CHANGES, or "none".
        level: one of its levels.
        size: side of the model's input.

    Raises:
        ValueError: there is no such change.
    """
    image = Image.fromarray(picture)
    if change == "JPEG quality":
        image.save(buffer := io.BytesIO(), "JPEG", quality=int(level))
        image = Image.open(buffer)
    elif change == "resize method":
        return np.asarray(image.resize((size, size), Image.Resampling[str(level).upper()]))
    elif change == "crop (% a side)":
        x, y = image.width * int(level) / 100, image.height * int(level) / 100
        image = image.crop((round(x), round(y), round(image.width - x), round(image.height - y)))
    elif change == "greyscale":
        image = image.convert("L").convert("RGB")
    elif change == "mirror":
        image = ImageOps.mirror(image)
    elif change not in ("blur (px)", "none"):
        raise ValueError(f"Expected a change among {['none', *CHANGES]}. Received: {change!r}.")
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(int(level))) if change == "blur (px)" else image)


def robustness(
    pictures: Sequence[np.ndarray],
    labels: Sequence[str],
    predict: Callable[[np.ndarray], np.ndarray],
    *,
    class_names: Sequence[str],
    size: int,
    changes: Mapping[str, Sequence[Level]] = CHANGES,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy under each change; every row costs one prediction of all the pictures, so pass a sample.

    Args:
        pictures: uint8 (H, W, 3), of any size.
        labels: (N,) class of each.
        predict: uint8 (N, size, size, 3) in, probabilities (N, K) out.
        class_names: (K,) of the columns.
        size: side of the model's input.
        changes: levels by change.
        groups: (N,) near-duplicate group of each picture.
        level: of the intervals.

    Returns:
        One row a change and level, the untouched pictures ("none") first: `change`, `level`, `value` (accuracy), `low`,
        `high`, `same` (share of pictures whose predicted class stays), `images`.
    """
    codes = class_codes(labels, class_names)
    if len(pictures) != len(codes) or not len(codes):
        raise ValueError(
            f"Expected a label a picture, at least one. Received: {len(pictures)} and {len(codes)} labels."
        )
    members, untouched, rows = group_codes(groups, len(codes)), None, []
    for change, step in [("none", ""), *((name, step) for name, steps in changes.items() for step in steps)]:
        pixels = np.stack([changed(picture, change, step, size=size) for picture in pictures])
        top = np.asarray(predict(pixels)).argmax(axis=1)
        untouched = top if untouched is None else untouched
        right = top == codes
        worth = effective_count(members, len(codes), correlation=group_correlation(right, members))
        low, high = jeffreys(right.mean() * worth, worth, level=level)
        rows.append((change, step, right.mean(), float(low), float(high), (top == untouched).mean(), len(codes)))
    return pd.DataFrame(rows, columns=["change", "level", "value", "low", "high", "same", "images"])
