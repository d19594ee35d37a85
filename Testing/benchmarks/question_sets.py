#!/usr/bin/env python3
"""Public question sets: is each scan that a public repository holds read right, or refused with a sentence?

    pip install nibabel pynrrd
    python Testing/benchmarks/question_sets.py FOLDER [SET ...] --keep answers.json --write Testing/question_sets.md

FOLDER holds checkouts, one folder a set, such as dcm_qa*, nibabel, pynrrd, pydicom, pydicom-data. A set with In/ and
Ref/ (dcm_qa*) publishes its answers: NIfTI files made by dcm2niix and looked through by its authors; every series of
In/ is read, and its first, middle and last volume must be there in Ref/, every voxel at its position. Where Ref/ lacks
an answer, `--dcm2niix PROGRAM` makes one. Every file of the other sets that looks like a
volume is held against nibabel (NIfTI, ANALYZE), pynrrd (NRRD) or ITK (DICOM). Nothing is left out in silence: each case
is right, refused, wrong or without an answer. `--keep` remembers sets that are done.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from CycleINRLib.errors import CycleINRError  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io import dicomread  # noqa: E402
from CycleINRLib.io.files import list_series, read  # noqa: E402
from CycleINRLib.io.headers import is_dicom  # noqa: E402

SAME_MM = 0.02  # positions: answers hold their matrix in 32-bit floats
SAME_VALUE = 1e-4  # of the range of values
SHAPELESS = (
    ".par",
    ".mnc",
    ".mgz",
    ".head",
    ".rec",
    ".gii",
    ".trk",
    ".tck",
    ".brik",
)  # other formats, named as refused
VOLUMES = (".nii", ".nii.gz", ".hdr", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", *SHAPELESS)
RIGHT, REFUSED, WRONG, NO_ANSWER, LEFT_OUT = "right", "refused", "wrong", "no answer", "left out"
BYSTANDER = "bystander, left out with a warning: "
Case = tuple[str, str, str]  # what, result, remark


@dataclass
class Answer:
    """A volume or a row of volumes as another program has them."""

    name: str
    values: np.ndarray  # (i, j, k) or (i, j, k, t)
    matrix: np.ndarray  # (4, 4) voxel to RAS

    @property
    def count(self) -> int:
        return 1 if self.values.ndim == 3 else self.values.shape[3]


def difference(volume: Volume, answer: Answer) -> str:
    """ "" where some volume of the answer holds the same values at the same positions; else what differs."""
    turn = np.linalg.inv(answer.matrix) @ volume.geometry.ijk_to_ras
    shape = np.array(volume.values.shape[::-1])
    for axis in np.flatnonzero(shape == 1):  # the spacing of one slice is any
        turn[:3, axis] = np.where(np.arange(3) == np.abs(turn[:3, axis]).argmax(), np.sign(turn[:3, axis]), 0)
    whole = np.rint(turn)
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    ends = np.vstack([ends, np.ones(ends.shape[1])])
    off = float(np.linalg.norm((answer.matrix @ (turn - whole) @ ends)[:3], axis=0).max())
    if not np.array_equal(np.sort(np.abs(whole[:3, :3]), axis=0)[-1], [1, 1, 1]) or off > max(
        SAME_MM, 1e-3 * max(volume.spacing_mm)
    ):
        return f"positions differ by {off:.3g} mm"
    axes = np.abs(whole[:3, :3]).argmax(1)  # axis of ours for each of the answer's
    ours = np.transpose(volume.values.T, axes)
    for axis in range(3):
        if whole[axis, axes[axis]] < 0:
            ours = np.flip(ours, axis)
    if ours.shape != answer.values.shape[:3]:
        return f"shape {ours.shape}, not {answer.values.shape[:3]}"
    corner = np.rint(turn @ np.append(shape - 1, 1.0))[:3], whole[:3, 3]
    if np.abs(np.minimum(*corner)).max() > 0:
        return "positions differ by whole voxels"
    best = np.inf
    for t in range(answer.count):
        theirs = answer.values if answer.values.ndim == 3 else answer.values[..., t]
        theirs = np.asarray(theirs, float)
        known = np.isfinite(theirs)
        if not np.array_equal(known, np.isfinite(ours)):
            return "values differ in what is NaN or infinite"
        span = max(float(np.ptp(theirs[known])) if known.any() else 0.0, 1e-9)
        worst = float(np.abs(ours[known] - theirs[known]).max(initial=0.0)) / span
        if worst <= SAME_VALUE:
            return ""
        if (scale := _scale(ours, theirs, span)) is not None:
            return f"~{scale}"
        for axis in range(3):
            if float(np.abs(np.flip(ours, axis)[known] - theirs[known]).max(initial=0.0)) / span <= SAME_VALUE:
                return f"values are those of the answer mirrored along its axis {'ijk'[axis]}"
        best = min(best, worst)
    return f"values differ by {best:.3g} of their range"


def _scale(ours: np.ndarray, theirs: np.ndarray, span: float) -> str | None:
    """A slope and intercept that make the values equal everywhere: another unit of the same numbers."""
    a, b = ours.ravel()[::7].astype(float), theirs.ravel()[::7]
    if not (np.isfinite(a).all() and np.isfinite(b).all() and np.ptp(a) > 0):
        return None
    slope, intercept = np.polyfit(a, b, 1)
    if slope > 0 and np.abs(ours * slope + intercept - theirs).max() <= 10 * SAME_VALUE * span:
        return f"right; the answer has them times {slope:.4g}" + (
            f" plus {intercept:.4g}" if abs(intercept) > 1e-3 * span else ""
        )
    return None


# --- sets with In/ and Ref/ -----------------------------------------------------------------------------------
def of_nifti(folder: Path) -> list[Answer]:
    import nibabel

    found = []
    for path in sorted([*folder.rglob("*.nii"), *folder.rglob("*.nii.gz")]):
        with contextlib.suppress(Exception):  # an answer that cannot be read is none
            image = nibabel.load(path)
            values = image.dataobj
            shape = image.shape
            if np.dtype(values.dtype).kind not in "iufb":
                continue  # color or complex
            if len(shape) in (3, 4):
                found.append(Answer(path.name, _Lazy(values, shape), image.affine))
            elif len(shape) == 2:
                found.append(Answer(path.name, _Lazy(values, (*shape, 1)), image.affine))
    return found


class _Lazy:
    """Voxels that are read when they are asked for, volume by volume."""

    def __init__(self, proxy: Any, shape: tuple[int, ...]) -> None:
        self._proxy, self.shape, self.ndim = proxy, shape, len(shape)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self._proxy, dtype).reshape(self.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._proxy[key])


def series_cases(folder: Path, dcm2niix: str | None) -> Iterator[Case]:
    """Each series below In/ against Ref/."""
    dicomread.contents_of = functools.cache(dicomread.contents_of)  # headers are examined once, not for each series
    answers = of_nifti(folder / "Ref")
    with tempfile.TemporaryDirectory() as made, _unpacked(folder / "In") as source:
        try:
            listed = list_series(source)
        except CycleINRError as error:
            yield "In", REFUSED, str(error)
            return
        yield from _bystanders(source)
        more: list[Answer] | None = None
        for series in listed:
            name = f"{series.number or ''} {series.description or ''}".strip() or series.uid
            result, remark = _series_case(source, series.uid, answers)
            if result in (WRONG, NO_ANSWER) and dcm2niix:
                if more is None:
                    command = [dcm2niix, "-z", "n", "-b", "n", "-f", "%s_%d_%j", "-o", made, str(source)]
                    subprocess.run(command, capture_output=True, check=False)
                    more = of_nifti(Path(made))
                second = _series_case(source, series.uid, more)
                if second[0] == RIGHT:
                    result, remark = second[0], f"{second[1]}; by dcm2niix run here, none published".strip("; ")
            yield f"{name} ({series.modality}, {series.slices} images)", result, remark


@contextlib.contextmanager
def _unpacked(folder: Path) -> Iterator[Path]:
    """The folder, or a copy in which what it holds as .gz is unpacked."""
    packed = list(folder.rglob("*.gz"))
    if not packed:
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / folder.name
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.gz"))
        for path in packed:
            (target / path.relative_to(folder)).with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        yield target


def _bystanders(source: Path) -> Iterator[Case]:
    contents = dicomread.contents_of(source)
    for one in contents.damaged:
        yield one.file.name, REFUSED, str(one.refused())
    for text, count in Counter(other.partition(" (")[2].rstrip(")") for other in contents.others).items():
        yield f"{count} file(s)", REFUSED, f"{BYSTANDER}{text}"


def _series_case(source: Path, uid: str, answers: list[Answer]) -> tuple[str, str]:
    try:
        volumes = [read(source, series=uid)]
    except CycleINRError as error:
        count = _frames(source, uid)
        if count < 2:
            return REFUSED, str(error)
        chosen, volumes, refused = sorted({0, count // 2, count - 1}), [], ""
        for frame in chosen:
            try:
                volumes.append(read(source, series=uid, frame=frame))
            except CycleINRError as of_frame:
                refused = str(of_frame)
        if not volumes:
            return REFUSED, refused
        remark = f"4D: volumes {', '.join(map(str, chosen))} of {count}"
        results = [_held_against(volume, answers) for volume in volumes]
        worst = next((one for kind in (WRONG, NO_ANSWER) for one in results if one[0] == kind), results[0])
        told = f"{remark}; {worst[1]}".strip("; ") + (f"; one refused: {refused}" if refused else "")
        return worst[0], told
    return _held_against(volumes[0], answers)


def _frames(source: Path, uid: str) -> int:
    with contextlib.suppress(CycleINRError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planes = [p for p in dicomread.contents_of(source).planes if p.facts.uid == uid]
        return len(dicomread.volumes_of(planes))
    return 0


def _held_against(volume: Volume, answers: list[Answer]) -> tuple[str, str]:
    """Right where one answer agrees; wrong where one of the same positions holds other values."""
    shape = sorted(volume.values.shape)
    near = ""
    for answer in answers:
        if sorted(answer.values.shape[:3]) != shape:
            continue
        found = difference(volume, answer)
        if not found:
            return RIGHT, ""
        if found.startswith("~"):
            return RIGHT, found[1:].removeprefix("right; ")
        if found.startswith("values") and "mirrored" not in near:
            near = f"{found}, {answer.name}"
    if near:
        return WRONG, near
    same = [answer.name for answer in answers if sorted(answer.values.shape[:3]) == shape]
    return (
        NO_ANSWER,
        "none of this shape is published" if not same else f"none at these positions: {', '.join(same[:3])}",
    )


# --- sets of single files -------------------------------------------------------------------------------------
def file_cases(folder: Path, dcm2niix: str | None = None) -> Iterator[Case]:
    """Each file that looks like a volume against the program that the set belongs to."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.name.lower().endswith(VOLUMES) or _looks_like_dicom(path)):
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield str(path.relative_to(folder)), *_alone(path, dcm2niix)


