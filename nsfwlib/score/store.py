"""Where do scores wait until the table is written? In a work file beside it, an SQLite database: a kill loses nothing.

A score belongs to content (`sha256`), so copies, renamed files and a second attempt cost nothing.
"""

import contextlib
import itertools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nsfwlib.files import as_before, spreadsheet_safe, write_whole
from nsfwlib.model import Answer
from nsfwlib.score.source import Row

FIXED = ("path", "sha256", "frames", "predicted", "problem", "detail", "scored_by")
_ROWS = 10_000  # of the table that are in memory at a time
_TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS files
    (position INTEGER PRIMARY KEY, path TEXT, sha256 BLOB, problem TEXT, detail TEXT, done INTEGER);
CREATE TABLE IF NOT EXISTS scores (sha256 BLOB PRIMARY KEY, frames INTEGER, scores BLOB, detail TEXT) WITHOUT ROWID;
"""
_BEGUN = "SELECT value FROM about WHERE name = 'scored_by'"


def work_file(out: Path) -> Path:
    """The database beside `out`; gone when the table is written."""
    return out.with_name(f"{out.name}.work")


def precision_before(out: Path, scored_by: str) -> str:
    """The precision of an unfinished or finished table of the model that `scored_by` is in float32; "" if none is."""
    begun = ""
    if work_file(out).exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(work_file(out), timeout=1)) as work:
            begun = work.execute(_BEGUN).fetchone()[0]
    elif out.exists():
        begun = next((str(part.get("scored_by", pd.Series([""])).iloc[0]) for part in read_parts(out)), "")
    before, same, precision = begun.partition(scored_by)
    return "" if before or not same else precision.removeprefix("-") or "float32"


class Store(sqlite3.Connection):
    """The work file of `out`, made if need be: files that are to be scored, and scores by sha256, which are `in` it.

    `scored_by` says what shapes a score (model, number of frames). A file begun with another is a ValueError, unless
    its scores are to be forgotten (`discard`).
    """

    def __init__(self, out: Path, class_names: Sequence[str], scored_by: str, *, discard: bool = False) -> None:
        super().__init__(work_file(out), timeout=1, check_same_thread=False)
        self.out, self.class_names, self.scored_by = out, class_names, scored_by
        try:
            self.execute("PRAGMA locking_mode=EXCLUSIVE")
            self.executescript(_TABLES)
            self.execute("INSERT OR IGNORE INTO about VALUES ('scored_by', ?)", [scored_by])
            begun = self.execute(_BEGUN).fetchone()[0]
            if begun != scored_by and discard:
                self.execute("DELETE FROM scores")
                self.execute("UPDATE about SET value = ?", [scored_by])
            elif begun != scored_by:
                raise ValueError(
                    f"{work_file(out)} was begun with another model or other frames. Expected {scored_by}. Received: "
                    f"{begun}. Go on with that model, or start over with overwrite=True."
                )
            self.commit()
        except BaseException:
            self.close()
            raise

    def __contains__(self, sha256: str) -> bool:
        query = "SELECT 1 FROM scores WHERE sha256 = ?"
        return self.execute(query, [bytes.fromhex(sha256)]).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (sha256.hex() for (sha256,) in self.execute("SELECT sha256 FROM scores"))

    def add_files(self, rows: Iterable[Row]) -> None:
        """Note what is to be scored, in order, in place of an earlier call's files. A row with a problem is done."""
        self.execute("DELETE FROM files")
        numbered = ((i, path, problem, detail, problem != "") for i, (path, problem, detail) in enumerate(rows))
        self.executemany("INSERT INTO files VALUES (?, ?, NULL, ?, ?, ?)", numbered)
        self.commit()

    def todo(self) -> Iterator[tuple[int, str]]:
        """(position, path) of the files that are not done when they are reached."""
        last = -1
        query = "SELECT position, path FROM files WHERE NOT done AND position > ? ORDER BY position LIMIT 1000"
        while rows := self.execute(query, [last]).fetchall():
            yield from rows
            last = rows[-1][0]

    def add_answers(self, answers: Sequence[Answer]) -> None:
        """Keep what was answered; on disk with the next commit. An answer that comes twice is kept once."""
        contents, files = [], []
        for answer in answers:
            sha256 = bytes.fromhex(answer.sha256)
            if answer.values is not None:
                scores = np.concatenate(answer.values).astype(np.float32).tobytes()
                contents.append((sha256, answer.frames, scores, answer.detail))
            files.append((sha256, answer.problem, answer.detail if answer.problem else "", answer.position))
        self.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", contents)
        self.executemany("UPDATE files SET sha256 = ?, problem = ?, detail = ?, done = 1 WHERE position = ?", files)

    def add_finished(self) -> None:
        """Take over the scores of a finished table; a ValueError where another model, or other frames, made it."""
        for part in read_parts(self.out):
            found = part.get("scored_by", pd.Series(["no such column"]))
            others = found[found.ne(self.scored_by)]
            if len(others):
                raise ValueError(
                    f"{self.out} was scored by another model or with other frames. Expected scored_by {self.scored_by}."
                    f" Received: {others.iloc[0]}. Choose another out, or replace it with overwrite=True (--overwrite)."
                )
            part = part[part["problem"].eq("")]  # a reader installed since may solve a problem
            contents, values = map(bytes.fromhex, part["sha256"]), part[_score_columns(self.class_names)].to_numpy()
            scores = map(bytes, values.astype(np.float32))
            rows = zip(contents, part["frames"].tolist(), scores, part["detail"], strict=True)
            self.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?)", rows)
        self.commit()

    def write(self, about: dict[str, Any]) -> None:
        """Write the table, whole or not at all, in the format of its suffix, and onto the disk."""
        with write_whole(self.out) as draft, draft.open("wb") as file:
            _WRITERS[self.out.suffix](self.tables(about), file)
            file.flush()
            os.fsync(file.fileno())

    def tables(self, about: dict[str, Any]) -> Iterator[pa.Table]:
        """The finished table, some thousand rows at a time, in the order of the source; `about` becomes its `attrs`."""
        query = """SELECT path, lower(hex(files.sha256)) AS sha256, coalesce(frames, 0) AS frames, scores, problem,
            files.detail || coalesce(scores.detail, '') AS detail, ? AS scored_by
            FROM files LEFT JOIN scores USING (sha256) ORDER BY position"""
        columns, names = _score_columns(self.class_names), np.array([*self.class_names, ""])
        types = dict.fromkeys(columns, pa.float32()) | {"frames": pa.int32()}
        schema = pa.schema({name: types.get(name, pa.string()) for name in (*FIXED[:3], *columns, *FIXED[3:])})
        none = np.full(len(columns), np.nan, np.float32).tobytes()
        for table in pd.read_sql_query(query, self, params=[self.scored_by], chunksize=_ROWS):
            scores = b"".join(score or none for score in table.pop("scores"))
            values = np.frombuffer(scores, np.float32).reshape(len(table), -1)
            best = np.where(np.isnan(values[:, 0]), -1, values[:, : len(names) - 1].argmax(axis=1))
            table = table.assign(predicted=names[best]).join(pd.DataFrame(values, columns=columns))
            table.attrs = dict(about)
            yield pa.Table.from_pandas(table, schema, preserve_index=False)


