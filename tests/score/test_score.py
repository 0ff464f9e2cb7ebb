import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from nsfwlib.data import frames as data_frames, images, load_frames
from nsfwlib.model import Ready, forward, runtime, stream
from nsfwlib.model.classifier import save_model
from nsfwlib.model.forward import forward_pass, model_identity
from nsfwlib.model.stream import Files, load_picture, stream_answers
from nsfwlib.score import __main__, run, source
from nsfwlib.score.source import open_source
from nsfwlib.score.store import _WRITERS, FIXED, FORMATS, Store, read_scores, work_file

NAMES, SIZE = ["cat", "dog", "owl"], 32


@pytest.fixture(scope="module")
def classifier():
    return tiny.lively_classifier(NAMES, size=SIZE)


@pytest.fixture(scope="module")
def model_file(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    save_model(classifier, path)
    return path


@pytest.fixture(autouse=True)
def forwarded(monkeypatch):
    """Numbers of pictures in each forward pass; the function itself is made once a model."""
    counts, made = [], {}
    real = forward_pass

    def counting(model, outputs=None, **options):
        forward = made.setdefault(id(model), real(model, outputs)) if id(model) not in made else made[id(model)]
        return lambda pixels: (counts.append(len(pixels)) if pixels.any() else None) or forward(pixels)

    monkeypatch.setattr(forward, "forward_pass", counting)
    return counts


def draw(path, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, 3) + rng.normal(0, 20, (40, 50, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, a copy, a web page, a cut JPEG, and what an operating system leaves behind."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for i in range(12):
        draw(folder / ("below" if i % 2 else ".") / f"{i:02}.png", i)
    (folder / "copy.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "page.jpg").write_bytes(b"<html>404</html>")
    (folder / "cut.png").write_bytes((folder / "02.png").read_bytes()[:700])
    (folder / "Thumbs.db").write_bytes(b"x")
    return folder


def score(classifier, source, out, **options):
    return run.score(classifier, source, out=out, progress=False, **{"batch_size": 4, **options})


def expected(classifier, paths):
    pixels = np.stack([images.load_image(path, size=SIZE) for path in paths])
    return classifier.predict(pixels, verbose=0)


# ------------------------------------------------------------------------------------------------ the table
def test_every_file_is_one_row_with_the_models_probabilities(classifier, folder, tmp_path):
    table = score(classifier, folder, tmp_path / "scores.parquet").set_index("path")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    good = table[table["problem"].eq("")]
    assert good[NAMES].to_numpy().std(axis=0).min() > 0.02, "the pictures differ in what they are taken for"
    assert set(table.index) == files and table.index.is_unique and len(good) == 13
    found = good[NAMES].to_numpy()
    assert np.allclose(found, expected(classifier, [folder / path for path in good.index]), atol=1e-5)
    assert good["predicted"].tolist() == [NAMES[i] for i in found.argmax(axis=1)]
    assert good["sha256"].tolist() == [hashlib.sha256((folder / p).read_bytes()).hexdigest() for p in good.index]
    assert good["frames"].eq(1).all() and np.array_equal(found, good[[f"{name}_max" for name in NAMES]].to_numpy())


def test_broken_files_are_rows_with_a_reason_and_no_probability(classifier, folder, tmp_path):
    table = score(classifier, folder, tmp_path / "scores.parquet").set_index("path")
    assert table.loc[["page.jpg", "cut.png", "Thumbs.db"], "problem"].tolist() == [
        "not an image", "truncated", "skipped: hidden or litter",
    ]  # fmt: skip
    bad = table[table["problem"].ne("")]
    assert bad[NAMES].isna().all(axis=None) and bad["predicted"].eq("").all()
    assert bad.loc["cut.png", "sha256"] == hashlib.sha256((folder / "cut.png").read_bytes()).hexdigest()


def test_unsupported_is_not_damaged_and_what_browsers_show_is_scored(classifier, folder, tmp_path):
    draw(folder / "a.tif", 1)
    picture, text = Image.open(folder / "a.tif"), PngInfo()
    picture.save(folder / "raw.tif", tiffinfo={50706: b"\1\4\0\0"})  # what tells a camera's raw file
    text.add_text("prompt", "x" * (2 << 20))
    picture.save(folder / "text.png", pnginfo=text)
    picture.save(folder / "whole.jpg")
    (folder / "no_end.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-2])
    data = bytearray((folder / "00.png").read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "rotten.png").write_bytes(data)
    named = ["raw.tif", "text.png", "no_end.jpg", "rotten.png"]
    table = score(classifier, [folder / name for name in named], tmp_path / "scores.parquet")
    assert table["problem"].tolist() == ["unsupported format", "", "", "damaged"]
    assert table.loc[[0, 3], NAMES].isna().all(axis=None) and table.loc[[1, 2], NAMES].notna().all(axis=None)
    assert run.summary(table).endswith(". Fetch the 1 truncated or damaged again if they matter.")
    assert "Fetch" not in run.summary(table[:3]) and "1 unsupported format" in run.summary(table[:3])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_csv_and_json_lines_hold_the_same_numbers(classifier, folder, tmp_path, suffix):
    first = score(classifier, folder, tmp_path / "scores.parquet")
    again = score(classifier, folder, tmp_path / f"scores{suffix}")
    pd.testing.assert_frame_equal(first, again, check_dtype=False)
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "scores.parquet", f"scores{suffix}"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_names_that_spreadsheets_would_run_are_safe_in_a_csv_and_read_back_as_they_were(
    folder, tmp_path, forwarded, suffix
):
    names = ["=cmd|' /C calc'!A0.png", "@a.png", "+a.png", "-a.png", "'=a.png"]
    for name in names:
        (folder / name.replace("/", "_")).write_bytes((folder / "00.png").read_bytes())
    classes, out = ["=cat", "date", "-"], tmp_path / f"scores{suffix}"
    model, source = foreign(), [folder / name.replace("/", "_") for name in names]
    listed = pd.DataFrame({"path": [path.name for path in source], "problem": ["", "", "", "", "=1+1"]})
    table = score(model, listed, out, data_dir=folder, class_names=classes)
    assert table["path"].tolist() == listed["path"].tolist() and table["problem"].tolist()[-1] == "=1+1"
    assert table[classes].sum(axis=1).round(4).tolist() == [1, 1, 1, 1, 0] and set(table["predicted"]) - {""} <= {
        *classes
    }
    assert table[classes].dtypes.eq(np.float32).all()
    text = out.read_bytes().decode(errors="ignore") if suffix == ".csv" else ""
    assert not re.search(r"(^|,)\"?[=+@-]", text, flags=re.MULTILINE)
    forwarded.clear()
    pd.testing.assert_frame_equal(score(model, listed, out, data_dir=folder, class_names=classes, resume=True), table)
    assert not forwarded
    if suffix == ".csv":
        again = score(model, out, tmp_path / "again.parquet", data_dir=folder, class_names=classes)
        pd.testing.assert_frame_equal(again[["path", *classes]], table[["path", *classes]], check_dtype=False)


def test_json_lines_are_valid_json_without_nan(classifier, folder, tmp_path):
    score(classifier, folder, tmp_path / "scores.jsonl")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "scores.jsonl").open()]
    assert len(rows) == 16 and any(row["cat"] is None for row in rows)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_have_mean_and_maximum_of_sampled_frames(classifier, tmp_path, kind):
    frames = [Image.fromarray(np.full((40, 40, 3), 25 * i, np.uint8)) for i in range(10)]
    path = tmp_path / f"moving.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "webp" else {}))
    row = score(classifier, [path], tmp_path / "scores.parquet", frames=4).iloc[0]
    shown = np.stack([np.full((SIZE, SIZE, 3), 25 * i, np.uint8) for i in (0, 3, 6, 9)])
    probs = classifier.predict(shown, verbose=0)
    assert row["frames"] == 4 and (probs.max(axis=0) - probs.mean(axis=0)).min() > 0.02
    assert np.allclose(row[NAMES].to_numpy(float), probs.mean(axis=0), atol=1e-5)
    assert np.allclose(row[[f"{name}_max" for name in NAMES]].to_numpy(float), probs.max(axis=0), atol=1e-5)


def test_an_animation_cut_in_its_middle_is_scored_as_far_as_it_goes(tmp_path):
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (60, 60, 3), dtype=np.uint8)) for i in range(6)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "moving.gif").read_bytes()
    pixels, detail = load_frames(data[: len(data) * 2 // 3], size=SIZE, frames=6)
    assert len(pixels) == 4 and detail == "damaged after 4 frames"


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_an_animation_that_takes_too_long_is_scored_as_far_as_time_allows(tmp_path, kind, monkeypatch):
    shots = [Image.fromarray(np.full((40, 40, 3), 20 * i, np.uint8)) for i in range(12)]
    shots[0].save(tmp_path / "moving", kind, save_all=True, append_images=shots[1:])
    clock = iter(range(1000))
    monkeypatch.setattr(data_frames.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(data_frames, "SECONDS", 6)
    pixels, detail = load_frames((tmp_path / "moving").read_bytes(), size=SIZE, frames=4)
    assert 2 <= len(pixels) < 4 and re.fullmatch(r"sampled from the first [67] of 12 frames", detail)


def test_the_model_may_be_a_file(classifier, model_file, folder, tmp_path):
    a = score(classifier, folder, tmp_path / "a.parquet")
    b = score(model_file, folder, tmp_path / "b.parquet", runtime="tensorflow")
    pd.testing.assert_frame_equal(a, b)


# ------------------------------------------------------------------------------------------------ OpenVINO
@pytest.fixture(scope="module")
def converted(model_file, tmp_path_factory):
    """A cache folder in which the model has been converted by a first call."""
    folder = tmp_path_factory.mktemp("converted")
    draw(folder / "one.png", 0)
    score(model_file, folder / "one.png", folder / "scores.parquet", cache_dir=folder)
    return folder


WITHOUT_TENSORFLOW = """
import sys
from nsfwlib.score.__main__ import main
sys.modules["tensorflow"] = sys.modules["keras"] = None
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_model_file_is_converted_once_and_then_scores_without_tensorflow(
    classifier, model_file, folder, tmp_path, converted
):
    by_keras = score(classifier, folder, tmp_path / "keras.parquet")
    arguments = [str(folder), "--model", str(model_file), "--out", str(tmp_path / "openvino.parquet")]
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments, "--cache-dir", str(converted)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(read_scores(tmp_path / "openvino.parquet"), by_keras, rtol=0, atol=1e-4)


def test_another_model_under_the_same_name_is_not_mistaken_for_the_converted_one(
    model_file, folder, tmp_path, converted
):
    other = tmp_path / model_file.name
    save_model(tiny.lively_classifier(NAMES, size=SIZE, seed=1), other)
    expect = score(other, folder, tmp_path / "a.parquet", runtime="tensorflow")
    shutil.copytree(converted, tmp_path / "cache")
    found = score(other, folder, tmp_path / "b.parquet", cache_dir=tmp_path / "cache")
    pd.testing.assert_frame_equal(found, expect, rtol=0, atol=1e-4)
    first = score(model_file, folder, tmp_path / "c.parquet", cache_dir=tmp_path / "cache")
    assert set(first["scored_by"]).isdisjoint(found["scored_by"])


@pytest.mark.parametrize("change", [lambda names: names[::-1], lambda names: names[:-1]])
def test_a_note_with_other_classes_than_the_converted_model_is_not_believed(
    model_file, folder, tmp_path, converted, change
):
    cache = tmp_path / "cache"
    shutil.copytree(converted, cache)
    (note,) = (cache / "openvino").glob("*.json")
    noted = json.loads(note.read_text())
    note.write_text(json.dumps(noted | {"class_names": change(noted["class_names"])}))
    expect = score(model_file, folder, tmp_path / "a.parquet", runtime="tensorflow")
    found = score(model_file, folder, tmp_path / "b.parquet", cache_dir=cache)
    pd.testing.assert_frame_equal(found, expect, rtol=0, atol=1e-4)


def test_a_damaged_converted_file_is_removed_and_made_anew(model_file, folder, tmp_path, converted):
    cache = tmp_path / "cache"
    shutil.copytree(converted, cache)
    (kept,) = (cache / "openvino").glob("*.xml")
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(RuntimeError, match="damaged and was removed"):
        score(model_file, folder, tmp_path / "a.parquet", cache_dir=cache)
    assert len(score(model_file, folder, tmp_path / "a.parquet", cache_dir=cache)) == 16 and kept.exists()


def test_a_model_that_cannot_be_converted_is_scored_by_tensorflow_with_a_warning(
    classifier, model_file, folder, tmp_path, monkeypatch
):
    def refuse(*args, **options):
        raise ValueError("no such operator")

    monkeypatch.setattr(forward, "_graph", refuse)
    with pytest.warns(UserWarning, match="TensorFlow scores: no such operator"):
        found = score(model_file, folder, tmp_path / "a.parquet", cache_dir=tmp_path)
    pd.testing.assert_frame_equal(found, score(classifier, folder, tmp_path / "b.parquet"))
    with pytest.raises(ValueError, match="no such operator"):
        score(model_file, folder, tmp_path / "c.parquet", cache_dir=tmp_path, runtime="openvino")


def test_scores_of_another_precision_never_mix_and_auto_keeps_to_what_is_there(
    model_file, folder, tmp_path, converted, monkeypatch
):
    monkeypatch.setattr(runtime, "COMPARED", 8)
    monkeypatch.setattr(runtime, "CALIBRATED", 4)
    monkeypatch.setattr(runtime, "BOUNDS", dict.fromkeys(runtime.BOUNDS, (1, 1)))
    shutil.copytree(converted, tmp_path / "cache")
    out, options = tmp_path / "scores.parquet", {"cache_dir": tmp_path / "cache"}
    exact = score(model_file, folder, out, precision="float32", **options)
    with pytest.raises(ValueError, match="another model or with other frames"):
        score(model_file, folder, out, precision="int8", resume=True, **options)
    lowered = score(model_file, folder, out, precision="int8", overwrite=True, **options)
    assert set(lowered["scored_by"]) == {f"{exact['scored_by'].iloc[0]}-int8"}
    assert lowered.attrs["agreement"]["pictures"] == 8 and read_scores(out).attrs["precision"] == "int8"
    assert 0 < (lowered[NAMES] - exact[NAMES]).abs().max().max() < 0.5
    again = score(model_file, folder, out, resume=True, **options)
    assert again.attrs["precision"] == "int8"


def test_a_missing_openvino_is_an_error_before_anything_is_written(model_file, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    out = tmp_path / "scores.parquet"
    with pytest.raises(ImportError, match=r"pip install 'nsfwlib\[openvino\]'"):
        score(model_file, folder, out, runtime="openvino")
    assert not list(tmp_path.glob("scores*"))
    assert len(score(model_file, folder, out)) == 16, "auto does without it"


@pytest.mark.parametrize("entry", ["score", "command"])
def test_the_limit_of_pixels_is_that_of_the_call(classifier, model_file, tmp_path, entry):
    for name, side in (("small.png", 40), ("large.png", 60), ("moving.gif", 60)):
        Image.new("RGB", (side, side), "red").save(tmp_path / name, save_all=True)
    files = [str(tmp_path / name) for name in ("small.png", "large.png", "moving.gif")]
    out, found = tmp_path / "scores.csv", []
    for limit in (1600, 3600):
        if entry == "score":
            score(classifier, files, out, max_pixels=limit, overwrite=True)
        else:
            options = ["--model", str(model_file), "--out", str(out), "--runtime", "tensorflow", "--overwrite"]
            assert __main__.main([*files, *options, "--max-pixels", str(limit)]) == 0
        found.append(read_scores(out)["problem"].tolist())
    assert found == [["", "too many pixels", "too many pixels"], ["", "", ""]]


# ------------------------------------------------------------------------------------------------ sources
@pytest.mark.parametrize("kind", ["list", "glob", "table", "table file", "one file", "memory url", "pyarrow"])
def test_lists_globs_tables_and_other_file_systems_give_the_folders_numbers(classifier, folder, tmp_path, kind):
    whole = score(classifier, folder, tmp_path / "whole.parquet").set_index("path")[NAMES]
    options, relative = {}, ["00.png", "02.png", "04.png"]
    table = pd.DataFrame({"path": relative, "problem": ""})
    if kind == "list":
        source = [folder / path for path in relative]
    elif kind == "glob":
        source = str(folder / "0[024].png")
    elif kind in ("table", "table file"):
        source, options = table, {"data_dir": folder}
        if kind == "table file":
            source = tmp_path / "images.csv"
            table.to_csv(source, index=False)
    elif kind == "one file":
        source, relative = folder / "00.png", ["00.png"]
    elif kind == "memory url":
        import fsspec

        memory, relative = fsspec.filesystem("memory"), ["00.png", "below/01.png"]
        for path in relative:
            memory.pipe(f"/{tmp_path.name}/{path}", (folder / path).read_bytes())
        source = f"memory://{tmp_path.name}"
    else:
        from pyarrow import fs

        source, options = str(folder / "below"), {"filesystem": fs.LocalFileSystem()}
        relative = sorted(f"below/{p.name}" for p in (folder / "below").iterdir())
    found = score(classifier, source, tmp_path / "part.parquet", **options)
    assert found["problem"].eq("").all() and len(found) == len(relative)
    assert np.allclose(found[NAMES], whole.loc[relative], rtol=0, atol=1e-6), (
        "batches of another size add up in another order"
    )


def bracketed(folder, kind):
    """A folder whose name is a pattern, and one beside it that the pattern matches; the sources of its three files."""
    for place, seeds in (("photos [2020]/a*", "135"), ("photos 2/a*", "246")):
        (folder / place).mkdir(parents=True)
        for seed in seeds:
            draw(folder / place / f"{seed}.png", int(seed))
    below = "photos [2020]/a*"
    if kind == "memory":
        import fsspec

        memory = fsspec.filesystem("memory")
        for path in [*folder.glob("photos*/*/*")]:
            memory.pipe(f"/{path.relative_to(folder.parent).as_posix()}", path.read_bytes())
        below = f"memory://{folder.name}/{below}"
    else:
        below = str(folder / below)
    one = f"{below}/1.png"
    return [below, f"{below}/*.png", f"{below[:-3]}/**/[135].png", one], {"data_dir": Path(below)}


@pytest.mark.parametrize("kind", ["here", "memory"])
def test_the_folder_before_a_glob_is_taken_as_it_is_written(tmp_path, kind):
    sources, options = bracketed(tmp_path, kind)
    named = [[row[0].rpartition("/")[2] for row in open_source(source)[1]] for source in sources]
    assert [sorted(names) for names in named] == [["1.png", "3.png", "5.png"]] * 3 + [["1.png"]]
    if kind == "here":
        files, rows = open_source(["1.png", "3.png"], **options)
        assert [load_picture(files, path, size=8, frames=1).problem for path, _, _ in rows] == ["", ""]


def test_a_glob_above_folders_still_matches_them(tmp_path):
    bracketed(tmp_path, "here")
    found = [row[0] for row in open_source(str(tmp_path / "photos [0-9]" / "*" / "*.png"))[1]]
    assert len(found) == 3 and all("photos 2" in path for path in found)


def test_names_that_look_like_numbers_are_names(classifier, folder, tmp_path):
    names = ["000123", "123", "1e3", "1000.0", "NA"]
    for i, name in enumerate(names):
        (folder / name).write_bytes((folder / f"{2 * i:02}.png").read_bytes())
    (tmp_path / "list.csv").write_text("\ufeffpath;note\r\n000123;\r\n1e3;007\r\nNA;\r\n", encoding="utf-8")
    table = score(classifier, tmp_path / "list.csv", tmp_path / "scores.parquet", data_dir=folder)
    assert table["path"].tolist() == ["000123", "1e3", "NA"] and table["problem"].eq("").all()
    assert np.allclose(table[NAMES], expected(classifier, [folder / name for name in table["path"]]), atol=1e-5)


def test_odd_file_names_are_scored(classifier, folder, tmp_path):
    for name in (b"line\nbreak.png", b"not-utf8-\xff.png", b"back\\slash.png", "ü ★.png".encode()):
        (folder / os.fsdecode(name)).write_bytes((folder / "00.png").read_bytes())
    table = score(classifier, folder, tmp_path / "scores.csv").set_index("path")
    names = [r"line\u000abreak.png", r"not-utf8-\xff.png", r"back\\slash.png", "ü ★.png"]
    assert table.loc[names, "problem"].eq("").all()


def test_an_odd_file_name_on_another_file_system_is_one_line_too(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/odd/line\nbreak.png", (folder / "00.png").read_bytes())
    files, rows = open_source("memory://odd")
    assert [path for path, _, _ in rows] == [r"line\u000abreak.png"]
    assert not load_picture(files, r"line\u000abreak.png", size=8, frames=1).problem


def test_a_file_that_is_gone_when_it_is_reached_is_a_row(classifier, folder, tmp_path, forwarded):
    rows = open_source(folder)[1]
    listed = pd.DataFrame(rows, columns=["path", "problem", "detail"])
    (folder / "04.png").unlink()
    draw(folder / "06.png", 99)
    table = score(classifier, listed, tmp_path / "scores.parquet", data_dir=folder).set_index("path")
    assert table.loc["04.png", "problem"] == "missing" and table.loc["04.png", "sha256"] == ""
    assert np.allclose(table.loc["06.png", NAMES].to_numpy(float), expected(classifier, [folder / "06.png"]), atol=1e-5)


def test_rows_with_a_known_problem_are_not_opened(classifier, folder, tmp_path, forwarded):
    table = pd.DataFrame({"path": ["00.png", "02.png"], "problem": ["screened", ""]})
    found = score(classifier, table, tmp_path / "scores.parquet", data_dir=folder)
    assert found["problem"].tolist() == ["screened", ""] and sum(forwarded) == 1


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda f: f / "nowhere", FileNotFoundError, "There is no folder, file or glob"),
        (lambda f: [], ValueError, "the list is empty"),
        (lambda f: str(f / "*.xyz"), FileNotFoundError, "There is no file that matches"),
        (lambda f: pd.DataFrame({"file": ["a"]}), ValueError, r"column path\. Received: file"),
        (lambda f: pd.DataFrame({"path": [123]}), ValueError, r"Expected text in the column path\. Received: 123"),
        (lambda f: "noproto://x/y", ValueError, "cannot be opened"),
    ],
)
def test_a_source_that_names_nothing_is_refused(classifier, folder, tmp_path, make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        score(classifier, make(folder), tmp_path / "scores.parquet")
    assert {p.name for p in tmp_path.iterdir()} == {"pictures"}


def test_an_empty_folder_is_refused_and_leaves_nothing(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty is empty"):
        score(classifier, tmp_path / "empty", tmp_path / "scores.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


# ------------------------------------------------------------------------------------------------ once is enough
def test_a_copy_is_not_computed_twice(classifier, folder, tmp_path, forwarded):
    score(classifier, [folder / "00.png"] * 40, tmp_path / "scores.parquet", batch_size=1)
    assert sum(forwarded) <= 5  # those that were decoded ahead


def test_an_interrupted_call_is_taken_up_by_the_same_call(classifier, folder, tmp_path, forwarded, monkeypatch):
    real = Store.add_answers

    def interrupted(store, answers):
        real(store, answers)
        if sum(forwarded) >= 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_answers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(classifier, folder, tmp_path / "scores.parquet")
    assert not (tmp_path / "scores.parquet").exists() and sum(forwarded) == 8
    table = score(classifier, folder, tmp_path / "scores.parquet")
    assert sum(forwarded) <= 13 and len(table) == 16
    fresh = score(classifier, folder, tmp_path / "fresh.parquet")
    pd.testing.assert_frame_equal(table, fresh)


KILLED = """
import sys, time
from pathlib import Path
from nsfwlib.model import forward
from nsfwlib.score import run
run.COMMIT_SECONDS = 0
forward.forward_pass = lambda *a, **k: lambda pixels: time.sleep(0.2) or [pixels.mean((1, 2)) / pixels.mean((1, 2)).sum(1, keepdims=True)]
run.score(*map(Path, sys.argv[1:3]), out=Path(sys.argv[3]), runtime="tensorflow", batch_size=1, progress=False)
"""


def test_a_kill_loses_next_to_nothing(model_file, folder, tmp_path, forwarded, monkeypatch):
    out = tmp_path / "scores.parquet"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(model_file), str(folder), str(out)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and scored_so_far(out) < 3:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = scored_so_far(out)
    assert kept >= 3 and not out.exists()
    table = score(model_file, folder, out, runtime="tensorflow")
    assert sum(forwarded) <= 12 - (kept - 2) and len(table) == 16 and table["problem"].ne("").sum() == 3


ENDED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from test_folder_scan import deadly
from nsfwlib.data import crawl
from nsfwlib.model import stream
from nsfwlib.score import score
crawl.inspect_all = deadly
real = stream.load_picture

def load(files, path, **options):
    if "deadly" in path and options["size"] > 1:  # decoded, not only hashed
        os._exit(139)
    return real(files, path, **options)

if __name__ == "__main__":
    stream.load_picture = load
    model, folder, out, cache = map(Path, sys.argv[1:5])
    score(model, folder, out=out, cache_dir=cache, batch_size=1, workers=1, progress=False)
"""


def test_a_file_that_ends_the_process_is_a_row_in_the_end(model_file, folder, tmp_path, converted):
    draw(folder / "below" / "99-deadly.png", 99)
    (tmp_path / "script.py").write_text(ENDED)
    arguments = [model_file, folder, tmp_path / "scores.parquet", converted, Path(__file__).parents[1] / "data"]
    codes = []
    while 0 not in codes and len(codes) < 3:
        codes.append(subprocess.run([sys.executable, tmp_path / "script.py", *arguments]).returncode)
    assert codes[0] == 139 and codes[-1] == 0
    table = read_scores(tmp_path / "scores.parquet").set_index("path")
    assert table.loc["below/99-deadly.png", "problem"] == "crashed the decoder"
    assert len(table) == 17 and table["problem"].ne("").sum() == 4


def scored_so_far(out):
    """Rows in a copy of the work file as a kill would leave it."""
    import sqlite3

    work = work_file(out)
    if not work.exists():
        return 0
    copy = Path(f"{work}.copy")
    shutil.copy(work, copy)
    with sqlite3.connect(copy) as store:
        try:
            return store.execute("SELECT COUNT(*) FROM scores").fetchone()[0]
        except sqlite3.Error:
            return 0
        finally:
            copy.unlink()


def test_a_table_that_exists_is_refused_unless_one_says_what_to_do(classifier, folder, tmp_path):
    out = tmp_path / "scores.parquet"
    score(classifier, folder, out)
    before = out.read_bytes()
    with pytest.raises(FileExistsError, match=r"resume=True .* overwrite=True"):
        score(classifier, folder, out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_resuming_computes_what_is_new_alone(classifier, folder, tmp_path, forwarded, suffix):
    out = tmp_path / f"scores{suffix}"
    score(classifier, folder, out)
    draw(folder / "new.png", 77)
    (folder / "01.png").write_bytes((folder / "below" / "01.png").read_bytes())
    forwarded.clear()
    table = score(classifier, folder, out, resume=True)
    assert forwarded == [1] and len(table) == 18
    fresh = score(classifier, folder, tmp_path / f"fresh{suffix}")
    pd.testing.assert_frame_equal(table, fresh)


@pytest.mark.parametrize("other", ["model", "frames"])
def test_scores_of_another_model_are_not_taken_over(classifier, folder, tmp_path, other):
    out = tmp_path / "scores.parquet"
    score(classifier, folder, out)
    before = out.read_bytes()
    twin = tiny.lively_classifier(NAMES, size=SIZE, seed=1)
    asked = (twin, {}) if other == "model" else (classifier, {"frames": 3})
    with pytest.raises(ValueError, match=r"scored by another model or with other frames.*Received: [0-9a-f]{16}-"):
        score(asked[0], folder, out, resume=True, **asked[1])
    assert out.read_bytes() == before
    table = score(asked[0], folder, out, overwrite=True, **asked[1])
    assert table["scored_by"].nunique() == 1 and out.read_bytes() != before


def test_a_work_file_of_another_model_is_refused_unless_overwriting(classifier, folder, tmp_path):
    out = tmp_path / "scores.parquet"
    Store(out, NAMES, "another-8").close()
    with pytest.raises(ValueError, match="begun with another model"):
        score(classifier, folder, out)
    assert len(score(classifier, folder, out, overwrite=True)) == 16


# ------------------------------------------------------------------------------------------------ bad targets
def test_a_full_disk_keeps_what_was_scored(classifier, folder, tmp_path, forwarded, monkeypatch):
    out = tmp_path / "scores.parquet"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(_WRITERS, ".parquet", full)
        with pytest.raises(
            OSError, match=r"No space left on device\. Free .*What was scored stays in .*scores\.parquet\.work"
        ):
            score(classifier, folder, out)
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "scores.parquet.work"}
    forwarded.clear()
    assert len(score(classifier, folder, out)) == 16 and not forwarded


def test_a_table_to_be_replaced_stays_until_the_new_one_is_whole(classifier, folder, tmp_path, monkeypatch):
    out = tmp_path / "scores.csv"
    score(classifier, folder, out)
    before = out.read_bytes()

    def half(parts, file):
        file.write(b"path,sha")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(_WRITERS, ".csv", half)
    with pytest.raises(OSError, match="No space left"):
        score(classifier, folder, out, overwrite=True)
    assert out.read_bytes() == before


def test_a_disk_that_fills_up_while_scoring_is_one_sentence(classifier, folder, tmp_path, monkeypatch):
    def small(*args, **options):
        store = Store(*args, **options)
        store.execute(f"PRAGMA max_page_count = {store.execute('PRAGMA page_count').fetchone()[0]}")
        return store

    for i in range(200):
        draw(folder / f"more-{i}.png", 100 + i)
    with monkeypatch.context() as patch:
        patch.setattr(run, "Store", small)
        with pytest.raises(OSError, match=r"could not be written: database or disk is full"):
            score(classifier, folder, tmp_path / "scores.parquet", batch_size=64)
    assert not (tmp_path / "scores.parquet").exists()
    assert len(score(classifier, folder, tmp_path / "scores.parquet", batch_size=64)) == 216


def test_a_target_that_cannot_be_written_is_said_before_any_work(classifier, folder, tmp_path, forwarded):
    (tmp_path / "file").write_text("x")
    with pytest.raises(PermissionError, match=r"the folder of out must be .* can be written\. .* Choose another"):
        score(classifier, folder, tmp_path / "file" / "scores.parquet")
    assert not forwarded


@pytest.mark.parametrize("what", ["a full disk", "a work file that is none"])
def test_where_scores_are_kept_is_tried_before_a_model_is_loaded(folder, tmp_path, monkeypatch, what):
    if what == "a full disk":
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(28, "No space left")))
        sentence = r"the folder of out must be .*No space left.* free some room"
    else:
        work_file(tmp_path / "scores.parquet").mkdir()
        sentence = r"scores\.parquet\.work, where scores are kept .*Is a directory.* Move it away"
    monkeypatch.setattr(run, "make_ready", lambda *args, **options: pytest.fail("loaded"))
    with pytest.raises(PermissionError, match=sentence):
        score("published", folder, tmp_path / "scores.parquet")


def test_a_damaged_work_file_is_one_sentence_with_a_way_out(classifier, folder, tmp_path):
    out = tmp_path / "scores.parquet"
    work_file(out).write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match=r"scores\.parquet\.work is damaged \(.*\)\. Move it away"):
        score(classifier, folder, out)
    work_file(out).unlink()
    assert len(score(classifier, folder, out)) == 16


