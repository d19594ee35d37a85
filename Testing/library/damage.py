"""Inputs damaged at random, and what every parser owes for them: a value, or one typed error, at once."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_wrong
import numpy as np

from CycleINRLib.archive.manifest import MANIFEST_NAME, Manifest
from CycleINRLib.archive.summary import write_summary
from CycleINRLib.child.arrays import read_array, read_geometry, volume_of
from CycleINRLib.errors import CycleINRError, ModelError, RequestError, ResourceError, VolumeError
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import read
from CycleINRLib.io.packs import read_pack, write_pack
from CycleINRLib.jobs import UpsampleJob, read_task
from CycleINRLib.modelcard import ModelCard, read_card

DATA = Path(__file__).resolve().parents[1] / "data"
MODEL = made_wrong.REPOSITORY / "Resources" / "Models" / "light.safetensors"
NUMBERS = (b"inf", b"nan", b"-1", b"0", b"1e300", b"9" * 400, b"1e12", b"0x7f", b"5,0", b"", b"\x00", b"99999999999")
WORDS: tuple[Any, ...] = (None, True, -1, 0, 1e300, 10**400, float("nan"), "", "\0", "\ud800", "mps", [], {}, [[]], "i")
JOB = {"task": "upsample", "job": {"z_scale": 2.0, "device": "cpu", "noise": "acquired"}}
ASKED = {"z_scale": 2.0}  # of the scans of a batch
GEOMETRY = {"shape": [6, 10, 12], "ijk_to_ras": [[-2, 0, 0, 1], [0, -2, 0, 5], [0, 0, 5, 0], [0, 0, 0, 1]]}
FACTS = {**GEOMETRY, "modality": "CT", "thickness_mm": 5.0, "slice_axis": "k", "name": "a", "warnings": ["b"]}


def corpus(folder: Path) -> dict[str, bytes]:
    """One small input of each kind by its file name; the name says which parser reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    made_wrong.nrrd(
        folder / "a.nrrd", thicknesses="nan nan 5", line_skip="0", byte_skip="0", kinds="domain domain domain"
    )
    made_wrong.nifti(folder / "a.nii")
    made_wrong.nifti(folder / "b.nii.gz")
    made_wrong.metaimage(folder / "a.mha", HeaderSize="-1", DistanceUnits="mm", AnatomicalOrientation="RAI")
    made_wrong.dicom_slice(folder / "a.dcm", "1.2.3", 0.0, 1)
    np.save(folder / "a.npy", made_wrong.noise())
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    found["mf.dcm"] = (DATA / "dicom_ct_enhanced_tiny" / "mf.dcm").read_bytes()
    (length,) = struct.unpack("<Q", MODEL.read_bytes()[:8])
    found["a.safetensors"] = MODEL.read_bytes()[: 8 + length]  # the card; weights are only read where it is sound
    found |= {"a.pack": _pack(folder / "a.pack"), MANIFEST_NAME: _manifest(folder)}
    found["job.json"] = json.dumps({**JOB, "volume": FACTS}).encode()
    return found


def _pack(path: Path) -> bytes:
    values = np.arange(720, dtype=np.int16).reshape(6, 10, 12)
    facts = {"scan": "a", "license": "CC0", "held_out": False}
    volume = Volume(values, read_geometry(GEOMETRY, "volume"), "MR", thickness_mm=5.0, slice_axis="k", name="a")
    write_pack([(volume, facts)], [facts], path)
    return path.read_bytes()


def _manifest(folder: Path) -> bytes:
    manifest = Manifest.create(folder, ASKED)
    manifest.add((f"in/{name}.nrrd", name) for name in ("done", "failed", "waiting"))
    manifest.finish(1, {"output": "done.nrrd", "seconds": 2.5, "figures": {"z_scale": 2.0, "warnings": ["a"]}})
    manifest.fail(2, {"what": "a", "found": "b", "next": "c", "code": 3}, 0.5)
    manifest.commit()
    manifest.close()
    return (folder / MANIFEST_NAME).read_bytes()


