"""What can be tried before one's own data is at hand? A stand-in data set whose label errors are known.

Five class folders of plainly abstract pictures, drawn from a seed with numpy and Pillow. Only the folder
names are those of the real task; the pairs that are confused there are confusable here:

    drawings   ink-outlined shapes on paper            <-> hentai, when screentone or a burst slips in
    hentai     the same shapes, screentone and bursts  <-> drawings, when neither is there
    neutral    fractal landscapes                      <-> sexy (ripples), drawings (posterised)
    porn       fine interference rings                 <-> sexy, where the wavelengths meet
    sexy       coarse interference rings

A drawn picture depends on (seed, class, index) alone: with the same numpy and Pillow its name and bytes are the same in
a data set of any size. Which pictures are misfiled or copied depends on the size as well.
"""

import hashlib
import io
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, cpu_count, delayed
from PIL import Image, ImageChops, ImageDraw
from tqdm.auto import tqdm

from nsfwlib.demo.pictures import Rng, draw_picture, vary
from nsfwlib.files import read_text_table

CLASSES = ("drawings", "hentai", "neutral", "porn", "sexy")
TRUTH_COLUMNS = (
    "path",  # relative to the data, POSIX
    "given_label",  # the folder
    "true_label",  # "" where there is no picture to label: broken files and placeholders
    "noise",  # why given and true differ: "random", "ambiguous" (hard to tell), "conflict" (copy, two labels)
    "group",  # near-duplicate series, exact copies included; "" for broken files
    "duplicate_of",  # path of the original of an exact copy
    "defect",  # "", or what is broken or odd about the file
    "ambiguity",  # 0 to 1, how near the picture lies to another class
)
# P(filed under | true class), shaped like the confusion matrix published for the 2019 model.
MISFILED = {
    "drawings": {"hentai": 0.055, "neutral": 0.015},
    "hentai": {"drawings": 0.065, "porn": 0.010},
    "neutral": {"sexy": 0.020, "drawings": 0.010},
    "porn": {"sexy": 0.090, "hentai": 0.010},
    "sexy": {"porn": 0.080, "neutral": 0.040},
}
# (true class, folder of the second copy)
CONFLICTS = (("porn", "sexy"), ("sexy", "porn"), ("drawings", "hentai"), ("neutral", "sexy"))
SERIES_RATE = 0.22  # of pictures that are a variation of an earlier one
MIN_IMAGES = 8  # below, not every kind of planted fault fits in
UNUSUAL = {  # good pictures that a careless reader trips over, and their formats
    "drawings/really_png.jpg": ("wrong_extension", "PNG"),
    "neutral/cmyk.jpg": ("cmyk", "JPEG"),
    "neutral/rotated.jpg": ("exif_orientation", "JPEG"),
    "drawings/alpha_only.png": ("alpha_only", "PNG"),
    "sexy/modern.webp": ("webp", "WEBP"),
    "hentai/loop.gif": ("animated", "GIF"),
}
PARALLEL_FROM = 200  # pictures; for fewer, starting processes takes longer than drawing
RECIPE = 1  # raise when the drawing changes: names follow, so old data is not taken for new
_WAY_OUT = "Nothing was drawn or changed: pass another out_dir, or move it away first."


