"""Where do scores wait until the table is written? In a work file beside it, an SQLite database: a kill loses nothing.

Files and scores are two tables: a score belongs to content (`sha256`), so copies, renamed files and a second attempt
cost nothing. The finished table is streamed out of it and takes its name only when it is whole and on disk.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nsfwlib.files import write_whole
from nsfwlib.model import Answer
from nsfwlib.score.source import Row

FORMATS = (".parquet", ".csv", ".jsonl")
FIXED = ("path", "sha256", "frames", "predicted", "problem", "detail", "scored_by")
_ROWS = 10_000  # of the table that are in memory at a time
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files
    (position INTEGER PRIMARY KEY, path TEXT, sha256 BLOB, problem TEXT, detail TEXT, done INTEGER);
CREATE TABLE IF NOT EXISTS scores (sha256 BLOB PRIMARY KEY, frames INTEGER, scores BLOB, detail TEXT) WITHOUT ROWID;
"""


def work_file(out: Path) -> Path:
    """The database beside `out`; gone when the table is written."""
    return out.with_name(f"{out.name}.work")


def open_store(out: Path, scored_by: str, *, discard: bool = False) -> sqlite3.Connection:
    """The work file of `out`, made if need be.

    Args:
        scored_by: what shapes a score (model, number of frames), kept with each row.
        discard: forget the scores of another model instead of refusing to go on.

    Raises:
        ValueError: the work file was begun with another model or other frames.
        sqlite3.Error: it cannot be written, or another process is writing it.
    """
    store = sqlite3.connect(work_file(out), timeout=1, check_same_thread=False)
    try:
        store.execute("PRAGMA locking_mode=EXCLUSIVE")
        store.executescript(_TABLES)
        store.execute("INSERT OR IGNORE INTO about VALUES ('scored_by', ?)", [scored_by])
        begun = store.execute("SELECT value FROM about WHERE name = 'scored_by'").fetchone()[0]
        if begun != scored_by and discard:
            store.execute("DELETE FROM scores")
            store.execute("UPDATE about SET value = ?", [scored_by])
        elif begun != scored_by:
            raise ValueError(
                f"{work_file(out)} was begun with another model or other frames. Expected {scored_by}. Received: "
                f"{begun}. Go on with that model, or start over with overwrite=True."
            )
        store.commit()
    except BaseException:
        store.close()
        raise
    return store