def _alone(path: Path, dcm2niix: str | None) -> tuple[str, str]:
    """A DICOM file is a question of its own: without the other files of its series beside it."""
    if path.stat().st_size < 132 or not is_dicom(path):
        return _file_case(path, dcm2niix)
    with tempfile.TemporaryDirectory() as folder:
        return _file_case(Path(shutil.copy(path, folder)), dcm2niix)


def _looks_like_dicom(path: Path) -> bool:
    return not path.suffix and path.stat().st_size > 132 and is_dicom(path)


def _file_case(path: Path, dcm2niix: str | None) -> tuple[str, str]:
    remark, volume = "", None
    try:
        volume = read(path)
    except CycleINRError as error:
        with contextlib.suppress(CycleINRError):
            volume, remark = read(path, frame=0), f"4D ({error.found[:60]}...): volume 0"
        if volume is None:
            return REFUSED, str(error)
        if dcm2niix and is_dicom(path):  # ITK knows no 4D DICOM
            with tempfile.TemporaryDirectory() as made:
                command = [dcm2niix, "-z", "n", "-b", "n", "-s", "y", "-f", "%s_%j", "-o", made, str(path)]
                subprocess.run(command, capture_output=True, check=False)
                found = _held_against(volume, of_nifti(Path(made)))
                return found[0], "; ".join(filter(None, (remark, found[1], "by dcm2niix run here")))
    try:
        answer = _answer_of(path, volume)
    except Exception as error:  # what others cannot read either has no answer
        return (
            NO_ANSWER,
            f"the other program says: {_last_line(error).replace(f'{path.parent}/', '')[:120]}",
        )
    found = difference(volume, answer)
    if not found or found.startswith("~"):
        return RIGHT, "; ".join(filter(None, (remark, found.removeprefix("~right; "))))
    return WRONG, "; ".join(filter(None, (remark, found, answer.name)))