def test_two_processes_cannot_score_into_one_table(classifier, folder, tmp_path, monkeypatch):
    out = tmp_path / "scores.parquet"
    identity = f"{model_identity(classifier)}-8"
    store = Store(out, NAMES, identity)
    store.execute("INSERT INTO about VALUES ('x', 'y')")
    with pytest.raises(OSError, match="in use by another process"):
        score(classifier, folder, out)
    store.close()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"where": "spark"}, "where must be one of local, ray"),
        ({"resume": True, "overwrite": True}, "Expected one of resume and overwrite"),
        ({"max_pixels": 0}, "max_pixels must be at least 1"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"runtime": "torch"}, "runtime must be one of auto, tensorflow, openvino"),
    ],
)
def test_options_out_of_range_are_named(classifier, folder, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        score(classifier, folder, tmp_path / "scores.parquet", **options)


def test_an_unknown_format_lists_those_there_are(classifier, folder, tmp_path):
    with pytest.raises(ValueError, match=r"\.parquet, \.csv, \.jsonl\. Received: 'scores\.xlsx'"):
        score(classifier, folder, tmp_path / "scores.xlsx")


# ------------------------------------------------------------------------------------------------ foreign models
def foreign(activation="softmax", units=3, shape=(SIZE, SIZE, 3)):
    inputs = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(units, activation=activation)(pooled))


