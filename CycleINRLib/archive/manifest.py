"""What became of each scan of a batch, in SQLite beside the results (floor 4).

Only the command that holds the folder's lock writes it. A scan is `waiting`, `running`, `done` or `failed`. What is not
written yet when the command is killed is found again: a scan whose report lies in the folder is done, since its report
is put there last.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError, ResourceError
from ..jobs import parse_json

MANIFEST_NAME = "batch.sqlite"
KEY = "batch_key.sqlite"
_VERSION = 1
COMMIT_S = 1.0  # what a killed command may lose of the manifest's writing; the reports tell it again
SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE scans (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,                 -- of the results in the folder, without extension
    state TEXT NOT NULL DEFAULT 'waiting',
    tries INTEGER NOT NULL DEFAULT 0,          -- how often it was begun
    hash TEXT,                                 -- SHA-256 of the voxels and their geometry, as read
    stamp TEXT,                                -- files, bytes and newest change of the input
    output TEXT, output_bytes INTEGER, report TEXT, picture TEXT,  -- relative to the folder
    seconds REAL,                              -- of the whole scan: reading, computing, writing
    figures TEXT,                              -- of its report, JSON
    error TEXT                                 -- what, found, next, code, JSON
);
CREATE INDEX by_state ON scans (state, tries);
CREATE TABLE thumbnails (id INTEGER PRIMARY KEY, png BLOB NOT NULL);
"""
PATHS = "CREATE TABLE {schema}.paths (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE)"


@dataclass(frozen=True)
class ScanRow:
    """One scan of the manifest; `path` is that of its input."""

    id: int
    path: str
    name: str
    state: str
    tries: int
    hash: str | None
    stamp: str | None
    output: str | None
    output_bytes: int | None
    report: str | None
    picture: str | None
    seconds: float | None
    figures: dict[str, Any]
    error: dict[str, str] | None


_COLUMNS = """
    scans.id, path, name, state, tries, hash, stamp, output, output_bytes, report, picture, seconds, figures,
    error
"""