def _last_line(error: Exception) -> str:
    return str(error).splitlines()[-1] if str(error) else type(error).__name__


def _answer_of(path: Path, volume: Volume) -> Answer:
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz", ".hdr", ".img")) and not is_dicom(path):
        import nibabel

        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
        return Answer(
            "nibabel", values.reshape((*values.shape, 1, 1)[:3] if values.ndim < 3 else values.shape[:4]), image.affine
        )
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    if name.endswith((".nrrd", ".nhdr")):
        import nrrd

        values, header = nrrd.read(str(path))
        return Answer("pynrrd", values, _matrix_of_nrrd(header))
    image = SimpleITK.ReadImage(str(path))
    return Answer("ITK", SimpleITK.GetArrayFromImage(image).T, _matrix_of(image))


def _matrix_of_nrrd(header: dict[str, Any]) -> np.ndarray:
    matrix = np.eye(4)
    if "space directions" in header:
        matrix[:3, :3] = np.array(header["space directions"], float)[:3].T
    elif "spacings" in header:
        matrix[:3, :3] = np.diag(header["spacings"][:3])
    matrix[:3, 3] = header.get("space origin", np.zeros(3))
    signs = [1.0 if word in ("right", "anterior", "superior") else -1.0 for word in header.get("space", "").split("-")]
    return np.diag([*signs, 1.0] if len(signs) == 3 else [-1.0, -1, 1, 1]) @ matrix