@pytest.mark.parametrize("saved", [None, "foreign.keras", "foreign.h5"])
def test_a_foreign_model_is_wrapped_with_its_class_order(folder, tmp_path, saved):
    theirs = foreign()
    if saved:
        theirs.save(tmp_path / saved)
    model_given = tmp_path / saved if saved else theirs
    table = score(model_given, [folder / "00.png"], tmp_path / "s.csv", class_names=["x", "y", "z"])
    pixels = images.load_image(folder / "00.png", size=SIZE)[None] / 255
    assert np.allclose(table[["x", "y", "z"]], theirs.predict(pixels, verbose=0), atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "class_names", "sentence"),
    [
        (foreign(), None, r"carries no class names.*pass class_names"),
        (foreign(), ["x", "y"], r"Expected 2 probabilities"),
        (foreign(activation=None), ["x", "y", "z"], r"Expected probabilities, which sum to 1"),
        (foreign(shape=(None, None, 3)), ["x", "y", "z"], r"square RGB pictures"),
        (foreign(), ["path", "y", "z"], r"Rename: path"),
    ],
)
def test_a_foreign_model_that_cannot_be_read_is_refused(folder, tmp_path, theirs, class_names, sentence):
    with pytest.raises(ValueError, match=sentence):
        score(theirs, folder, tmp_path / "scores.parquet", class_names=class_names)
    assert {p.name for p in tmp_path.iterdir()} == {"pictures"}