class Manifest:
    """The open manifest of a folder; use `create` or `open`.

    With a key the paths of the inputs stand in a file of their own, readable by its owner alone.
    """

    def __init__(self, folder: Path, anonymous: bool) -> None:
        self.folder, self.anonymous = folder, anonymous
        self._path = folder / MANIFEST_NAME
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._paths = "main.paths"
        self._db.execute("PRAGMA journal_mode = DELETE")  # one file, also on network disks, where WAL does not work
        self._db.execute("PRAGMA synchronous = FULL")
        if anonymous:
            key = folder / KEY
            if not key.exists():
                os.close(os.open(key, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._db.execute("ATTACH DATABASE ? AS key", (str(key),))
            self._paths = "key.paths"
        self._inode = os.stat(self._path).st_ino
        self._committed = time.monotonic()

    @classmethod
    def create(cls, folder: Path, settings: dict[str, Any], anonymous: bool = False) -> Manifest:
        """A new one, over an old one of this folder.

        Parameters
        ----------
        settings : what is asked of every scan alike
        """
        for name in (MANIFEST_NAME, KEY):
            (folder / name).unlink(missing_ok=True)
        manifest = cls(folder, anonymous)
        with manifest.telling():
            manifest._db.executescript("BEGIN;" + SCHEMA + PATHS.format(schema=manifest._paths.partition(".")[0]) + ";")
            facts = {"manifest": _VERSION, "settings": settings, "anonymous": anonymous}
            rows = [(name, json.dumps(value)) for name, value in facts.items()]
            manifest._db.executemany("INSERT INTO facts VALUES (?, ?)", rows)
            manifest.commit()
        return manifest

    @classmethod
    def open(cls, folder: Path, settings: dict[str, Any]) -> Manifest:
        """The one of an earlier command, which asked the same of its scans.

        Raises
        ------
        RequestError : no manifest of this version, its key is missing, or other settings
        """
        path = folder / MANIFEST_NAME
        try:
            with sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True) as db:
                facts = {name: parse_json(value) for name, value in db.execute("SELECT name, value FROM facts")}
            db.close()
            if facts["manifest"] != _VERSION:
                raise ValueError(f"version {facts['manifest']}")
            before, anonymous = facts["settings"], bool(facts["anonymous"])
            if not isinstance(before, dict):
                raise ValueError("its settings are none")
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error
        if anonymous and not (folder / KEY).exists():
            raise RequestError("The key of the numbers is missing", str(folder / KEY), "put it back, or --overwrite")
        differing = sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name))
        if differing:
            found = ", ".join(f"{name} {before.get(name)!r}, now {settings.get(name)!r}" for name in differing)
            raise RequestError("The batch was begun with other options", found, "give the same, or --overwrite")
        manifest = None
        try:
            manifest = cls(folder, anonymous)
            manifest._check()
        except (sqlite3.Error, ValueError) as error:
            if manifest is not None:
                manifest.close()
            raise _unreadable(path, error) from error
        return manifest

    def _check(self) -> None:
        """sqlite3.Error or ValueError where a page or a row is damaged, so that no later command meets it."""
        for name in ("main", "key") if self.anonymous else ("main",):
            (found,) = self._db.execute(f"PRAGMA {name}.quick_check(1)").fetchone()
            if found != "ok":
                raise ValueError(str(found).splitlines()[-1])
        for row in self.rows():
            texts = (row.path, row.name, row.state, *(one for one in _texts_of(row) if one is not None))
            numbers = (row.tries, *(one for one in (row.output_bytes, row.seconds) if one is not None))
            if not (
                all(isinstance(one, str) for one in texts)
                and all(isinstance(one, (int, float)) for one in numbers)
                and isinstance(row.figures, dict)
                and isinstance(row.error or {}, dict)
            ):
                raise ValueError(f"a column of scan {row.id} is of another kind")

    def close(self) -> None:
        """Writes what is left; nothing where the disk refuses, since the reports tell it again."""
        try:
            if self._db.in_transaction:
                self._db.commit()
        except sqlite3.Error:
            pass
        self._db.close()

    def telling(self) -> _Telling:
        """Within it, what SQLite says of a full, read-only or vanished disk is a ResourceError."""
        return _Telling(self)

    # --- filling ----------------------------------------------------------------------------------------------
    def add(self, scans: Iterable[tuple[str, str]]) -> int:
        """Takes (path, name) of scans that it does not know yet; how many those are."""
        with self.telling():
            self._begin()
            before = self._db.total_changes
            for path, name in scans:
                known = self._db.execute(f"SELECT 1 FROM {self._paths} WHERE path = ?", (path,)).fetchone()
                if known is None:
                    cursor = self._db.execute("INSERT INTO scans (name) VALUES (?)", (name,))
                    self._db.execute(f"INSERT INTO {self._paths} VALUES (?, ?)", (cursor.lastrowid, path))
            added = (self._db.total_changes - before) // 2
            self.commit()
        return added

    def names(self) -> dict[str, str]:
        """{path: name} of the scans that it knows."""
        return dict(self._db.execute(f"SELECT path, name FROM {self._paths} JOIN scans USING (id)"))

    # --- reading ----------------------------------------------------------------------------------------------
    def count(self) -> dict[str, int]:
        """How many scans are in each state."""
        return dict(self._db.execute("SELECT state, count(*) FROM scans GROUP BY state"))

    def rows(self, state: str | None = None, after: int = 0) -> Iterator[ScanRow]:
        """The scans in the order of their numbers; of one state, or of all."""
        asked = "" if state is None else " AND state = ?"
        query = (
            f"SELECT {_COLUMNS} FROM scans JOIN {self._paths} USING (id) WHERE scans.id > ?{asked} ORDER BY scans.id"
        )
        words = (after,) if state is None else (after, state)
        while rows := self._db.execute(f"{query} LIMIT 1000", words).fetchall():
            yield from map(_row, rows)
            words = (rows[-1][0], *words[1:])

    def row(self, scan: int) -> ScanRow | None:
        """One scan by its number."""
        query = f"SELECT {_COLUMNS} FROM scans JOIN {self._paths} USING (id) WHERE scans.id = ?"
        found = self._db.execute(query, (scan,)).fetchone()
        return None if found is None else _row(found)

    def next_waiting(self) -> ScanRow | None:
        """The scan to begin next; those that were begun before come last, in case they end the process."""
        query = f"SELECT {_COLUMNS} FROM scans JOIN {self._paths} USING (id) WHERE state = 'waiting'"
        row = self._db.execute(f"{query} ORDER BY tries, scans.id LIMIT 1").fetchone()
        return None if row is None else _row(row)

    def thumbnails(self) -> dict[int, bytes]:
        return dict(self._db.execute("SELECT id, png FROM thumbnails"))

    # --- writing ----------------------------------------------------------------------------------------------
    def begin(self, scan: int) -> None:
        """A worker gets the scan."""
        self._change("UPDATE scans SET state = 'running', tries = tries + 1 WHERE id = ?", (scan,))

    @property
    def token(self) -> str:
        """Of the command that wrote here last; it stands in the reports of its scans, too."""
        found = self._db.execute("SELECT value FROM facts WHERE name = 'token'").fetchone()
        return parse_json(found[0]) if found else ""

    @token.setter
    def token(self, token: str) -> None:
        self._change("INSERT OR REPLACE INTO facts VALUES ('token', ?)", (json.dumps(token),))

    def put_back(self, scan: int) -> None:
        """Nothing came of it yet: it waits again."""
        self._change("UPDATE scans SET state = 'waiting' WHERE id = ?", (scan,))

    def finish(self, scan: int, facts: dict[str, Any], thumbnail: bytes | None = None) -> None:
        """The scan is done; `facts` are columns."""
        facts = {**facts, "figures": json.dumps(facts["figures"], allow_nan=False)}
        columns = ", ".join(f"{name} = :{name}" for name in facts)
        self._change(f"UPDATE scans SET state = 'done', error = NULL, {columns} WHERE id = :id", {**facts, "id": scan})
        if thumbnail is not None:
            self._change("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", (scan, thumbnail))

    def put_back_failed(self) -> None:
        self._change("UPDATE scans SET state = 'waiting' WHERE state = 'failed'", ())

    def id_of(self, path: str) -> int:
        """The number of a scan that it knows."""
        return int(self._db.execute(f"SELECT id FROM {self._paths} WHERE path = ?", (path,)).fetchone()[0])

    def keep(self, scan: int, facts: dict[str, Any]) -> None:
        """The scan is what it was when its result was made; `facts` are columns."""
        columns = "".join(f", {name} = :{name}" for name in facts)
        self._change(f"UPDATE scans SET state = 'done', error = NULL{columns} WHERE id = :id", {**facts, "id": scan})

    def fail(self, scan: int, error: dict[str, str], seconds: float | None = None) -> None:
        """The scan is left out, and why."""
        words = (json.dumps(error), seconds, scan)
        self._change("UPDATE scans SET state = 'failed', error = ?, seconds = ? WHERE id = ?", words)

    def tidy(self) -> None:
        """Writes what was told, from time to time."""
        if self._db.in_transaction and time.monotonic() - self._committed > COMMIT_S:
            with self.telling():
                self.commit()

    def commit(self) -> None:
        """Writes all that was told.

        Raises
        ------
        ResourceError : the disk is full or read-only, or the folder was removed
        """
        with self.telling():
            self.check_there()
            if self._db.in_transaction:
                self._db.commit()
            self._committed = time.monotonic()

    def _change(self, query: str, words: Any) -> None:
        with self.telling():
            self._begin()
            self._db.execute(query, words)

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")

    def check_there(self) -> None:
        """A ResourceError where the file was removed: SQLite may write on into what nobody can open again."""
        try:
            there = os.stat(self._path).st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise ResourceError("The folder of the batch was removed", str(self.folder), "start the batch again")


def _texts_of(row: ScanRow) -> tuple[str | None, ...]:
    return row.hash, row.stamp, row.output, row.report, row.picture


def _unreadable(path: Path, error: Exception) -> RequestError:
    what = "The manifest of the folder cannot be read"
    return RequestError(what, f"{path}: {error}", "choose another folder, or --overwrite")


class _Telling:
    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            self._manifest.check_there()
            found = f"{self._manifest.folder / MANIFEST_NAME}: {error}"
            raise ResourceError("The manifest cannot be written", found, "free the disk, then add --resume") from error


def _row(columns: tuple[Any, ...]) -> ScanRow:
    *plain, figures, error = columns
    return ScanRow(*(*plain, parse_json(figures) if figures else {}, parse_json(error) if error else None))
