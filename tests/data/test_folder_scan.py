"""The images table: every file has a row, scans resume, splits hold groups together, decisions apply."""

import contextlib
import hashlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nsfwlib import files
from nsfwlib.data import crawl, duplicates, folder_scan, inspection, splits
from nsfwlib.data.splits import assign_splits
from nsfwlib.labels import current, journal


def draw(path, seed, *, size=(64, 64), **options):
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 255, (8, 8, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        draw(tmp_path / "data" / "neutral" / f"{i}.png", i)
        draw(tmp_path / "data" / "sexy" / "deeper" / f"{i}.png", 100 + i)
    return tmp_path / "data"


def scan(folder, **options):
    return folder_scan.scan(folder, **{"progress": False, "workers": 0, **options})


def rows(folder, **options):
    return scan(folder, **options).set_index("path")


def test_every_file_has_a_row_and_its_class_is_the_top_folder(folder):
    (folder / "neutral" / "page.jpg").write_text("<html>gone</html>")
    (folder / "neutral" / "Thumbs.db").write_bytes(b"x")
    draw(folder / "neutral" / ".ipynb_checkpoints" / "0.png", 0)
    (folder / "README.txt").write_text("mine")
    table = rows(folder)
    assert len(table) == 12
    assert table.loc["sexy/deeper/0.png", "given_label"] == "sexy"
    assert table.loc["neutral/page.jpg", "problem"] == "not an image"
    assert table.loc["neutral/Thumbs.db", "problem"].startswith("skipped")
    assert table.loc["neutral/.ipynb_checkpoints/0.png", "problem"].startswith("skipped")
    assert table.loc["README.txt", "problem"] == folder_scan.OUTSIDE
    assert (table["problem"] == "").sum() == 8


def test_the_table_says_what_each_picture_is(folder):
    path = draw(folder / "neutral" / "wide.jpg", 9, size=(320, 200))
    row = rows(folder).loc["neutral/wide.jpg"]
    assert (row["width"], row["height"], row["format"], row["frames"]) == (320, 200, "JPEG", 1)
    assert row["bytes"] == path.stat().st_size
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 0 < row["brightness"] < 1
    assert row["phash"].dtype == row["phash_mirror"].dtype == np.uint64
    assert not row["grey"]
    assert not row["transparent"]


def test_workers_and_this_process_find_the_same(folder):
    for i in range(40):
        draw(folder / "more" / f"{i}.jpg", 1000 + i)
    pd.testing.assert_frame_equal(scan(folder, workers=2), scan(folder, workers=0))


def test_split_folders_are_recognised_whatever_their_spelling(tmp_path):
    for split in ("train", "Validation", "test"):
        draw(tmp_path / split / "neutral" / "a.png", hash(split) % 1000)
        draw(tmp_path / split / "sexy" / "b" / "c.png", hash(split) % 1000 + 1)
    draw(tmp_path / "extra" / "neutral" / "x.png", 5)
    table = rows(tmp_path)
    assert table.loc["Validation/neutral/a.png", "split"] == "val"
    assert table.loc["train/sexy/b/c.png", ["given_label", "split"]].tolist() == ["sexy", "train"]
    assert table.loc["extra/neutral/x.png", "problem"] == folder_scan.OUTSIDE


def test_a_class_called_test_is_no_split(tmp_path):
    draw(tmp_path / "test" / "a.png", 0)
    draw(tmp_path / "other" / "b.png", 1)
    table = scan(tmp_path)
    assert sorted(table["given_label"]) == ["other", "test"]
    assert (table["split"] == "").all()


CLASSES = [  # files of folders whose tops are classes, though some are called like splits
    ["test/2024-01/a.png", "test/b.png", "other/c.png"],
    ["train/2024/a.png", "bus/2024/b.png", "plane/c.png"],
    ["valid/a.png", "valid/sub/b.png", "test/sub/b.png", "invalid/c.png"],
    ["test/a.png", "train/b.png", "train/c.png", "train/.thumbs/d.png", "train/.thumbs/e.png", "train/.thumbs/f.png"],
]


@pytest.mark.parametrize("names", CLASSES)
def test_classes_called_like_splits_stay_classes_and_the_scan_says_so(tmp_path, names):
    for i, name in enumerate(names):
        draw(tmp_path / "data" / name, i)
    (tmp_path / "data" / "test" / "empty").mkdir(parents=True, exist_ok="/test/" not in str(names))
    table = scan(tmp_path / "data")
    kept = table[table["problem"] == ""]
    assert kept["given_label"].tolist() == [path.split("/")[0] for path in kept["path"]]
    assert len(kept) == sum("/." not in name for name in names)
    said = folder_scan.warnings_of(table).set_index("name")["message"]["layout of the folders"]
    assert 'If some are splits pass layout="splits"' in said


def test_the_reader_may_say_what_the_folders_are(tmp_path):
    for i, name in enumerate(["dev/neutral/a.png", "Eval/neutral/b.png", "train/sexy/c.png"]):
        draw(tmp_path / name, i)
    table = scan(tmp_path)
    assert table["split"].tolist() == ["test", "val", "train"]
    said = folder_scan.warnings_of(table)["message"][0]
    assert said.startswith("Folders on top are read as splits: 'Eval' as test, 'dev' as val, 'train' as train.")
    assert 'pass layout="classes"' in said
    assert scan(tmp_path, layout="classes")["given_label"].tolist() == ["Eval", "dev", "train"]
    with pytest.raises(ValueError, match="max_pixels must be 357,913,940 or less"):
        scan(tmp_path / "dev", max_pixels=10**9)
    with pytest.raises(ValueError, match=r"layout must be one of auto, classes, splits\. Received: 'flat'"):
        scan(tmp_path, layout="flat")
    with pytest.raises(ValueError, match=r'layout="splits" expects train, val or test on top.*Received: neutral'):
        scan(tmp_path / "dev", layout="splits")


def test_class_map_renames_merges_and_unlabels(folder):
    draw(folder / "anime" / "a.png", 50)
    draw(folder / "unlabelled" / "b.png", 51)
    table = rows(folder, class_map={"anime": "drawings", "sexy": ""})
    assert table.loc["anime/a.png", "given_label"] == "drawings"
    assert table.loc["sexy/deeper/0.png", "given_label"] == ""
    assert table.loc["unlabelled/b.png", "given_label"] == ""
    with pytest.raises(ValueError, match=r"not there: \['anme'\]. Found: \['anime'"):
        scan(folder, class_map={"anme": "drawings"})


def test_source_comes_from_the_path(folder):
    draw(folder / "sexy" / "reddit_17.png", 7)
    table = rows(folder, source=r"/(?P<source>[a-z]+)_\d+")
    assert table.loc["sexy/reddit_17.png", "source"] == "reddit"
    assert table.loc["neutral/0.png", "source"] == ""


def test_named_warnings_survive_parquet(folder, tmp_path):
    draw(folder / "Neutral" / "x.png", 70)
    (folder / "porn").mkdir()
    (folder / "hentai").mkdir()
    (folder / "hentai" / "gone.jpg").write_bytes(b"")
    scan(folder).to_parquet(tmp_path / "images.parquet")
    found = folder_scan.warnings_of(pd.read_parquet(tmp_path / "images.parquet"))
    assert found["name"].tolist() == ["look-alike classes", "empty class", "empty class"]
    assert "'Neutral'" in found["message"][0]
    assert "class_map=" in found["message"][0]
    assert {"'hentai'" in found["message"][1], "'porn'" in found["message"][2]} == {True}


@pytest.mark.parametrize(
    "twins", [("caf\u00e9", "cafe\u0301"), ("sexy", "sexy "), ("Caf\u00e9 ", "cafe\u0301", "caf\u00e9")]
)
def test_classes_that_look_alike_are_told_apart_and_merged_as_the_warning_says(tmp_path, twins):
    for i, name in enumerate((*twins, "other")):
        draw(tmp_path / "data" / name / "a.png", i)
    said = folder_scan.warnings_of(scan(tmp_path / "data"))
    assert said["name"].tolist() == ["look-alike classes"]
    class_map = eval(said["message"][0].split("class_map=")[1].rstrip("."))
    merged = scan(tmp_path / "data", class_map=class_map)
    assert folder_scan.warnings_of(merged).empty
    assert merged["given_label"].nunique() == 2


def test_bad_data_dirs_are_named_with_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*one folder per class"):
        scan(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"is empty.*one folder per class"):
        scan(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no class folders.*Move the images"):
        scan(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        scan(tmp_path / "a.jpg")


def test_one_usable_class_is_not_enough(folder):
    for path in (folder / "sexy" / "deeper").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Only one class in the images table .*'neutral' \(4\)"):
        folder_scan.check_usable(scan(folder))
    for path in (folder / "neutral").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No usable labelled image.*'empty file': 8"):
        folder_scan.check_usable(scan(folder))


def test_classes_called_like_a_column_or_a_decision_are_refused_with_a_way_out(folder):
    from nsfwlib.review.session import ACTIONS
    from nsfwlib.score.store import FIXED

    assert {*ACTIONS, *FIXED, "undo"} <= folder_scan.RESERVED
    for name in ("predicted", "keep", "Undo", "redo", "sexy_max"):
        draw(folder / name / "a.png", 5)
        with pytest.raises(ValueError, match=rf"decision: {name}\. .*class_map={{'{name}': 'class {name}'}}"):
            folder_scan.check_usable(scan(folder))
        renamed = scan(folder, class_map={name: f"class {name}"})
        assert folder_scan.check_usable(renamed) == [f"class {name}", "neutral", "sexy"]
        (folder / name / "a.png").unlink()
        (folder / name).rmdir()


NAMES = {
    "new\nline.png": r"neutral/new\u000aline.png",
    "back\\slash.png": r"neutral/back\\slash.png",
    os.fsdecode(b"latin\xe9.png"): r"neutral/latin\xe9.png",
    "\u202egnp.exe.png": r"neutral/\u202egnp.exe.png",
    "<img src=x onerror=alert(1)>.png": "neutral/<img src=x onerror=alert(1)>.png",
    "größe 🦊.png": "neutral/größe 🦊.png",
    "n" * 251 + ".png": "neutral/" + "n" * 251 + ".png",
}


def test_awkward_names_survive_the_table_and_lead_back_to_the_file(folder, tmp_path):
    made = {}
    for i, (name, path) in enumerate(NAMES.items()):
        try:
            draw(folder / "neutral" / name, 300 + i)
        except OSError:  # a file system that knows UTF-8 names only
            continue
        made[path] = name
    assert len(made) >= 5
    scan(folder).to_parquet(tmp_path / "images.parquet")
    table = pd.read_parquet(tmp_path / "images.parquet").set_index("path")
    for path, name in made.items():
        assert table.loc[path, "problem"] == ""
        assert files.file_path(folder, path) == folder / "neutral" / name
        assert len(path.splitlines()) == 1


def test_links_loops_and_special_files_neither_hang_nor_vanish(folder):
    target = folder / "neutral"
    (target / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    (target / "itself.jpg").symlink_to(target / "itself.jpg")
    (target / "up").symlink_to(folder)
    (target / "root").symlink_to("/")
    (folder / "linked").symlink_to(folder / "sexy" / "deeper")
    (target / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(target / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(target)  # a socket's path must be short
    listening.bind("socket.jpg")
    os.chdir(here)
    outside = draw(folder.parent / "elsewhere" / "a.png", 40)
    (folder / "drawings").symlink_to(outside.parent)
    began = time.monotonic()
    table = rows(folder)
    listening.close()
    assert time.monotonic() - began < 10
    problems = table["problem"]
    assert problems["neutral/dangling.jpg"] == "missing"
    assert problems["neutral/itself.jpg"] == "link loop"
    assert problems["neutral/up"] == problems["neutral/root"] == problems["linked"] == "link loop"
    assert problems["neutral/pipe.jpg"] == problems["neutral/zero.png"] == "not a regular file"
    assert problems["neutral/socket.jpg"] == "not a regular file"
    assert table.loc["drawings/a.png", ["given_label", "problem"]].tolist() == ["drawings", ""]
    assert (problems == "").sum() == 9


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that its reader may not read")
def test_an_unreadable_file_is_a_row(folder):
    (folder / "neutral" / "locked.jpg").symlink_to("/proc/self/mem")
    assert rows(folder).loc["neutral/locked.jpg", "problem"] == "unreadable"


def test_a_second_scan_opens_no_file(folder, tmp_path, monkeypatch):
    first = scan(folder, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(inspection, "read_bytes", lambda source: pytest.fail(f"opened {source}"))
    pd.testing.assert_frame_equal(scan(folder, cache_dir=tmp_path / "cache"), first)


def test_changed_files_and_other_options_are_inspected_again(folder, tmp_path):
    cache = tmp_path / "cache"
    first = rows(folder, cache_dir=cache)
    old = (folder / "neutral" / "0.png").stat()
    draw(folder / "neutral" / "0.png", 77)
    os.utime(folder / "neutral" / "0.png", ns=(old.st_atime_ns, old.st_mtime_ns))
    second = rows(folder, cache_dir=cache)
    changed = first["sha256"] != second["sha256"]
    assert changed[changed].index.tolist() == ["neutral/0.png"]
    assert (rows(folder, cache_dir=cache, min_side=65)["problem"] == "too small").all()


def test_purged_thumbnails_leave_the_disk_and_grouping_goes_on(folder, tmp_path):
    cache = tmp_path / "cache"
    table = scan(folder, cache_dir=cache)
    (cache / "scan.sqlite.damaged").write_bytes(b"old")
    pixels = inspection.inspect(folder / "neutral" / "0.png")["thumb"]
    before = duplicates.group_duplicates(table, data_dir=folder, cache_dir=cache)
    assert crawl.purge_thumbnails(cache) == 8
    assert all(pixels[:64] not in file.read_bytes() for file in cache.iterdir())
    assert not (cache / "scan.sqlite.damaged").exists()
    pd.testing.assert_series_equal(duplicates.group_duplicates(table, data_dir=folder, cache_dir=cache), before)


def test_a_damaged_cache_is_put_aside(folder, tmp_path):
    cache = tmp_path / "cache"
    first = scan(folder, cache_dir=cache)
    (cache / "scan.sqlite").write_bytes(b"this was a database once" * 100)
    with pytest.warns(UserWarning, match="cache was damaged"):
        pd.testing.assert_frame_equal(scan(folder, cache_dir=cache), first)


def test_a_cache_that_another_scan_holds_is_named_with_the_way_out(folder, tmp_path, monkeypatch):
    scan(folder, cache_dir=tmp_path)
    monkeypatch.setattr(crawl, "_PATIENCE", 0.1)
    draw(folder / "neutral" / "new.png", 77)
    with contextlib.closing(sqlite3.connect(tmp_path / "scan.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match=r"Another scan has held the cache .*scan\.sqlite .*another cache_dir"):
            scan(folder, cache_dir=tmp_path)
        other.execute("COMMIT")
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")  # as on a disk without WAL: it does not even open
        with pytest.raises(TimeoutError, match=r"^Another scan has held the cache"):
            scan(folder, cache_dir=tmp_path)
    assert (scan(folder, cache_dir=tmp_path)["problem"] == "").all()


@pytest.mark.parametrize("pragma", ["query_only = ON", "max_page_count = 1"])
def test_a_read_only_or_full_cache_is_named_with_the_way_out(folder, tmp_path, monkeypatch, pragma):
    prepared = crawl._prepared
    monkeypatch.setattr(crawl, "_prepared", lambda file: limited(prepared(file), pragma))
    with pytest.raises(OSError, match=r"cache .*scan\.sqlite cannot be written: .*(readonly|full).*another cache_dir"):
        scan(folder, cache_dir=tmp_path)


def limited(cache, pragma):
    cache.execute(f"PRAGMA {pragma}")
    return cache


def test_a_cache_folder_that_is_a_file_is_named_with_the_way_out(folder, tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(OSError, match=r"scan\.sqlite cannot be written: .*another cache_dir"):
        scan(folder, cache_dir=tmp_path / "cache")


KILLED = """
import sys, time
from pathlib import Path
from nsfwlib import data
from nsfwlib.data import inspection
plain = inspection.inspect
def slow(path, **options):
    time.sleep(0.02)
    return plain(path, **options)
inspection.inspect = slow
data.scan(Path(sys.argv[1]), cache_dir=Path(sys.argv[2]), progress=False, workers=0)
"""


def test_the_cache_and_the_table_name_no_folder_of_their_owner(folder, tmp_path):
    table = scan(folder, cache_dir=tmp_path / "cache")
    kept = b"".join(file.read_bytes() for file in (tmp_path / "cache").iterdir())
    assert os.fsencode(tmp_path) not in kept and b"neutral" not in kept
    assert str(tmp_path) not in repr(table.attrs)


def test_a_cache_that_kept_the_paths_themselves_still_serves(folder, tmp_path, monkeypatch):
    table = scan(folder, cache_dir=tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "scan.sqlite")) as cache:
        plain = {crawl._key(path): os.fsencode(path) for path in map(str, folder.resolve().rglob("*.png"))}
        for key, path in plain.items():
            cache.execute("UPDATE files SET path = ? WHERE path = ?", [path, key])
        cache.execute("PRAGMA user_version=0")
        cache.commit()
    monkeypatch.setattr(crawl, "inspect", None)
    pd.testing.assert_frame_equal(scan(folder, cache_dir=tmp_path), table)


def test_a_killed_scan_goes_on_where_it_stopped(tmp_path):
    for i in range(120):
        draw(tmp_path / "data" / "neutral" / f"{i}.png", i)
    cache = tmp_path / "cache"
    known = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "data", cache])
        began = time.monotonic()
        while _count(cache) <= known and process.poll() is None and time.monotonic() - began < 30:
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert _count(cache) >= known
        known = _count(cache)
    assert known > 0
    pd.testing.assert_frame_equal(scan(tmp_path / "data", cache_dir=cache), scan(tmp_path / "data"))


def _count(cache):
    if not (cache / "scan.sqlite").exists():
        return 0
    try:
        return sqlite3.connect(cache / "scan.sqlite").execute("SELECT count(*) FROM files").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_an_interrupted_scan_keeps_what_it_has_and_leaves_nothing_running(folder, tmp_path, monkeypatch):
    for i in range(60):
        draw(folder / "more" / f"{i}.png", 600 + i)

    def interrupted(work, **options):
        for k, done in enumerate(work):
            if k == 40:
                raise KeyboardInterrupt
            yield done

    monkeypatch.setattr(folder_scan, "tqdm", interrupted)
    started, start = [], crawl.ProcessPoolExecutor
    monkeypatch.setattr(
        crawl, "ProcessPoolExecutor", lambda *about, **how: started.append(start(*about, **how)) or started[-1]
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        scan(folder, cache_dir=tmp_path / "cache", workers=2)
    assert caught.traceback  # alive, as in a notebook, and with it every frame
    assert len(started) == 2 and not any(worker._processes for worker in started)
    assert _count(tmp_path / "cache") >= 40


def deadly(paths):
    """A worker whose decoder dies on some files and sleeps on others."""
    for path in paths:
        if "deadly" in path:
            os._exit(139)
        if "endless" in path:
            time.sleep(1000)
    return _inspect_all(paths)


_inspect_all = inspection.inspect_all


def test_a_file_that_kills_or_holds_its_worker_costs_one_row(folder, monkeypatch):
    draw(folder / "neutral" / "deadly.png", 1)
    draw(folder / "neutral" / "endless.png", 2)
    monkeypatch.setattr(crawl, "inspect_all", deadly)
    paths = sorted(str(path) for path in folder.rglob("*.png"))
    monkeypatch.setattr(crawl, "SECONDS", 3)
    found = dict(crawl.inspect_files(paths, {}, workers=2))
    problems = {Path(paths[i]).name: row["problem"] for i, row in found.items() if row["problem"]}
    assert problems == {"deadly.png": "crashed the decoder", "endless.png": "took too long"}
    assert len(found) == 10


def test_a_scan_leaves_the_main_module_of_other_threads_alone(folder):
    main, seen, done = sys.modules["__main__"], set(), threading.Event()

    def watch():
        while not done.is_set():
            seen.add(sys.modules["__main__"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    table = scan(folder, workers=2)
    done.set()
    watcher.join()
    assert seen == {main} and table["problem"].eq("").all()


def test_a_worker_that_cannot_start_is_an_error_with_the_way_out(folder, monkeypatch):
    monkeypatch.setattr(crawl, "begin_inspecting", os._exit)
    with pytest.raises(RuntimeError, match=r"could not start.*workers=0 scans in this process"):
        scan(folder, workers=2)


def test_what_a_decoder_prints_is_no_answer(folder, monkeypatch, capfd):
    monkeypatch.setattr(crawl, "inspect_all", chatty)
    assert scan(folder, workers=1)["problem"].eq("").all()
    assert "a warning in C" in capfd.readouterr().out


def chatty(paths):
    os.write(1, b"a warning in C")
    return _inspect_all(paths)


def test_an_unguarded_script_can_scan_in_parallel(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom nsfwlib import data\n"
        f"print(len(data.scan(Path({str(folder)!r}), progress=False, workers=2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, cwd=Path.cwd())
    assert done.stdout.strip() == "8", done.stderr


def table_of(labels, groups=None, splits=None):
    n = len(labels)
    groups = range(n) if groups is None else groups
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(n)], "given_label": labels, "group": list(groups)})
    table["sha256"] = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(n)]
    return table.assign(split=splits or "", problem="", oddities="")


def test_splits_hold_groups_together_and_classes_in_proportion(rng):
    labels = rng.choice(["neutral", "porn", "sexy"], 1000, p=[0.6, 0.3, 0.1])
    table = table_of(labels, groups=rng.integers(0, 600, 1000))
    result = assign_splits(table, fractions=(0.6, 0.2, 0.2))
    assert (result.groupby("group")["split"].nunique() == 1).all()
    shares = pd.crosstab(result["given_label"], result["split"], normalize="index")
    assert (shares - [0.2, 0.6, 0.2]).abs().to_numpy().max() < 0.06  # columns: test, train, val


def test_groups_of_any_size_reach_each_split_with_the_wished_probability():
    sizes = np.repeat(np.arange(1, 21), 6)
    table = table_of(["a"] * sizes.sum(), groups=np.repeat(np.arange(len(sizes)), sizes))
    first = np.cumsum(sizes) - sizes
    drawn = []
    for seed in range(200):
        rows = table[["problem", "split", "group", "given_label", "sha256"]].copy()
        splits._draw(rows, (0.7, 0.15, 0.15), seed)
        drawn.append(rows["split"].to_numpy(str))
    for split, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        reached = (np.array(drawn) == split)[:, first].reshape(200, 20, 6)
        assert np.abs(reached.mean(axis=(0, 2)) - share).max() < 0.02
        assert np.abs((np.array(drawn) == split).mean(axis=1) - share).max() < 0.02


def test_splits_depend_on_seed_and_content_not_on_the_order_of_rows(rng):
    table = table_of(rng.choice(["a", "b"], 200))
    one = assign_splits(table, seed=1).set_index("path")["split"]
    shuffled = assign_splits(table.sample(frac=1, random_state=0), seed=1).set_index("path")["split"]
    assert one.equals(shuffled.loc[one.index])
    assert not one.equals(assign_splits(table, seed=2).set_index("path")["split"])


def test_unlabelled_pictures_go_where_a_person_can_label_them():
    result = assign_splits(table_of(["a"] * 30 + ["b"] * 30 + [""] * 30))
    assert set(result.loc[result["given_label"] == "", "split"]) == {"train"}
    assert set(result.loc[result["given_label"] == "a", "split"]) == {"train", "val", "test"}


def test_a_class_of_three_is_in_every_split():
    result = assign_splits(table_of(["a"] * 3 + ["b"] * 50))
    assert set(result["split"][:3]) == {"train", "val", "test"}


def test_earlier_splits_persist_and_newcomers_join_their_group(rng):
    old = assign_splits(table_of(["a", "b"] * 100, groups=np.arange(200) // 2))
    new = table_of(["a", "b"] * 130, groups=[*(np.arange(200) // 2), *range(60)])
    result = assign_splits(new, previous=old, seed=9)
    assert result["split"][:200].tolist() == old["split"].tolist()
    assert result["split"][200:].tolist() == [old.loc[old["group"] == g, "split"].iloc[0] for g in range(60)]


def test_a_bridge_between_train_and_test_sets_the_train_side_aside_for_good():
    old = assign_splits(table_of(["a"] * 100))
    train, test = old.index[old["split"] == "train"][0], old.index[old["split"] == "test"][0]
    new = table_of(["a"] * 101)
    new.loc[[train, test, 100], "group"] = 999
    for _ in range(2):
        result = assign_splits(new, previous=old)
        assert result["split"][[train, test, 100]].tolist() == ["", "test", "test"]
        assert "set aside" in result["oddities"][train]
        assert result["split"].drop([train, 100]).tolist() == old["split"][:100].drop(train).tolist()
        old = result
    first = assign_splits(new, previous=assign_splits(table_of(["a"] * 100)))
    assert [note["name"] for note in first.attrs["warnings"]] == ["bridges between splits"]


def test_folder_splits_are_kept_and_their_leaks_reported():
    table = table_of(["a"] * 6, groups=[0, 0, 1, 2, 3, 4], splits=["train", "test", "val", "train", "test", "val"])
    result = assign_splits(table)
    assert result["split"].tolist() == table["split"].tolist()
    assert "leaks between splits" in folder_scan.warnings_of(result)["name"].tolist()
    pair = duplicates.leaks(result)
    assert pair[["path", "split", "other_path", "other_split"]].to_numpy().tolist() == [
        ["0.png", "train", "1.png", "test"]
    ]


def test_val_is_drawn_from_train_by_group_where_folders_know_no_val():
    splits = ["train"] * 80 + ["test"] * 20
    result = assign_splits(table_of(["a"] * 100, groups=np.arange(100) // 4, splits=splits), fractions=(0.6, 0.2, 0.2))
    assert (result["split"][80:] == "test").all()
    assert (result["split"] == "val").sum() == 20
    assert (result.groupby("group")["split"].nunique() == 1).all()


def notes_of(table):
    return folder_scan.warnings_of(assign_splits(table)).set_index("name")["message"]


def test_splits_that_lack_pictures_are_named_with_the_way_out():
    assert notes_of(table_of(["a"] * 6 + ["b"] * 6)).empty
    said = notes_of(table_of(["a", "a", "b", "b"]))
    assert said.index.tolist() == ["no test split"]
    assert "too few" in said["no test split"]
    assert "three" in said["no test split"]
    said = notes_of(table_of(["a"] * 8 + ["b", "b"]))
    assert said["classes without test"].startswith("test has no picture of 'b'. Add pictures")
    said = notes_of(table_of(list("abab"), splits=["train", "train", "val", "val"]))
    assert said["no test split"].startswith("The folders have no 'test': val, on which the model is chosen")
    said = notes_of(table_of(list("ababa"), splits=["train", "train", "val", "val", "test"]))
    assert said["classes without test"].startswith("test has no picture of 'b'. Add it, or")


def test_wrong_fractions_and_missing_groups_are_refused():
    with pytest.raises(ValueError, match="add up to 1"):
        assign_splits(table_of(["a"]), fractions=(0.7, 0.2, 0.2))
    with pytest.raises(ValueError, match="without a group"):
        assign_splits(table_of(["a"], groups=[-1]))


def test_decisions_belong_to_content_and_follow_the_rules():
    table = table_of(["a", "b", "a", "b", "a", "", "a"])
    table.loc[1, "sha256"] = table.loc[0, "sha256"]
    table.loc[6, "problem"] = "truncated"
    said = {0: "b", 2: "drop", 3: "keep", 4: "escalate", 5: "unsure"}
    journal = pd.DataFrame({"sha256": table["sha256"][list(said)].tolist(), "decision": list(said.values())})
    labels = current.current_labels(table, journal)
    assert labels.index.equals(table.index)
    assert labels[[0, 1, 3]].tolist() == ["b", "b", "b"]
    assert labels[[2, 4, 5, 6]].isna().all()
    assert current.current_labels(table, None)[:5].tolist() == ["a", "b", "a", "b", "a"]


def test_the_journal_on_disk_is_read(tmp_path):
    table = table_of(["a", "b"])
    row = {"sha256": table["sha256"][0], "path": "0.png", "given_label": "a", "decision": "b"}
    journal.append_decisions(tmp_path / "decisions.csv", [row])
    assert current.current_labels(table, tmp_path / "decisions.csv").tolist() == ["b", "b"]


def test_planted_near_duplicates_share_a_group_through_the_whole_path(folder, tmp_path):
    original = draw(folder / "neutral" / "original.png", 500, size=(300, 200))
    picture = Image.open(original)
    picture.resize((150, 100)).save(folder / "sexy" / "small.jpg", quality=60)
    picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "sexy" / "mirrored.jpg")
    (folder / "sexy" / "copy.png").write_bytes(original.read_bytes())
    (folder / "sexy" / "broken.png").write_bytes(original.read_bytes()[:300])
    table = scan(folder, cache_dir=tmp_path / "cache")
    for where in ({"cache_dir": tmp_path / "cache"}, {"data_dir": folder}, {}):
        table["group"] = duplicates.group_duplicates(table, **where)
        by_path = table.set_index("path")["group"]
        family = by_path[["neutral/original.png", "sexy/small.jpg", "sexy/mirrored.jpg", "sexy/copy.png"]]
        assert family.nunique() == 1
        assert (by_path == family.iloc[0]).sum() == 4
        assert by_path["sexy/broken.png"] == -1
    assert set(duplicates.label_conflicts(table)["path"]) == set(family.index)


def test_features_propose_what_no_hash_recognises(folder, tmp_path):
    from sklearn.datasets import load_sample_image

    whole = Image.fromarray(load_sample_image("china.jpg"))
    width, height = whole.size
    whole.save(folder / "neutral" / "whole.jpg")
    whole.crop((width // 13, height // 13, width * 12 // 13, height * 12 // 13)).save(folder / "sexy" / "crop.jpg")
    table = scan(folder)
    features = np.random.default_rng(0).normal(size=(len(table), 16))
    pair = table.index[table["path"].isin(["neutral/whole.jpg", "sexy/crop.jpg"])]
    apart = duplicates.group_duplicates(table, data_dir=folder, max_distance=0)
    assert apart[pair].nunique() == 2
    features[pair[1]] = features[pair[0]]
    features[table.index[table["path"] == "neutral/0.png"]] = features[pair[0]]  # alike in features alone
    together = duplicates.group_duplicates(table, data_dir=folder, max_distance=0, features=features)
    assert together[pair].nunique() == 1
    assert together.nunique() == apart.nunique() - 1
    with pytest.raises(ValueError, match="one row a row of the table"):
        duplicates.group_duplicates(table, data_dir=folder, features=features[:3])


def test_nothing_here_loads_tensorflow():
    code = "import sys, nsfwlib.data.folder_scan, nsfwlib.data.duplicates; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_that_are_gone_since_the_scan_are_counted_and_named(tmp_path):
    table = pd.DataFrame({"path": ["a/1.png", "a/2.png", "b/3.png"], "problem": ["", "", "truncated"]})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 pictures .* first: a/2.png .*run 01_explore_data again"):
        folder_scan.check_there(table, tmp_path)
    (tmp_path / "a" / "2.png").touch()
    folder_scan.check_there(table, tmp_path)