def damaged(content: bytes, rng: np.random.Generator, head: int = 2000) -> bytes:
    """The content with a few bytes changed, a piece cut out or doubled, its end cut, or a number replaced."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.8:  # what is packed, else hardly any header is reached
        return gzip.compress(damaged(gzip.decompress(content), rng), 1)
    data = bytearray(content)
    head = len(content) if content[:6] == b"SQLite" else head
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(min(len(data), head))) if data else 0
        kind = rng.choice(6, p=[0.3, 0.15, 0.05, 0.1, 0.1, 0.3])
        if kind == 0:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 1:
            data[at : at + int(rng.integers(1, 12))] = bytes(
                rng.integers(0, 256, int(rng.integers(0, 12)), dtype=np.uint8)
            )
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 200))]
        elif kind == 4:
            data[at:at] = data[at : at + int(rng.integers(1, 200))]
        else:  # a word that begins with a digit, as text headers have them
            digits = [n for n in range(at, min(at + 200, len(data))) if chr(data[n]).isdigit()]
            if digits:
                end = digits[0]
                while end < len(data) and chr(data[end]) in "0123456789.eE+-":
                    end += 1
                data[digits[0] : end] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return bytes(data)


def damaged_facts(facts: Any, rng: np.random.Generator) -> Any:
    """JSON facts with one value, somewhere, replaced by another kind of thing, or left out."""
    if isinstance(facts, (dict, list)) and facts and rng.random() < 0.85:
        keys = list(facts) if isinstance(facts, dict) else list(range(len(facts)))
        key = keys[int(rng.integers(len(keys)))]
        changed = dict(facts) if isinstance(facts, dict) else list(facts)
        if rng.random() < 0.1:
            del changed[key]
        else:
            changed[key] = damaged_facts(facts[key], rng)
        return changed
    return WORDS[int(rng.integers(len(WORDS)))]


def with_facts(pack: bytes, path: Path, rng: np.random.Generator) -> Path:
    """A pack with one fact of its header of another kind, written to `path`."""
    (length,) = struct.unpack("<Q", pack[:8])
    header = json.loads(pack[8 : 8 + length])
    told = json.loads(header["__metadata__"]["pack"])
    if rng.random() < 0.7:
        header["__metadata__"]["pack"] = json.dumps(damaged_facts(told, rng))
    else:
        header = damaged_facts(header, rng)
    text = json.dumps(header).encode("utf-8", "replace")
    path.write_bytes(struct.pack("<Q", len(text)) + text + pack[8 + length :])
    return path


def use_file(path: Path) -> None:
    read(path)


def use_array(path: Path) -> None:
    read_array(path)


def use_card(path: Path) -> None:
    read_card(path)


def use_pack(path: Path) -> None:
    for scan in read_pack(path):
        float(scan.volume().values.max())


def use_manifest(path: Path) -> None:
    manifest = Manifest.open(path.parent, ASKED)
    try:
        manifest.names()
        write_summary(manifest, path.parent)
    finally:
        manifest.close()


def use_job(path: Path) -> None:
    facts = read_task(path.read_text("utf-8", "surrogateescape"))
    UpsampleJob.from_json(facts.get("job") or {})
    read_geometry(facts.get("volume"), "volume")


PARSERS: dict[str, tuple[Callable[[Path], None], tuple[type, ...]]] = {
    ".nrrd": (use_file, (VolumeError, ResourceError)),
    ".nii": (use_file, (VolumeError, ResourceError)),
    ".gz": (use_file, (VolumeError, ResourceError)),
    ".mha": (use_file, (VolumeError, ResourceError)),
    ".dcm": (use_file, (VolumeError, ResourceError)),
    ".npy": (use_array, (VolumeError,)),
    ".safetensors": (use_card, (ModelError,)),
    ".pack": (use_pack, (VolumeError,)),
    ".sqlite": (use_manifest, (RequestError,)),
    ".json": (use_job, (RequestError, VolumeError)),
}


def outcome(path: Path) -> str:
    """ "read", or the type of the error that is owed; any other error is raised: it is a fault of ours."""
    use, owed = PARSERS[path.suffix]
    try:
        use(path)
    except CycleINRError as error:
        if type(error) not in owed:
            raise AssertionError(f"{type(error).__name__} is not owed for {path.name}: {error}") from error
        assert "\n" not in str(error)
        return type(error).__name__
    return "read"


def outcome_of_card(facts: Any) -> str:
    """The same for the facts of a model card."""
    try:
        ModelCard.from_json(json.dumps(facts), "a.safetensors")
    except ModelError as error:
        return type(error).__name__
    return "read"


def outcome_of_facts(folder: Path, facts: Any) -> str:
    """The same for the facts of a job folder, whose array stands beside them."""
    try:
        text = json.dumps(facts)
        told = read_task(text)
        UpsampleJob.from_json(told.get("job") or {})
        volume_of(folder / "a.npy", told.get("volume"))
    except (RequestError, VolumeError) as error:
        return type(error).__name__
    return "read"