def add_files(store: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Note what is to be scored, in order, in place of an earlier call's files. A row with a problem is done."""
    store.execute("DELETE FROM files")
    numbered = ((i, path, problem, detail, problem != "") for i, (path, problem, detail) in enumerate(rows))
    store.executemany("INSERT INTO files VALUES (?, ?, NULL, ?, ?, ?)", numbered)
    store.commit()


def count_files(store: sqlite3.Connection) -> tuple[int, int]:
    """Files in all, and those that need nothing more."""
    return store.execute("SELECT COUNT(*), COALESCE(SUM(done), 0) FROM files").fetchone()


def todo(store: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """(position, path) of the files that are not done when they are reached."""
    last = -1
    query = "SELECT position, path FROM files WHERE NOT done AND position > ? ORDER BY position LIMIT 1000"
    while rows := store.execute(query, [last]).fetchall():
        yield from rows
        last = rows[-1][0]


def left_open(store: sqlite3.Connection, count: int) -> list[str]:
    """Paths of the first files, at most so many, that an earlier call had no answer for."""
    query = "SELECT path FROM files WHERE NOT done ORDER BY position LIMIT ?"
    return [path for (path,) in store.execute(query, [count])]


def todo_of(store: sqlite3.Connection, paths: Sequence[str]) -> list[tuple[int, str]]:
    """(position, path) of those of `paths` that are to be scored."""
    query = "SELECT position, path FROM files WHERE NOT done AND path IN (SELECT value FROM json_each(?))"
    return store.execute(query, [json.dumps(list(paths))]).fetchall()


class Known:
    """The contents that are scored, as a container of sha256."""

    def __init__(self, store: sqlite3.Connection) -> None:
        self.store = store

    def __contains__(self, sha256: str) -> bool:
        query = "SELECT 1 FROM scores WHERE sha256 = ?"
        return self.store.execute(query, [bytes.fromhex(sha256)]).fetchone() is not None

    def __len__(self) -> int:
        return self.store.execute("SELECT COUNT(*) FROM scores").fetchone()[0]


def add_answers(store: sqlite3.Connection, answers: Sequence[Answer]) -> None:
    """Keep what was answered; on disk with the next commit. An answer that comes twice is kept once."""
    contents, files = [], []
    for answer in answers:
        sha256 = bytes.fromhex(answer.sha256)
        if answer.values is not None:
            scores = np.concatenate(answer.values).astype(np.float32).tobytes()
            contents.append((sha256, answer.frames, scores, answer.detail))
        files.append((sha256, answer.problem, answer.detail if answer.problem else "", answer.position))
    store.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", contents)
    store.executemany("UPDATE files SET sha256 = ?, problem = ?, detail = ?, done = 1 WHERE position = ?", files)


def add_finished(store: sqlite3.Connection, out: Path, class_names: Sequence[str], scored_by: str) -> None:
    """Take over the scores of a finished table.

    Raises:
        ValueError: it is no table of this kit's, or another model or other frames made it.
    """
    for part in read_parts(out):
        found = part.get("scored_by", pd.Series(["no such column"]))
        others = found[found.ne(scored_by)]
        if len(others):
            raise ValueError(
                f"{out} was scored by another model or with other frames. Expected scored_by {scored_by}. "
                f"Received: {others.iloc[0]}. Choose another out, or replace it with overwrite=True (--overwrite)."
            )
        columns = [*class_names, *(f"{name}_max" for name in class_names)]
        part = part[part["problem"].eq("")]  # a reader installed since may solve a problem
        values = part[columns].to_numpy(np.float32)
        store.executemany(
            "INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)",
            (
                (bytes.fromhex(sha256), int(frames), row.tobytes(), detail)
                for sha256, frames, row, detail in zip(
                    part["sha256"], part["frames"], values, part["detail"], strict=True
                )
            ),
        )
    store.commit()


def score_tables(store: sqlite3.Connection, class_names: Sequence[str], scored_by: str) -> Iterator[pa.Table]:
    """The finished table, some thousand rows at a time, in the order of the source."""
    query = """SELECT path, files.sha256, frames, scores, problem, files.detail || coalesce(scores.detail, '')
        FROM files LEFT JOIN scores USING (sha256) ORDER BY position"""
    cursor = store.execute(query)
    while rows := cursor.fetchmany(_ROWS):
        yield _table(rows, list(class_names), scored_by)


def _table(rows: list[tuple], class_names: list[str], scored_by: str) -> pa.Table:
    paths, contents, frames, scores, problems, details = zip(*rows, strict=True)
    width = 2 * len(class_names)
    none = np.full(width, np.nan, np.float32)
    values = np.stack([np.frombuffer(score, np.float32) if score else none for score in scores])
    best = values[:, : len(class_names)].argmax(axis=1)
    predicted = [class_names[i] if score else "" for i, score in zip(best, scores, strict=True)]
    columns = {
        "path": pa.array(paths, pa.string()),
        "sha256": pa.array([(sha256 or b"").hex() for sha256 in contents], pa.string()),
        "frames": pa.array([count or 0 for count in frames], pa.int32()),
    }
    names = [*class_names, *(f"{name}_max" for name in class_names)]
    columns |= {name: pa.array(values[:, i]) for i, name in enumerate(names)}
    columns |= {
        "predicted": pa.array(predicted, pa.string()),
        "problem": pa.array(problems, pa.string()),
        "detail": pa.array(details, pa.string()),
        "scored_by": pa.array([scored_by] * len(rows), pa.string()),
    }
    return pa.table(columns)


def write_scores(parts: Iterator[pa.Table], out: Path) -> None:
    """Write the table whole or not at all, in the format of its suffix, and onto the disk."""
    with write_whole(out) as draft, draft.open("wb") as file:
        _WRITERS[out.suffix](parts, file)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(parts: Iterator[pa.Table], file: object) -> None:
    first = next(parts)
    with pq.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for part in parts:
            writer.write_table(part)


def _write_csv(parts: Iterator[pa.Table], file: object) -> None:
    for i, part in enumerate(parts):
        part.to_pandas().to_csv(file, index=False, header=i == 0, mode="wb", encoding="utf-8")


def _write_jsonl(parts: Iterator[pa.Table], file: object) -> None:
    for part in parts:
        rows = ({k: v if v == v else None for k, v in row.items()} for row in part.to_pylist())  # JSON has no NaN
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}


def read_parts(out: Path) -> Iterator[pd.DataFrame]:
    """A finished table, some thousand rows at a time."""
    texts = dict.fromkeys(FIXED, str) | {"frames": int}
    if out.suffix == ".parquet":
        with pq.ParquetFile(out) as file:
            yield from (batch.to_pandas() for batch in file.iter_batches(_ROWS))
    elif out.suffix == ".csv":
        with pd.read_csv(out, chunksize=_ROWS, dtype=texts, keep_default_na=False, na_values={}) as parts:
            yield from (part.apply(_numbers) for part in parts)
    else:
        with out.open(encoding="utf-8") as file:
            while lines := list(itertools.islice(file, _ROWS)):
                yield pd.DataFrame(map(json.loads, lines)).apply(_numbers)


def _numbers(column: pd.Series) -> pd.Series:
    return column if column.name in FIXED else pd.to_numeric(column, errors="coerce").astype(np.float32)


def read_scores(out: Path) -> pd.DataFrame:
    """A finished table as a whole."""
    return pd.concat(read_parts(out), ignore_index=True)


def check_columns(class_names: Sequence[str]) -> list[str]:
    """The class names, if a table of scores can have columns called so.

    Raises:
        ValueError: one is called like another column.
    """
    columns = [*class_names, *(f"{name}_max" for name in class_names), *FIXED]
    clash = sorted({name for name in columns if columns.count(name) > 1})
    if clash:
        raise ValueError(f"No class can be called like another column of the table. Rename: {', '.join(clash)}.")
    return list(class_names)
