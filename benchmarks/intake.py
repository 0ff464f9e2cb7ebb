"""Intake: rates, memory and recall, beside peers on the same files. Prints tables, asserts nothing.

python benchmarks/intake.py [scan] [memory] [grouping] [recall] [features]
    [--images 1000] [--files 1000 10000] [--hashes 1e4 1e5]
python benchmarks/intake.py corpus --corpus folder    (any folder of test images, for example Pillow's Tests/images)
"""

import argparse
import base64
import collections
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps


def photographs() -> list[Image.Image]:
    """The photographs that scikit-learn, scikit-image and matplotlib ship."""
    import matplotlib
    import skimage
    import sklearn.datasets

    names = "coffee.png camera.png astronaut.png gravel.png brick.png grass.png motorcycle_left.png retina.jpg ihc.png"
    names += " hubble_deep_field.jpg moon.png rocket.jpg chelsea.png coins.png cell.png"
    paths = [Path(skimage.__file__).parent / "data" / name for name in names.split()]
    paths += [Path(sklearn.datasets.__file__).parent / "images" / name for name in ("china.jpg", "flower.jpg")]
    paths.append(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    return [Image.open(path).convert("RGB") for path in paths]


def pieces(side: int = 160) -> list[Image.Image]:
    """Pieces of them that do not overlap, less those that are nearly blank: our different pictures."""
    found = []
    for whole in photographs():
        for top in range(0, whole.height - side + 1, side):
            for left in range(0, whole.width - side + 1, side):
                piece = whole.crop((left, top, left + side, top + side))
                if np.asarray(piece.convert("L")).std() > 12:
                    found.append(piece)
    return found


def write_folder(folder: Path, n: int, *, side: int, seed: int = 0) -> None:
    """n pictures in five classes: four of five JPEG, the fifth PNG or WebP, each a zoomed piece of a photograph."""
    generator = np.random.default_rng(seed)
    wholes = photographs()
    for i in range(n):
        whole = wholes[generator.integers(len(wholes))]
        width = int(generator.integers(min(whole.size) // 3, min(whole.size)))
        left, top = (int(generator.integers(0, extent - width + 1)) for extent in whole.size)
        piece = whole.crop((left, top, left + width, top + width)).resize(
            (side, int(side * generator.uniform(0.6, 1.4)))
        )
        kind, suffix = FORMS[i % len(FORMS)]
        path = folder / f"class{i % 5}" / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.save(path, kind, quality=85)


FORMS = [("JPEG", "jpg")] * 8 + [("PNG", "png"), ("WEBP", "webp")]


def pillow_loop(folder: Path, _: Path) -> int:
    """The plain loop that a careful person writes: every file decoded in full, one after another."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return len(paths)


def ours(folder: Path, cache: Path, workers: int | None = None) -> int:
    """The scan: decode, checksums, hashes and measures of every file."""
    from nsfwlib import data

    return len(data.scan(folder, cache_dir=cache, progress=False, workers=workers))


def ours_on_one(folder: Path, cache: Path) -> int:
    """The same with one worker."""
    return ours(folder, cache / "one", workers=1)


def cleanvision_checks(folder: Path, _: Path) -> int:
    """cleanvision's Imagelab with its default checks, on all cores."""
    from cleanvision import Imagelab

    lab = Imagelab(data_path=str(folder))
    lab.find_issues(verbose=False)
    return len(lab.issues)


def keras_directory(folder: Path, _: Path) -> int:
    """Keras' image_dataset_from_directory, read through once at 299 × 299; it does not list WebP."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    content = keras.utils.image_dataset_from_directory(folder, image_size=(299, 299), shuffle=False, verbose=False)
    return sum(len(labels) for _, labels in content)


CONTENDERS = {
    "Pillow loop, one core": pillow_loop,
    "nsfwlib scan, one worker": ours_on_one,
    "nsfwlib scan": ours,
    "nsfwlib scan again": ours,
    "cleanvision": cleanvision_checks,
    "Keras directory": keras_directory,
}


def scan_rates(n: int) -> pd.DataFrame:
    """Each contender in a process of its own, start and imports excluded from none: what a user waits for."""
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "data", Path(name) / "cache"
        write_folder(folder, n, side=512)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        rows = []
        for title in CONTENDERS:
            found = measured("contender", title, folder, cache)
            seconds = found["seconds"]
            rows.append(
                {
                    "": title,
                    "images": found["result"],
                    "seconds": seconds,
                    "images/s": found["result"] / seconds,
                    "MB/s": size / seconds,
                    "CPU s": found["cpu"],
                    "peak MB": found["peak_mb"],
                }
            )
    return pd.DataFrame(rows).set_index("")


def memory(sizes: list[int]) -> pd.DataFrame:
    """Peak memory of the scan's own process by number of files: hard links to 200 small pictures."""
    rows = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder, cache = Path(name) / "data", Path(name) / "cache"
            write_folder(Path(name) / "originals", 200, side=96)
            originals = sorted(path for path in (Path(name) / "originals").rglob("*") if path.is_file())
            for i in range(n):
                target = folder / f"class{i % 5}" / f"{i // 5000}" / f"{i}{originals[i % 200].suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(originals[i % 200], target)
            for title in ("nsfwlib scan", "nsfwlib scan again"):
                found = measured("contender", title, folder, cache)
                rows.append({"files": n, "": title, "seconds": found["seconds"], "peak MB": found["peak_mb"]})
    return pd.DataFrame(rows).set_index(["files", ""])


def grouping(sizes: list[int]) -> pd.DataFrame:
    """Time and memory of candidate search and grouping by hash; one hash in ten is a planted near-copy."""
    return pd.DataFrame([{"hashes": n, **measured("grouping", str(n))["result"]} for n in sizes]).set_index("hashes")


def group_hashes(n: int) -> dict:
    from nsfwlib import data

    generator = np.random.default_rng(0)
    # Correlated bits, as hashes of photographs have: a common factor on the lower frequencies.
    factor = 0.4 * generator.normal(size=(n, 1)) * np.linspace(1, 0, 64)
    hashes = np.packbits(generator.normal(size=(n, 64)) + factor > 0, axis=1).view(np.uint64).ravel()
    mirrored = np.packbits(generator.normal(size=(n, 64)) + factor > 0, axis=1).view(np.uint64).ravel()
    copies = n // 10
    hashes[-copies:] = hashes[:copies] ^ (np.uint64(1) << generator.integers(0, 64, copies).astype(np.uint64))
    distance = data.affordable_distance(np.unique(hashes), data.MAX_DISTANCE)
    began = time.perf_counter()
    left, _ = data.near_pairs(hashes, hashes, max_distance=distance)
    across, _ = data.near_pairs(hashes, mirrored, max_distance=distance)
    search = time.perf_counter() - began
    began = time.perf_counter()
    groups = data.group_near_duplicates(hashes, mirrored=mirrored, max_distance=data.MAX_DISTANCE)
    alone = time.perf_counter() - began
    found = float((groups[-copies:] == groups[:copies]).mean())
    return {
        "candidate distance": distance,
        "candidates": len(left) + len(across),
        "search s": search,
        "by hash alone s": alone,
        "safe distance": data.safe_distance(np.unique(hashes), tries=2),
        "copies found": found,
        "groups": int(groups.max() + 1),
    }


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def edit(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return edit


def crop(share: float) -> Callable[[Image.Image], Image.Image]:
    def edit(picture: Image.Image) -> Image.Image:
        dx, dy = picture.width * share / 2, picture.height * share / 2
        return picture.crop((round(dx), round(dy), round(picture.width - dx), round(picture.height - dy)))

    return edit


def caption(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    height = picture.height
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((0, int(height * 0.85), picture.width, height), fill="white")
    drawing.text((5, int(height * 0.88)), "when you see it", fill="black")
    return picture


EDITS = {
    "JPEG 60": jpeg(60),
    "resize to half": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "brightness × 1.3": lambda picture: ImageEnhance.Brightness(picture).enhance(1.3),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "blur": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "mirror": ImageOps.mirror,
    "crop 5 %": crop(0.05),
    "crop 15 %": crop(0.15),
    "caption": caption,
    "rotate 3°": lambda picture: picture.rotate(3),
}


def recall() -> pd.DataFrame:
    """Share of edited copies found, and pairs of different pictures joined, by rule."""
    from nsfwlib import data

    originals = pieces()
    n = len(originals)
    plain = [data.measure(picture) for picture in originals]
    rows = []
    for edit, change in EDITS.items():
        rows_of = plain + [data.measure(change(picture)) for picture in originals]
        hashes, mirrors = (np.array([row[key] for row in rows_of], np.uint64) for key in ("phash", "phash_mirror"))
        thumbs = np.stack([np.frombuffer(row["thumb"], np.uint8).reshape(32, 32) for row in rows_of])
        row = {"edit": edit, "copies": n}
        for title, distance in (("hash ≤ 4", 4), ("hash ≤ 10", 10)):
            near = np.minimum(np.bitwise_count(hashes[:n] ^ hashes[n:]), np.bitwise_count(mirrors[:n] ^ hashes[n:]))
            row[title] = (near <= distance).mean()
        groups = data.group_near_duplicates(
            hashes, mirrored=mirrors, max_distance=data.MAX_DISTANCE, thumbs=lambda chosen, t=thumbs: t[chosen]
        )
        row["ours"] = (groups[:n] == groups[n:]).mean()
        row["false pairs, ours"] = sum(len(g) * (len(g) - 1) // 2 for _, g in pd.Series(groups[:n]).groupby(groups[:n]))
        apart = np.triu_indices(n, 1)
        row["false pairs, hash ≤ 10"] = int((np.bitwise_count(hashes[apart[0]] ^ hashes[apart[1]]) <= 10).sum())
        rows.append(row)
    return pd.DataFrame(rows).set_index("edit")


def feature_recall(n: int = 70, blocks: tuple[str, ...] = ("mixed4", "mixed6", "mixed10")) -> pd.DataFrame:
    """What features of the published network propose and thumbnails confirm, for the edits that hashes miss."""
    from nsfwlib import data, model

    originals = pieces()
    originals = [originals[i] for i in np.random.default_rng(0).permutation(len(originals))[:n]]
    edits = [name for name in EDITS if name.startswith(("crop", "caption", "rotate"))]
    pictures = originals + [EDITS[name](picture) for name in edits for picture in originals]
    thumbs = np.stack([np.frombuffer(data.measure(p)["thumb"], np.uint8).reshape(32, 32) for p in pictures])
    pixels = np.stack([np.asarray(p.resize((299, 299), Image.Resampling.BILINEAR)) for p in pictures])
    backbone = model.feature_model(model.published_model(), list(blocks))
    rows = []
    for block, features in zip(blocks, backbone.predict(pixels, batch_size=16, verbose=0), strict=True):
        left, right = data.feature_pairs(features, min_cosine=0.95)
        alike = data.pair_likeness(left, right, lambda chosen: thumbs[chosen], left < 0) >= data.MIN_DETAIL
        for proposal, keep in (("proposed", np.ones(len(left), bool)), ("confirmed", alike)):
            pairs = set(zip(left[keep].tolist(), right[keep].tolist(), strict=True))
            row = {"block": block, "pairs": proposal}
            for k, name in enumerate(edits, start=1):
                row[name] = np.mean([(i, k * n + i) in pairs for i in range(n)])
            row["false pairs"] = sum(i % n != j % n for i, j in pairs)
            rows.append(row)
    return pd.DataFrame(rows).set_index(["block", "pairs"])


SHOW = """async encoded => {
  const bytes = Uint8Array.from(atob(encoded), character => character.charCodeAt(0));
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([bytes]));
  try { await image.decode(); } catch { return ""; }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}"""


def shown_by_chromium(paths: list[Path]) -> Iterator[np.ndarray | None]:
    """What Chromium paints of each file on white; None where it paints nothing."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in paths:
            page = browser.new_page()
            try:
                painted = page.evaluate(SHOW, base64.b64encode(path.read_bytes()).decode())
            except Error:  # too large for its canvas
                painted = ""
            page.close()
            yield np.asarray(Image.open(io.BytesIO(base64.b64decode(painted))).convert("RGB")) if painted else None


def against_chromium(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is refused and why, and where the picture differs from the one that Chromium shows."""
    from nsfwlib import data

    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 20_000_000)
    rows = pd.DataFrame([row for _, row in sorted(data.inspect_files(list(map(str, paths)), {"min_side": 1}))])
    rows["path"] = [path.relative_to(folder).as_posix() for path in paths]
    rows["kind"] = [data.sniff(path.read_bytes())[0] if path.stat().st_size else "empty" for path in paths]
    images = rows[rows["kind"].ne("not an image") & rows["kind"].ne("empty")].copy()
    compared = collections.Counter()
    for i, theirs in zip(images.index, shown_by_chromium([paths[i] for i in images.index]), strict=True):
        images.loc[i, "Chromium"] = "shows" if theirs is not None else "refuses"
        if theirs is None or images.loc[i, "problem"]:
            continue
        ours = data.load_image(paths[i])
        compared[images.loc[i, "kind"]] += 1
        same_size = ours.shape == theirs.shape
        images.loc[i, "difference"] = np.abs(ours.astype(int) - theirs).mean() if same_size else np.inf
    images["reason"] = images["problem"].where(images["problem"].ne(""), "read")
    yield "Files by format and what became of them", pd.crosstab(images["kind"], [images["reason"], images["Chromium"]])
    refused = images[images["problem"].ne("")]
    columns = ["kind", "reason", "detail", "Chromium", "path"]
    yield "Refused", refused.sort_values(["Chromium", "kind", "reason"])[columns].set_index("kind")
    far = images[images["difference"].gt(4)].sort_values("difference", ascending=False)
    title = f"Mean difference above 4 grey levels, of {sum(compared.values())} that both show"
    yield title, far[["kind", "difference", "oddities", "path"]].set_index("kind")


def measured(*job: object) -> dict:
    """Run a job of `work` in a process of its own → its result, seconds and peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, "--work", *map(str, job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def work(job: list[str]) -> dict:
    began = time.perf_counter()
    hashes = job[0] == "grouping"
    result = group_hashes(int(job[1])) if hashes else CONTENDERS[job[1]](Path(job[2]), Path(job[3]))
    seconds = time.perf_counter() - began
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    busy = sum(part.ru_utime + part.ru_stime for part in usage)
    peak = peak_memory()
    if hashes:
        result["peak MB"] = peak
    return {"result": result, "seconds": seconds, "cpu": busy, "peak_mb": peak}


def peak_memory() -> float:
    """Of this process in MB; Linux' ru_maxrss would count what its parent held when it started this one."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def tables(options: argparse.Namespace) -> Iterator[tuple[str, pd.DataFrame]]:
    chosen = options.parts or ["scan", "memory", "grouping", "recall", "features"]
    if "scan" in chosen:
        yield f"Reading {options.images} pictures of 512 pixels", scan_rates(options.images)
    if "memory" in chosen:
        yield "Peak memory of the scan", memory(options.files)
    if "grouping" in chosen:
        yield "Grouping", grouping([int(n) for n in options.hashes])
    if "recall" in chosen:
        yield "Near-duplicates found, by edit", recall()
    if "features" in chosen:
        yield "What bottleneck features add, by edit", feature_recall()
    if "corpus" in chosen:
        yield from against_chromium(options.corpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["scan", "memory", "grouping", "recall", "features", "corpus", []])
    parser.add_argument("--corpus", type=Path, default=Path("tests"), help="a folder of test images")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--hashes", type=float, nargs="+", default=[1e4, 1e5])
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(options.work)))
        return
    for title, table in tables(options):
        print(f"\n{title}\n{table.to_string(float_format=lambda value: f'{value:.3g}')}", flush=True)


if __name__ == "__main__":
    main()