def make_demo(out_dir: Path, *, images_per_class: int = 150, seed: int = 0, progress: bool = False) -> pd.DataFrame:
    """Draw the stand-in data set into `out_dir` and return its hidden truth, one row a file, sorted by path.

    The truth is also written to `truth_path(out_dir)`. The data set appears whole, or not at all; a folder that already
    is this very demo, every file there, is left as it is. No global random state is read or changed.

    Args:
        images_per_class: pictures drawn for each true class, at least 8. Copies and faulty files come on top.

    Raises:
        ValueError: fewer than 8 images a class.
        FileExistsError: `out_dir`, or the truth file beside it, is there and is something else, a demo with other
            parameters or with missing files included.
    """
    out_dir, seed = Path(out_dir).resolve(), int(seed)
    if images_per_class < MIN_IMAGES:
        raise ValueError(f"images_per_class must be at least {MIN_IMAGES}. Received: {images_per_class}.")
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        table = truth_path(out_dir)
        if table.exists() and _read_table(table) is None:
            raise FileExistsError(f"{table} is where the truth goes, but holds something else. {_WAY_OUT}")
        _write(out_dir, images_per_class, seed, progress)
    truth = read_truth(out_dir)
    if truth is None:
        raise FileExistsError(f"{out_dir} is there and is no complete demo data set. {_WAY_OUT}")
    drawn = truth.loc[truth["defect"].eq("") & truth["duplicate_of"].eq(""), "path"]
    expected = {_stem(seed, label, i) for label in CLASSES for i in range(images_per_class)}
    if {Path(path).stem for path in drawn} != expected:
        said = f"Expected in {out_dir} a demo of images_per_class={images_per_class}, seed={seed}. Found one of"
        found = f"{len(drawn) // len(CLASSES)} images a class, or of another seed or version"
        raise FileExistsError(f"{said} {found}. {_WAY_OUT}")
    return truth


def truth_path(out_dir: Path) -> Path:
    """Where the hidden truth of a demo lies: `<name>_truth.csv` beside the folder, never inside it."""
    out_dir = Path(out_dir).resolve()
    return out_dir.with_name(f"{out_dir.name}_truth.csv")


def read_truth(data_dir: Path) -> pd.DataFrame | None:
    """Return the truth of the demo in `data_dir` (`TRUTH_COLUMNS`); None if it is no demo, or files are gone since."""
    truth = _read_table(truth_path(data_dir))
    return truth if truth is not None and all((Path(data_dir) / path).is_file() for path in truth["path"]) else None


def planted_errors(truth: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of readable pictures whose given label is wrong, of copies under two labels the wrong one."""
    return truth[truth["true_label"].ne("") & truth["true_label"].ne(truth["given_label"])]


def simulated_answers(session: Any, truth: pd.DataFrame, *, budget: int) -> pd.DataFrame:
    """Play the perfect reviewer: decide the first `budget` pictures of a session, in the order shown.

    "keep" where the given label is right, "drop" where there is nothing to label, else the true class. Content that is
    filed under two labels always gets its class, since "keep" says nothing there.

    Args:
        session: a `review.ReviewSession`, or anything with `queue` (columns `path`, `given`) and `decide`.
        truth: as `make_demo` returns it; a ValueError if it does not know a picture of the queue.
        budget: pictures looked at, right ones included. A shorter queue is answered whole.

    Returns:
        One row a decision: path, given, decision, was_error (the picture is one of the planted errors).
    """
    if budget < 0:
        raise ValueError(f"budget must be a number of pictures, 0 or more. Received: {budget}.")
    shown = session.queue[["path", "given"]].head(budget).reset_index(drop=True)  # a copy: it may shrink
    if len(unknown := shown.loc[~shown["path"].isin(truth["path"]), "path"]):
        named = f"{len(unknown)} that its truth does not list (first: {unknown.iloc[0]})"
        raise ValueError(f"Expected a queue of this demo's pictures. Received {named}. Pass the truth of these data.")
    true_label = shown["path"].map(truth.set_index("path")["true_label"])
    content = truth["duplicate_of"].mask(truth["duplicate_of"].eq(""), truth["path"])
    contested = truth.loc[truth.groupby(content)["given_label"].transform("nunique").gt(1), "path"]
    keep = shown["given"].eq(true_label) & ~shown["path"].isin(contested)
    decision = true_label.mask(keep, "keep").mask(true_label.eq(""), "drop")
    for path, choice in zip(shown["path"], decision, strict=True):
        session.decide(path, choice)
    return shown.assign(decision=decision, was_error=shown["path"].isin(planted_errors(truth)["path"]))


def _write(out_dir: Path, images_per_class: int, seed: int, progress: bool) -> None:
    """Draw everything in a temporary sibling, then put the truth and the data in place."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out_dir.name}-", dir=out_dir.parent) as scratch:
        draft, table = Path(scratch) / out_dir.name, Path(scratch) / "truth.csv"
        for label in CLASSES:
            (draft / label).mkdir(parents=True)
        pictures = list(product(CLASSES, range(images_per_class)))
        bar = tqdm(pictures, disable=not progress, desc="drawing", unit="image")
        # joblib's workers neither fork TensorFlow's threads nor import the caller's script again.
        workers = Parallel(min(cpu_count(), 8) if len(pictures) >= PARALLEL_FROM else 1, idle_worker_timeout=10)
        truth = pd.DataFrame(workers(delayed(_draw_file)(draft, seed, label, index) for label, index in bar))
        truth = _misfile(draft, truth, _rng(seed, "misfile", images_per_class))
        copies = _add_copies(draft, truth, _rng(seed, "copies", images_per_class), images_per_class)
        truth = pd.concat([truth, pd.DataFrame([*copies, *_add_faulty(draft, seed)])])
        truth.sort_values("path").to_csv(table, columns=list(TRUTH_COLUMNS), index=False)
        # The truth first: a folder without it would be taken for somebody's own data.
        table.replace(truth_path(out_dir))
        if out_dir.is_dir():
            out_dir.rmdir()
        draft.replace(out_dir)


