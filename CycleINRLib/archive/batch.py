"""`cycleinr batch`: every scan once, whatever happens to a worker or to this command (floor 4).

discover -> name -> manifest -> for each waiting scan: order, worker, outcome, manifest -> summary. The command finds
scans and writes the manifest; workers read inputs by path and put results in place by renaming, the report last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import CycleINRError, RequestError, ResourceError, VolumeError
from ..events import Listener, Progress, Warned
from ..io.discover import NEXT, Found, find_all, root_of
from ..jobs import UpsampleJob, parse_json
from ..wholefile import check_folder
from . import manifest as manifests
from .lock import FolderLock
from .manifest import Manifest, ScanRow
from .naming import named
from .order import STAGING, Order, Outcome, close_staging, open_staging, placing, run_file, told, undo
from .pool import Pool, pool_of
from .stop import CtrlC, stopped
from .summary import Summary, write_summary
from .task import FIGURES, bytes_of, stamp_of
from .turns import COMPANION

THUMBNAILS = 1000  # scans whose pictures the page shows
SUMMARY_S = 60.0  # the summary is written anew while the batch runs, at most so often
SUMMARY_SHARE = 20  # and so many times rarer than its writing takes
MOST_LOSSES = 20  # of a scan that waits at a worker for another one to end
TICK_S = 0.5
RESULT_FORMATS = ("nrrd", "nii.gz", "mha")


@dataclass(frozen=True)
class BatchRequest:
    """What `cycleinr batch` is asked for.

    Parameters
    ----------
    scans : files, and folders that are searched with all below them
    folder : where results, reports and the manifest go; made where it is missing
    settings : how every scan is upsampled, without paths
    kind : format of the results, one of RESULT_FORMATS; `settings.dicom` writes a series for each scan instead
    workers, scheduler : as `pool_of`
    retries : further tries of a scan whose worker ended, or that met an error that may pass
    """

    scans: tuple[Path, ...]
    folder: Path
    settings: UpsampleJob
    kind: str = "nrrd"
    pictures: bool = False
    thumbnails: bool = True
    workers: int | None = None
    scheduler: str | None = None
    resume: bool = False
    retries: int = 2
    anonymous: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler is not None:
            raise RequestError("Workers are asked for twice", "--workers and --scheduler", "keep one of them")
        if self.workers is not None and self.workers < 0:
            raise RequestError("workers must be a whole number from 0", str(self.workers), "0 means this process")
        if self.retries < 0:
            raise RequestError("retries must be a whole number from 0", str(self.retries), "give 2")

    def to_json(self) -> dict[str, Any]:
        """What must stay the same where a batch goes on."""
        left = ("task", "input", "output", "report", "picture", "series", "overwrite")
        job = {name: value for name, value in self.settings.to_json().items() if name not in left}
        return {**job, "format": self.kind, "pictures": self.pictures}


def run_batch(request: BatchRequest, tell: Listener, say: Callable[[str], None]) -> Summary:
    """Does what is asked, and gives the summary; a scan that cannot be done is in it with its reason.

    Parameters
    ----------
    tell : receives events.Progress and events.Warned
    say : receives lines for people

    Raises
    ------
    VolumeError : there is no scan
    RequestError : the folder holds a batch and neither resume nor overwrite is asked for, another command works on it
    ResourceError : the disk is full, the folder is gone, the scheduler is gone; the batch can be resumed
    Cancelled : asked to stop; the batch can be resumed
    """
    folder = request.folder
    check_folder(folder)
    if not request.scans:
        raise VolumeError("There is no scan to upsample", "nothing is named", NEXT)
    found = find_all(list(request.scans), skip=folder)
    if not found:
        raise VolumeError("There is no scan to upsample", ", ".join(map(str, request.scans)), NEXT)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        with FolderLock(folder) as lock:
            if lock.stale:
                say("An earlier command was ended before its time; this one goes on from what it left.")
            with _manifest_of(request) as manifest:
                return _Run(request, manifest, found, tell, say).do()
    except OSError as error:
        found_text = f"{folder}, {error.strerror or error}"
        raise ResourceError(
            "The folder of the batch cannot be used", found_text, "free the disk, or choose another"
        ) from error
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


@contextlib.contextmanager
def _manifest_of(request: BatchRequest) -> Iterator[Manifest]:
    there = (request.folder / manifests.MANIFEST_NAME).exists()
    if there and not request.resume and not request.settings.overwrite:
        raise RequestError(
            "The folder holds a batch already",
            str(request.folder),
            "add --resume to go on, or --overwrite to begin anew",
        )
    settings = request.to_json()
    if there and request.resume:
        manifest = Manifest.open(request.folder, settings)
    else:
        manifest = Manifest.create(request.folder, settings, request.anonymous)
    try:
        yield manifest
    finally:
        manifest.close()


class _Run:
    """One command's work on an open manifest."""

    def __init__(
        self, request: BatchRequest, manifest: Manifest, found: list[Found], tell: Listener, say: Callable[[str], None]
    ) -> None:
        self.request, self.manifest, self.tell, self.say = request, manifest, tell, say
        self.folder, self.root = request.folder.absolute(), root_of(list(request.scans))
        self.token = secrets.token_hex(8)
        self.failures: dict[int, int] = {}  # tries of this command that failed
        self.alone: set[int] = set()  # scans that get a worker to themselves
        self.losses: dict[int, int] = {}  # times that a worker ended which had not begun the scan yet
        self.halted: CycleINRError | None = None
        self.summary_due = time.monotonic() + SUMMARY_S
        self._take(found)

    def do(self) -> Summary:
        """Orders every waiting scan."""
        manifest = self.manifest
        before = manifest.count()
        if done := before.get("done"):
            self.say(f"{done} of {sum(before.values())} scans were done before")
        open_staging(self.folder, self.token)
        try:
            if before.get("waiting"):
                asked, home = self.request, self.folder / STAGING
                with pool_of(asked.workers, asked.scheduler, home, self.say) as pool, CtrlC(self.say) as stop:
                    if pool.dashboard:
                        self.say(f"dashboard     {pool.dashboard}")
                    try:
                        self._work(pool, stop)
                    except BaseException:
                        run_file(home.parent, self.token).unlink(missing_ok=True)  # what runs stops soon
                        raise
                    if stop.asked:
                        self.halted = self.halted or stopped()
        finally:
            self._settle_running()
            close_staging(self.folder)
            summary = self._summarize()
        if self.halted is not None:
            raise self.halted
        return summary

    # --- before -----------------------------------------------------------------------------------------------
    def _take(self, found: list[Found]) -> None:
        """Brings the manifest up to what is found, and to what lies in the folder."""
        manifest, known = self.manifest, self.manifest.names()
        dicom, anonymous = self.request.settings.dicom, manifest.anonymous
        scans = list(named(found, known, dicom, anonymous))
        manifest.add((str(one.path.absolute()), name) for one, name in scans)
        self._settle(manifest.token)  # what a command that was killed did not note
        for row in manifest.rows("done"):
            if self._is_touched(row):
                manifest.put_back(row.id)
        manifest.put_back_failed()
        for one in found:
            if one.problem is not None:
                error = told(one.problem)
                manifest.fail(manifest.id_of(str(one.path.absolute())), {**error, "found": ""} if anonymous else error)
        manifest.token = self.token  # with all of this, or not at all
        manifest.commit()

    def _settle(self, token: str) -> None:
        """What the command of that token left: a scan is done where its report is there, else it waits."""
        for scan, staging in placing(self.folder):
            row = self.manifest.row(scan)
            if row is not None and self._report(row, token) is None:
                undo(staging, _results(self._job(row)))
        for state in ("running", "waiting"):
            for row in self.manifest.rows(state):
                if not self._is_found_done(row, token) and state == "running":
                    self.manifest.put_back(row.id)

    def _is_found_done(self, row: ScanRow, token: str) -> bool:
        """Whether the scan's result is there, though nobody told; then it is noted."""
        report = self._report(row, token)
        if report is None:
            return False
        figures = {name: report[name] for name in FIGURES if name in report}
        bytes_now = bytes_of(Path(str(self._job(row).output)))
        self.manifest.finish(row.id, {**self._paths(row), "figures": figures, "output_bytes": bytes_now})
        return True

    def _report(self, row: ScanRow, token: str) -> dict[str, Any] | None:
        """That of a result which the command of that token completed."""
        job = self._job(row)
        report = _read(Path(str(job.report)))
        return report if token and report.get("batch") == token and Path(str(job.output)).exists() else None

    def _is_touched(self, row: ScanRow) -> bool:
        """Whether a result was removed or cut, or its input changed, since it was made."""
        if self._is_damaged(row):
            return True
        now = stamp_of(Path(row.path))
        return row.stamp is not None and now is not None and now != row.stamp

    def _is_damaged(self, row: ScanRow) -> bool:
        there = bytes_of(self.folder / str(row.output))
        gone = there is None or not (self.folder / str(row.report)).exists()
        return gone or (row.output_bytes is not None and there != row.output_bytes)

    # --- orders -----------------------------------------------------------------------------------------------
    def _job(self, row: ScanRow) -> UpsampleJob:
        """What is asked of one scan."""
        overwrite = self.request.settings.overwrite or row.output is not None  # what was made before is ours
        job = dataclasses.replace(self.request.settings, input=row.path, overwrite=overwrite)
        at = {name: path and str(self.folder / path) for name, path in self._paths(row).items()}
        return dataclasses.replace(job, output=at["output"], report=at["report"], picture=at["picture"])

    def _paths(self, row: ScanRow) -> dict[str, str | None]:
        """Output, report and picture of a scan, relative to the folder."""
        output = row.name if self.request.settings.dicom else f"{row.name}.{self.request.kind}"
        picture = f"{row.name}.png" if self.request.pictures else None
        return {"output": output, "report": f"{row.name}.json", "picture": picture}

    def _order(self, row: ScanRow) -> Order:
        job = self._job(row)
        return Order(
            scan=row.id,
            attempt=row.tries + 1,
            token=self.token,
            folder=str(self.folder),
            version=__version__,
            job=job.to_json(),
            alias=row.name if self.manifest.anonymous else None,
            root=str(self.root),
            hash=row.hash if row.output and not self._is_damaged(row) else None,
            thumbnail=self.request.thumbnails and row.id <= THUMBNAILS,
            alone=row.id in self.alone,
        )

    def _work(self, pool: Pool, stop: CtrlC) -> None:
        """Keeps the pool full until nothing waits, something halts, or someone asks to stop."""
        counts = self.manifest.count()
        total, done_before = sum(counts.values()), sum(counts.values()) - counts.get("waiting", 0)
        done, start = 0, time.monotonic()
        self.tell(Progress("batch", done_before, total))
        while True:
            while pool.running < pool.room and not stop.asked and self.halted is None:
                row = self.manifest.next_waiting()
                if row is None:
                    break
                order = self._order(row)
                self.manifest.begin(row.id)
                pool.submit(order)
            if not pool.running:
                return
            ended = pool.next(TICK_S)
            self.manifest.tidy()
            if ended is None:
                continue
            if self._note(*ended):
                done += 1
                left = total - done_before - done
                remaining = (time.monotonic() - start) / done * left
                self.tell(Progress("batch", done_before + done, total, round(remaining, 1)))
            self._summarize_now_and_then()

    def _note(self, order: Order, outcome: Outcome) -> bool:
        """Writes what came of an order; whether the scan is settled."""
        manifest, scan = self.manifest, order.scan
        if outcome.state in ("done", "same"):
            row_facts = {"output": order.job["output"], "report": order.job["report"], "picture": order.job["picture"]}
            paths = {name: path and os.path.relpath(path, self.folder) for name, path in row_facts.items()}
            if outcome.state == "same":
                manifest.keep(scan, outcome.facts)
            else:
                manifest.finish(scan, {**paths, **outcome.facts, "seconds": outcome.seconds}, outcome.thumbnail)
            return True
        if outcome.state == "stopped":
            manifest.put_back(scan)
            if not order.is_wanted():
                self.halted = ResourceError("The folder .batch was removed", str(self.folder), "add --resume to go on")
            return False
        error = outcome.error or {}
        row = manifest.row(scan)
        if row is not None and self._is_found_done(row, order.token):  # its worker was killed before it could tell
            shutil.rmtree(order.staging, ignore_errors=True)
            return True
        begun, beside = order.staging.exists(), (order.staging / COMPANION).exists()
        undo(order.staging, _results(UpsampleJob.from_json(order.job)))  # of a worker that was killed
        if outcome.state == "lost" and (beside if begun else self._is_innocent(scan)):
            self.alone |= {scan} if begun else set()  # next time: one of two scans ended the worker
            manifest.put_back(scan)
            return False
        if outcome.halt:
            manifest.put_back(scan)
            self.halted = ResourceError(error["what"], error["found"], "free the disk, then add --resume")
            return False
        self.failures[scan] = self.failures.get(scan, 0) + 1
        if outcome.again and self.failures[scan] <= self.request.retries:
            manifest.put_back(scan)
            return False
        manifest.fail(scan, error, outcome.seconds)
        name = order.alias or order.job["input"]
        self.tell(Warned(f"{name} is left out: {error['what'][0].lower()}{error['what'][1:]} ({error['found']})."))
        return True

    def _is_innocent(self, scan: int) -> bool:
        """Whether a scan that was never begun may be lost with its worker once more, without counting as tried."""
        self.losses[scan] = self.losses.get(scan, 0) + 1
        return self.losses[scan] <= MOST_LOSSES

    # --- after ------------------------------------------------------------------------------------------------
    def _settle_running(self) -> None:
        """What workers had when all was stopped is done or waits."""
        run_file(self.folder, self.token).unlink(missing_ok=True)  # those elsewhere stop, too
        with contextlib.suppress(CycleINRError):  # then the next command does it
            self._settle(self.token)
            self.manifest.commit()

    def _summarize(self) -> Summary:
        try:
            return write_summary(self.manifest, self.folder)
        except (OSError, CycleINRError) as error:
            if self.halted is None:
                raise
            self.tell(Warned(f"The summary is not written: {error}"))
            return Summary({}, [], ())

    def _summarize_now_and_then(self) -> None:
        if time.monotonic() > self.summary_due:
            start = time.monotonic()
            self.manifest.commit()
            self._summarize()
            self.summary_due = time.monotonic() + max(SUMMARY_S, SUMMARY_SHARE * (time.monotonic() - start))


def _results(job: UpsampleJob) -> list[Path]:
    """All that a scan's worker puts in place."""
    return [Path(place) for place in (job.output, job.picture, job.report) if place]


def _read(report: Path) -> dict[str, Any]:
    try:
        facts = parse_json(report.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