@pytest.mark.parametrize(
    ("names", "clash"),
    [*((["cat", name], name) for name in FIXED), (["a", "a_max"], "a_max"), (["a_max", "b", "a"], "a_max")],
)
@pytest.mark.parametrize("entry", ["score", "ray", "command"])
def test_classes_called_like_columns_are_refused_before_any_picture_is_opened(
    folder, tmp_path, monkeypatch, capsys, names, clash, entry
):
    ready = stand_in(names, tmp_path)
    monkeypatch.setattr(run, "make_ready", lambda *args, **options: ready)
    monkeypatch.setattr(stream, "load_picture", lambda *args, **options: pytest.fail("opened"))
    monkeypatch.setattr(run, "cluster_answers", lambda *args, **options: pytest.fail("sent to a cluster"))
    sentence = rf"called like another column of the table\. Rename: {clash}\. "
    if entry == "command":
        assert __main__.main([str(folder), "--out", str(tmp_path / "s.parquet")]) == 2
        said = capsys.readouterr().err
        assert re.search(sentence, said) and said.count("\n") == 1
    else:
        with pytest.raises(ValueError, match=sentence):
            score("published", folder, tmp_path / "s.parquet", where="ray" if entry == "ray" else "local")
    assert {p.name for p in tmp_path.iterdir()} == {"pictures"}