def _draw_file(draft: Path, seed: int, label: str, index: int) -> dict[str, Any]:
    """Draw and save picture `index` of a class; return its row of the truth."""
    root, rng = _series_root(seed, label, index), _rng(seed, "file", label, index)
    image, ambiguity = draw_picture(_rng(seed, "picture", label, root), label)
    if root != index:
        image = vary(rng, image)
    is_png = rng.random() < (0.22 if label in ("drawings", "hentai") else 0.06)
    path = f"{label}/{_stem(seed, label, index)}.{'png' if is_png else 'jpg'}"
    image.save(draft / path, quality=int(rng.integers(62, 96)), progressive=bool(rng.random() < 0.2))
    return _row(path, label, group=f"{label}-{root}", ambiguity=ambiguity)


def _misfile(draft: Path, truth: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Move some pictures of each class into wrong folders: half of them among the hardest to tell."""
    truth, planted, planted_hard = truth.copy(), 0, 0
    for label, targets in MISFILED.items():
        total = truth["true_label"].eq(label).sum()
        for target, rate in targets.items():
            count = round(rate * total)
            planted += count
            free = truth[truth["true_label"].eq(label) & truth["noise"].eq("")]
            hardest = free[free["ambiguity"].gt(0)].nlargest(total // 3, "ambiguity").index
            # Half of all so far: a pair with too few hard pictures is made up for by the next.
            hard = min((planted + 1) // 2 - planted_hard, count, len(hardest))
            planted_hard += hard
            chosen = rng.choice(hardest, hard, replace=False)
            others = rng.choice(free.index.difference(chosen), count - hard, replace=False)
            truth.loc[chosen, ["given_label", "noise"]] = target, "ambiguous"
            truth.loc[others, ["given_label", "noise"]] = target, "random"
    paths = truth["given_label"] + "/" + truth["path"].str.partition("/")[2]
    for old, new in zip(truth["path"], paths, strict=True):
        (draft / old).replace(draft / new)
    return truth.assign(path=paths)


def _add_copies(draft: Path, truth: pd.DataFrame, rng: Rng, images_per_class: int) -> Iterator[dict[str, Any]]:
    """Copy one rightly filed picture of each class within it, and a few into the folder of another class."""
    conflicts = CONFLICTS[: max(1, images_per_class // 30)]
    originals = truth[truth["noise"].eq("")].sample(frac=1, random_state=rng)
    for label, target in [*zip(CLASSES, CLASSES, strict=True), *conflicts]:
        original = originals[originals["true_label"].eq(label)].iloc[0]
        originals = originals.drop(index=original.name)
        path = f"{target}/img_{rng.integers(16**10):010x}{Path(original['path']).suffix}"
        (draft / path).write_bytes((draft / original["path"]).read_bytes())
        noise = "" if label == target else "conflict"
        yield _row(path, label, noise=noise, duplicate_of=original["path"], **original[["group", "ambiguity"]])


def _add_faulty(draft: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Add files that cannot be read, placeholders, and good pictures in unusual clothes."""
    half, tail = (_encode(draw_picture(_rng(seed, "truncated"), label)[0], "JPEG") for label in ("neutral", "sexy"))
    unreadable = (
        ("neutral/half.jpg", "truncated", half[: len(half) // 2]),
        ("sexy/tail.jpg", "truncated", tail[:-60]),
        ("porn/empty.jpg", "zero_byte", b""),
        ("hentai/page.jpg", "html", b"<!DOCTYPE html><title>404</title>gone"),
        ("porn/pixel.png", "tiny", _encode(Image.new("RGB", (1, 1)), "PNG")),
        ("neutral/Thumbs.db", "not_an_image", b"\xd0\xcf\x11\xe0" + bytes(200)),
    )
    for path, defect, content in unreadable:
        (draft / path).write_bytes(content)
        yield _row(path, "", defect=defect)

    gone = Image.new("RGB", (161, 81), (40, 40, 40))  # the crossed-out tile that photo hosts send
    for line in ([(50, 20), (110, 60)], [(110, 20), (50, 60)]):
        ImageDraw.Draw(gone).line(line, fill=(200, 200, 200), width=4)
    paths = [f"{label}/removed_{label}.png" for label in CLASSES]
    for path in paths:
        gone.save(draft / path, "PNG")
        yield _row(path, "", group="removed", defect="placeholder", duplicate_of="" if path == paths[0] else paths[0])

    for path, (defect, form) in UNUSUAL.items():
        label, options = path.split("/")[0], {}
        image, ambiguity = draw_picture(_rng(seed, defect), label)
        if defect == "cmyk":
            image = image.convert("CMYK")
        elif defect == "exif_orientation":
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = 6  # Orientation: turn clockwise to show
            image = image.transpose(Image.Transpose.ROTATE_90)
        elif defect == "alpha_only":  # black all over, the drawing is in the alpha channel
            black = Image.new("L", image.size)
            image = Image.merge("RGBA", (black, black, black, ImageChops.invert(image.convert("L"))))
        elif defect == "animated":
            options = {"save_all": True, "append_images": [image.rotate(10), image.rotate(20)]}
        image.save(draft / path, form, **options)
        yield _row(path, label, group=defect, defect=defect, ambiguity=ambiguity)


def _encode(image: Image.Image, form: str) -> bytes:
    image.save(buffer := io.BytesIO(), form)
    return buffer.getvalue()


def _row(path: str, true_label: str, **values: Any) -> dict[str, Any]:
    blank = dict.fromkeys(TRUTH_COLUMNS, "") | {"ambiguity": 0.0}
    return blank | {"path": path, "given_label": path.split("/")[0], "true_label": true_label} | values


def _read_table(path: Path) -> pd.DataFrame | None:
    """Read a truth table; None where there is none or the file is something else."""
    try:
        table = read_text_table(path)
        return table.astype({"ambiguity": float}) if tuple(table) == TRUTH_COLUMNS else None
    except (OSError, ValueError):
        return None


def _digest(*key: str | int) -> int:
    return int.from_bytes(hashlib.sha256(repr((RECIPE, *key)).encode()).digest())


def _rng(*key: str | int) -> Rng:
    return np.random.default_rng(_digest(*key))


def _stem(seed: int, label: str, index: int) -> str:
    """The file name of a picture: it says nothing of its class, and differs for other parameters."""
    return f"img_{_digest('name', seed, label, index) % 16**10:010x}"


def _series_root(seed: int, label: str, index: int) -> int:
    """Return the picture that `index` is a variation of: itself for most, never for 5, so there is a series."""
    rng = _rng(seed, "series", label, index)
    if index == 5 or (index > 5 and rng.random() < SERIES_RATE):
        return _series_root(seed, label, int(rng.integers(index)))
    return index
