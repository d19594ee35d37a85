"""One scan of a batch, done by a worker: read, upsample, write into a folder of its own, put in place (floor 4)."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, CycleINRError, RequestError, ResourceError
from ..io.headers import is_dicom
from ..jobs import UpsampleJob
from ..wholefile import write_text
from .order import PLACING, Order, Outcome, remove, told
from .privacy import Scrub
from .turns import Quiet, Turn, Turns, is_large

if TYPE_CHECKING:
    from ..imaging.volume import Volume

FIGURES = (
    "z_scale", "snli", "snli_detrended", "generated_gap", "noise_ratio", "grain", "noise_taken", "gain",
    "noise", "consistency", "self_check", "device", "precision", "seconds", "peak_memory_mb", "warnings",
)  # fmt: skip
TURNS, UNHEARD = Turns(), Quiet()  # of this process
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # then no other scan would do better


def do_scan(order: Order) -> Outcome:
    """Does what is ordered; whatever goes wrong with the scan is told, not raised.

    What is in the folder afterwards is the whole result, or nothing new.
    """
    started = time.monotonic()
    scrub = Scrub.of(order)
    try:
        with UNHEARD:
            outcome = _done(order, scrub)
    except Cancelled:
        outcome = Outcome(order.scan, "stopped")
    except CycleINRError as error:
        halt = _is_disk(error)
        outcome = Outcome(order.scan, "failed", error=scrub.error(told(error)), again=_passes(error), halt=halt)
    except Exception as error:
        outcome = Outcome(order.scan, "failed", error=scrub.error(told(_as_error(error))), again=True)
    finally:
        shutil.rmtree(order.staging, ignore_errors=True)
        _remove_empty(Path(order.job["output"]).parent, Path(order.folder))
    return dataclasses.replace(outcome, seconds=round(time.monotonic() - started - outcome.waited, 3))


def _done(order: Order, scrub: Scrub) -> Outcome:
    _check_order(order)
    job = UpsampleJob.from_json(order.job)
    source_path, output = Path(str(job.input)), Path(str(job.output))
    _check_inside(output, Path(order.folder))
    stamp = stamp_of(source_path)
    alone = order.alone or is_large(source_path, int(stamp.split()[1]) if stamp else 0)
    with contextlib.ExitStack() as stack:
        with _disk(order.staging):
            turn = stack.enter_context(TURNS.stay(order.staging, alone, order.is_wanted))
        outcome = _upsampled(order, job, stamp, scrub, turn)
    return dataclasses.replace(outcome, waited=turn.waited_s)


def _upsampled(order: Order, job: UpsampleJob, stamp: str | None, scrub: Scrub, turn: Turn) -> Outcome:
    source_path, output = Path(str(job.input)), Path(str(job.output))
    from ..imaging.volume import choose_slice_axis
    from ..io.files import check_output, read

    source = read(source_path, frame=job.frame)
    digest = hash_of(source)
    if order.hash == digest:
        return Outcome(order.scan, "same", {"stamp": stamp})
    output.parent.mkdir(parents=True, exist_ok=True)
    like = read(job.like) if job.like else None
    geometry, axis = (like or source).geometry, choose_slice_axis(source)
    known: dict[str, Any] = {"geometry": geometry, "modality": source.modality, "slice_axis": axis}
    check_output(output, overwrite=job.overwrite, inputs=[source_path], dicom=job.dicom, **known)
    from ..upsampling.upsample import upsample  # torch: not before the input is known to be good

    with turn.computing():
        result = upsample(source, job, like=like, cancelled=lambda: not order.is_wanted())
    report = scrub.report({**result.report, "batch": order.token})
    with turn.writing():
        made = _write(order, job, source, result.volume, report)
        small = _thumbnail(source, result.volume, report) if order.thumbnail else None
    if not order.is_wanted():
        raise Cancelled
    _put(made, order.staging)
    row = {
        "hash": digest,
        "stamp": stamp,
        "output_bytes": bytes_of(output),
        "figures": {name: report[name] for name in FIGURES if name in report},
    }
    return Outcome(order.scan, "done", row, thumbnail=small)


def _check_order(order: Order) -> None:
    from .. import __version__

    if order.version != __version__:
        found = f"{__version__}, the command runs {order.version}"
        raise RequestError("The worker has another version of CycleINR", found, "install the same one everywhere")
    if not order.is_wanted():
        raise Cancelled


def _check_inside(output: Path, folder: Path) -> None:
    """No name of an input, and no link in the folder, leads a result elsewhere."""
    if folder.resolve() not in output.parent.resolve().parents and output.parent.resolve() != folder.resolve():
        raise RequestError("The output leads out of the folder", str(output), "remove the link in the folder")


def _write(
    order: Order, job: UpsampleJob, source: Volume, output: Volume, report: dict[str, Any]
) -> list[tuple[Path, Path]]:
    """Everything that is asked for, in the staging folder: (there, its path), the report last."""
    final = Path(str(job.output))
    made = [(order.staging / final.name, final)]
    if job.dicom:
        from ..io.dicomwrite import write_series

        form = {"enhanced": job.enhanced, "compress": job.compress}
        write_series(output, Path(str(job.input)), made[0][0], report, **form)
    else:
        from ..io.files import write

        write(output, made[0][0])
    if job.picture:
        from ..pictures.planes import coronal_comparison

        path = Path(job.picture)
        coronal_comparison(order.staging / path.name, source, output, report)
        made.append((order.staging / path.name, path))
    path = Path(str(job.report))
    text = json.dumps(report, indent=2, allow_nan=False)
    with _disk(path):
        write_text(order.staging / path.name, text + "\n")
    return [*made, (order.staging / path.name, path)]


def _put(made: list[tuple[Path, Path]], staging: Path) -> None:
    """Renames what was made to its paths, all of it or nothing; the folder of a series replaces an earlier one."""
    (_, report), put = made[-1], []
    with _disk(report):
        try:
            (staging / PLACING).touch()
            report.unlink(missing_ok=True)  # of what is replaced now
            for staged, final in made:
                final.parent.mkdir(parents=True, exist_ok=True)
                if staged.is_dir() and final.exists():
                    os.replace(final, staging / f".{final.name}.before")
                os.replace(staged, final)
                put.append(final)
        except BaseException:
            for final in put:
                remove(final)
            raise


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        found = f"{path}, {error.strerror or error}"
        raise ResourceError("The output cannot be written", found, "free the disk or choose another") from error


def _thumbnail(source: Volume, output: Volume, report: dict[str, Any]) -> bytes | None:
    from .thumbnail import thumbnail

    facts = report["input"]
    return thumbnail(source, output, facts["slice_axis"], facts["modality"])


def hash_of(volume: Volume) -> str:
    """SHA-256 of the voxels and where they are: the same for the same scan in another file or format."""
    import numpy as np

    values = np.ascontiguousarray(volume.values)
    found = hashlib.sha256(f"{values.shape} {values.dtype.newbyteorder('<').str}\n".encode("ascii"))
    found.update(np.ascontiguousarray(volume.geometry.ijk_to_ras, "<f8").tobytes())
    found.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data.cast("B"))
    return found.hexdigest()


def stamp_of(path: Path) -> str | None:
    """Count, bytes and newest change of the files at a path, to tell cheaply whether they were touched."""
    try:
        if path.is_file() and is_dicom(path):  # it stands for its series
            files = [file for file in path.parent.iterdir() if file.is_file()]
        else:
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        stats = [file.stat() for file in files]
    except OSError:
        return None
    return f"{len(stats)} {sum(one.st_size for one in stats)} {max((one.st_mtime_ns for one in stats), default=0)}"


def bytes_of(path: Path) -> int | None:
    """The size of a result, of all files where it is a folder; None where it is not there."""
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.iterdir())
        return path.stat().st_size
    except OSError:
        return None


def _passes(error: CycleINRError) -> bool:
    return isinstance(error, ResourceError) and not _is_disk(error)


def _is_disk(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in DISK


def _as_error(error: Exception) -> CycleINRError:
    from ..upsampling.memory import is_out_of_memory

    if is_out_of_memory(error):
        return ResourceError("There is not enough memory", type(error).__name__, "use fewer workers")
    return CycleINRError(
        "CycleINR met an error of its own", type(error).__name__, "repeat this scan by upsample --debug"
    )


def _remove_empty(folder: Path, root: Path) -> None:
    """A scan that failed leaves no empty folders."""
    with contextlib.suppress(OSError):  # not empty
        while folder != root and root in folder.parents:
            folder.rmdir()
            folder = folder.parent