def _matrix_of(image: Any) -> np.ndarray:
    size = image.GetDimension()
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(size, size)
    matrix[:3, :3] = (direction * np.array(image.GetSpacing()))[:3, :3]
    matrix[:3, 3] = image.GetOrigin()[:3]
    return np.diag([-1.0, -1, 1, 1]) @ matrix


# --- all of them ----------------------------------------------------------------------------------------------
def table_of(found: dict[str, list[Case]]) -> str:
    """A row for each set; then one for each sentence that was shown, and one for each case without a right answer."""
    kinds = (RIGHT, REFUSED, WRONG, NO_ANSWER, LEFT_OUT)
    lines = [f"| set | {' | '.join(kinds)} |", "| --- |" + " --- |" * len(kinds)]
    total: Counter = Counter()
    for name, cases in sorted(found.items()):
        count = Counter(map(_kind, cases))
        total += count
        lines.append(f"| {name} | " + " | ".join(str(count[kind]) for kind in kinds) + " |")
    lines.append("| **all** | " + " | ".join(f"**{total[kind]}**" for kind in kinds) + " |")
    every = [(name, case) for name, cases in sorted(found.items()) for case in cases]
    right = [case[2] for _, case in every if case[1] == RIGHT]
    units, made = ("the answer has them times" in told for told in right), ("by dcm2niix run" in told for told in right)
    lines += ["", f"Of the right ones {sum(made)} by dcm2niix run here, {sum(units)} in another unit.", ""]
    lines += ["| result | sentence | cases | sets | the first |", "| --- | --- | --- | --- | --- |"]
    told: dict[tuple[str, str], list[tuple[str, Case]]] = {}
    for name, case in every:
        if (kind := _kind(case)) in (REFUSED, LEFT_OUT):
            sentence = re.sub(r"Found: .*? Next:", "... Next:", case[2]).removeprefix(BYSTANDER)
            told.setdefault((kind, sentence), []).append((name, case))
    for (kind, sentence), some in sorted(told.items(), key=lambda item: (item[0][0], -len(item[1]))):
        sets = ", ".join(f"{name} {n}" for name, n in Counter(name for name, _ in some).items())
        lines.append(f"| {kind} | {_plain(sentence)} | {len(some)} | {sets} | {_plain(some[0][1][0])} |")
    for name, (what, result, remark) in every:
        if result in (WRONG, NO_ANSWER):
            lines.append(f"| {result} | {_plain(remark)} | 1 | {name} | {_plain(what)} |")
    return "\n".join(lines) + "\n"


def _kind(case: Case) -> str:
    """What is left out beside a scan, with a warning, is no refusal of a scan."""
    return LEFT_OUT if case[2].startswith(BYSTANDER) else case[1]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sets", nargs="*", help="only these")
    parser.add_argument("--keep", type=Path, help="JSON of the sets that are done")
    parser.add_argument("--write", type=Path, help="put the table into this Markdown file, below its line of dashes")
    parser.add_argument("--dcm2niix", help="a program that makes answers where none is published")
    options = parser.parse_args()
    found = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    for folder in sorted(path for path in options.folder.iterdir() if path.is_dir()):
        if folder.name in found or (options.sets and folder.name not in options.sets):
            continue
        cases = list(
            series_cases(folder, options.dcm2niix) if (folder / "In").is_dir() else file_cases(folder, options.dcm2niix)
        )
        cases = cases or [("all", NO_ANSWER, "this checkout holds no image")]
        found[folder.name] = cases
        print(folder.name, dict(Counter(result for _, result, _ in cases)), file=sys.stderr, flush=True)
        if options.keep:
            options.keep.write_text(json.dumps(found, indent=1))
    table = table_of(found)
    if options.write:
        head = options.write.read_text("utf-8").partition("\n---\n")[0]
        options.write.write_text(f"{head}\n---\n\n{table}", "utf-8")
    else:
        print(table)


if __name__ == "__main__":
    main()