def _score_columns(class_names: Sequence[str]) -> list[str]:
    return [*class_names, *(f"{name}_max" for name in class_names)]


def _write_parquet(parts: Iterator[pa.Table], file: BinaryIO) -> None:
    first = next(parts)
    with pq.ParquetWriter(file, first.schema) as writer:
        for part in itertools.chain([first], parts):
            writer.write(part)


def _write_csv(parts: Iterator[pa.Table], file: BinaryIO) -> None:
    for i, part in enumerate(parts):
        text = spreadsheet_safe(part.to_pandas()).to_csv(index=False, header=i == 0, lineterminator="\n")
        file.write(text.encode())


def _write_jsonl(parts: Iterator[pa.Table], file: BinaryIO) -> None:
    for part in parts:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part.to_pylist()).encode())


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
FORMATS = tuple(_WRITERS)


def read_parts(out: Path) -> Iterator[pd.DataFrame]:
    """A finished table, some thousand rows at a time."""
    if out.suffix == ".parquet":
        with pq.ParquetFile(out) as file:
            yield from (batch.to_pandas() for batch in file.iter_batches(_ROWS))
        return
    if out.suffix == ".csv":
        texts = dict.fromkeys(FIXED, str) | {"frames": int}
        parts = pd.read_csv(out, chunksize=_ROWS, dtype=texts, keep_default_na=False, na_values={})
    else:
        options = {"dtype": False, "convert_dates": False, "precise_float": True}
        parts = pd.read_json(out, lines=True, chunksize=_ROWS, **options)
    with parts:
        for part in parts:
            part = as_before(part) if out.suffix == ".csv" else part
            numbers = part[part.columns.difference(FIXED)].apply(pd.to_numeric, errors="coerce")
            yield part.assign(**numbers.astype(np.float32))


def read_scores(out: Path) -> pd.DataFrame:
    """A finished table as a whole."""
    return pd.concat(read_parts(out), ignore_index=True)


def check_columns(class_names: Sequence[str]) -> list[str]:
    """The class names; a ValueError where one is called like another column of a table of scores."""
    columns = [*_score_columns(class_names), *FIXED]
    clash = sorted({name for name in columns if columns.count(name) > 1})
    if clash:
        raise ValueError(
            f"No class can be called like another column of the table. Rename: {', '.join(clash)}. A model that "
            "this kit did not make takes other class_names; for one of this kit, scan with a class_map and train again."
        )
    return list(class_names)