def stand_in(names, cache_dir):
    """A model that is not there: all that is known of it before it computes."""
    return Ready(names, SIZE, "0" * 16, cache_dir, None)


def test_a_model_that_answers_nan_ends_the_run(folder):
    with pytest.raises(FloatingPointError, match="not a number"):
        list(stream_answers([(0, "00.png")], Files(str(folder)),
                                    lambda pixels: [np.full((len(pixels), 3), np.nan)], size=8))  # fmt: skip


def test_a_decoder_that_never_returns_does_not_hold_the_process_at_its_end():
    code = (
        "import time; from nsfwlib.model import stream\n"
        "stream.SECONDS, stream.load_picture = 0.2, lambda *args, **options: time.sleep(60)\n"
        "stream.hashed = lambda files, path: ''\n"
        "print([len(batch) for batch in stream.stream_answers([(0, 'x')], stream.Files(), None, size=8)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[1]\n", done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_holds_its_thread_is_a_row_and_the_others_do_not_wait_for_it(folder, monkeypatch, workers):
    held, real = threading.Event(), load_picture

    def holding(files, path, **options):
        if path == "02.png" and options["size"] > 1:
            held.wait(30)
        return real(files, path, **options)

    monkeypatch.setattr(stream, "load_picture", holding)
    monkeypatch.setattr(stream, "SECONDS", 0.5)
    paths = ["00.png", "02.png", "04.png", "06.png", "08.png"]
    begun = time.monotonic()
    answers = stream_answers(
        enumerate(paths), Files(str(folder)), lambda p: [p.mean((1, 2))], size=8, batch_size=2, workers=workers
    )
    found = [answer for batch in answers for answer in batch]
    assert time.monotonic() - begun < 15
    held.set()
    assert [answer.problem for answer in found] == ["", "took too long", "", "", ""]
    assert [answer.position for answer in found] == [0, 1, 2, 3, 4] and found[1].detail == "more than 0.5 seconds"
    assert found[1].sha256 == hashlib.sha256((folder / "02.png").read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ memory
def test_pictures_are_decoded_no_further_ahead_than_three_batches(folder, monkeypatch):
    begun, real = [], load_picture
    monkeypatch.setattr(stream, "load_picture", lambda *a, **k: begun.append(1) or real(*a, **k))
    work = ((i, "00.png") for i in range(10_000_000))
    answers = stream_answers(work, Files(str(folder)), lambda p: [p.mean((1, 2))], size=8, batch_size=4)
    answered = 0
    for _ in range(5):
        answered += len(next(answers))
        time.sleep(0.05)
        assert len(begun) <= answered + 3 * 4
    answers.close()
    assert answered == 20


# ------------------------------------------------------------------------------------------------ the command
def test_the_command_writes_a_table_and_speaks_on_standard_error(model_file, folder, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    assert __main__.main([str(folder), "--model", str(model_file), "--out", str(out), "--runtime", "tensorflow"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "img/s" in shown.err and "16 files" in shown.err and "3 with a problem" in shown.err
    assert len(pd.read_csv(out)) == 16


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{folder}", "--class-names", "a,b"], "carries its class names: drawings, hentai, neutral, porn, sexy."),
        (["nowhere"], "There is no folder, file or glob nowhere"),
        (["{folder}", "--model", "none.keras"], "There is no model file none.keras"),
        (["{folder}", "--model", "{folder}/00.png"], "Expected `.keras`"),
        (["{folder}", "--out", "scores.txt"], "out must end in"),
    ],
)
def test_an_error_of_the_command_is_one_line(folder, capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert __main__.main([argument.format(folder=folder) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err and len(shown.err.strip().splitlines()) == 1


def test_an_interrupt_of_the_command_says_how_to_go_on(model_file, folder, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "score", interrupt)
    assert __main__.main([str(folder), "--out", str(tmp_path / "s.parquet")]) == 130
    assert "The same command goes on from here" in capsys.readouterr().err


def test_a_full_disk_has_a_way_out_in_the_shell(folder, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(__main__, "score", full)
    assert __main__.main([str(folder)]) == 2
    assert "No space left on device. Free space on the disks of --out, --cache-dir" in capsys.readouterr().err


def test_asking_for_help_needs_no_tensorflow():
    code = "import sys; from nsfwlib.score import __main__, score; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_too_few_pictures_to_compare_precisions_on_are_not_decoded_for_it(folder, monkeypatch):
    monkeypatch.setattr(source, "load_picture", lambda *args, **options: pytest.fail("decoded"))
    files, rows = open_source(folder)
    found = source.sample_pictures(files, rows, size=SIZE, count=300, least=300)
    assert found.shape == (0, SIZE, SIZE, 3)
