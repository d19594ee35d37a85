"""Every line of the error table (design section 7) through the shell's front door.

Each wrong request ends with its exit status, exactly one error line that says what, found and next, nothing on stdout,
and the folder as it was.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_wrong as wrong
import numpy as np
import pytest
from pydicom.uid import HTJ2KLossless, JPEGLSLossless

from CycleINRLib.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
Build = Callable[[Path], list[str]]


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def check_refusal(status: int, out: str, err: str, expected: int, words: str) -> None:
    """The form that every error has."""
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("cycleinr: error: ")]
    assert status == expected, err
    assert len(errors) == 1, err
    assert all(line.startswith("cycleinr: warning: ") for line in lines if line not in errors), err
    assert lines[-1] == errors[0]
    assert ". Next: " in errors[0] and errors[0].endswith(".")
    assert out == ""
    for word in words.split("|"):
        assert word.lower() in errors[0].lower(), errors[0]


def upsample(make: Callable[[Path], Any], *options: str, output: str = "iso.nrrd") -> Build:
    """The command line that upsamples what `make` writes into the folder."""
    return lambda folder: ["upsample", str(make(folder)), str(folder / output), *options]


def good(folder: Path) -> Path:
    return wrong.nrrd(folder / "scan.nrrd")


def scan(**fields: Any) -> Callable[[Path], Path]:
    return lambda folder: wrong.nrrd(folder / "scan.nrrd", **fields)


def file(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def changed(change: Callable[[np.ndarray], Any], dtype: str = "int16") -> Callable[[Path], Path]:
    """A good scan whose values `change` alters in place or gives anew."""

    def make(folder: Path) -> Path:
        values = wrong.noise(dtype=dtype)
        new = change(values)
        return wrong.nrrd(folder / "scan.nrrd", values if new is None else new)

    return make


def series(*heights: float) -> Callable[[Path], Path]:
    return lambda folder: wrong.dicom_series(folder / "dicom", heights)


def odd_slice(**tags: Any) -> Callable[[Path], Path]:
    """A series of five whose fourth slice differs in `tags`."""

    def make(folder: Path) -> Path:
        wrong.dicom_series(folder / "dicom", (0, 4, 8, 16))
        wrong.dicom_slice(folder / "dicom" / "odd.dcm", "1.2.3.4", 12, 9, **tags)
        return folder / "dicom"

    return make


def put(array: np.ndarray, index: tuple[int, ...], value: float) -> None:
    array[index] = value


def existing(folder: Path) -> Path:
    (folder / "iso.nrrd").write_bytes(b"somebody's work")
    return good(folder)


def two_series(folder: Path) -> Path:
    wrong.dicom_series(folder / "dicom", series="1.2.3.4")
    return wrong.dicom_series(folder / "dicom", series="1.2.3.5")


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def sheared(folder: Path) -> Path:
    return wrong.nrrd(folder / "scan.nrrd", space_directions="(1,0,0) (0,1,0) (0,1,4)")


def compressed(syntax: str) -> Callable[[Path], Path]:
    """A series that says it is compressed; the bytes stand for any codestream, since no decoder reads them."""

    def make(folder: Path) -> Path:
        import pydicom
        from pydicom.encaps import encapsulate

        wrong.dicom_series(folder / "dicom")
        for path in (folder / "dicom").iterdir():
            data = pydicom.dcmread(path)
            data.file_meta.TransferSyntaxUID = syntax
            data.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
            data["PixelData"].VR = "OB"
            data.save_as(path)
        return folder / "dicom"

    return make


class Touch:
    """What a pickle could do: run code when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def model_file(content: Callable[[Path], bytes]) -> Build:
    def build(folder: Path) -> list[str]:
        (folder / "mine.safetensors").write_bytes(content(folder))
        return ["upsample", str(good(folder)), str(folder / "iso.nrrd"), "--model", str(folder / "mine.safetensors")]

    return build


def safetensors_with(card: str | None) -> Callable[[Path], bytes]:
    metadata = "{}" if card is None else f'{{"card": {card}}}'
    header = f'{{"__metadata__": {metadata}, "w": {{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}}}'.encode()
    return lambda folder: struct.pack("<Q", len(header)) + header + bytes(4)


REQUESTS: dict[str, tuple[Build, str]] = {
    "two targets": (upsample(good, "--z-scale", "4", "--spacing", "1"), "--z-scale|--spacing"),
    "isotropic and a z-scale": (upsample(good, "--isotropic", "--z-scale", "4"), "--isotropic"),
    "z-scale of one": (upsample(good, "--z-scale", "1"), "above 1"),
    "z-scale below one": (upsample(good, "--z-scale", "0.5"), "0.5"),
    "negative z-scale": (upsample(good, "--z-scale", "-2"), "-2"),
    "z-scale above sixteen": (upsample(good, "--z-scale", "17"), "16|17"),
    "z-scale that is a word": (upsample(good, "--z-scale", "four"), "no number|four"),
    "z-scale nan": (upsample(good, "--z-scale", "nan"), "no number|nan"),
    "z-scale infinite": (upsample(good, "--z-scale", "inf"), "no number|inf"),
    "spacing not finer": (upsample(good, "--spacing", "4"), "spacing|4"),
    "spacing of zero": (upsample(good, "--spacing", "0"), "spacing"),
    "spacing that asks for more than sixteen": (upsample(good, "--spacing", "0.1"), "too fine|0.25"),
    "thickness that is a word": (upsample(good, "--thickness", "thick"), "thickness|thick"),
    "unknown extension": (upsample(good, output="iso.xyz"), "extension|iso.xyz"),
    "no extension": (upsample(good, output="iso"), "extension"),
    "output exists": (upsample(existing), "exists|--overwrite"),
    "output is the input": (upsample(good, "--overwrite", output="scan.nrrd"), "input|scan.nrrd"),
    "output folder missing": (upsample(good, output="nowhere/iso.nrrd"), "folder|nowhere"),
    "output is a folder": (lambda f: ["upsample", str(good(f)), str(f)], "folder"),
    "sheared to NIfTI": (upsample(sheared, "--z-scale", "2", output="iso.nii.gz"), "NIfTI|.nrrd"),
    "report folder missing": (lambda f: [*upsample(good)(f), "--report", str(f / "no" / "r.json")], "folder|no"),
    "report is no .json": (lambda f: [*upsample(good)(f), "--report", str(f / "r.txt")], ".json"),
    "picture is no .png": (lambda f: [*upsample(good)(f), "--picture", str(f / "p.jpg")], ".png"),
    "unknown noise": (upsample(good, "--noise", "more"), "noise"),
    "new noise without consistency": (upsample(good, "--noise", "renew", "--consistency", "none"), "noise|kept or"),
    "series of a file without series": (upsample(good, "--series", "1.2.3"), "series"),
    "frame that is no number": (upsample(good, "--frame", "first"), "frame"),
    "unknown consistency": (upsample(good, "--consistency", "much"), "consistency"),
    "unknown option": (upsample(good, "--sharper"), "--sharper"),
    "unknown command": (lambda f: ["sharpen"], "sharpen"),
    "batch without a folder": (lambda f: ["batch", str(good(f))], "--output"),
    "batch into a file": (lambda f: ["batch", str(good(f)), "--output", str(good(f))], "name a folder"),
    "no command": (lambda f: [], "COMMAND"),
    "missing output": (lambda f: ["upsample", str(good(f))], "OUTPUT"),
    "job file missing": (lambda f: ["run", str(f / "job.json")], "job"),
    "job that is no JSON": (lambda f: ["run", str(file("job.json", b"upsample!")(f))], "JSON"),
    "job of another task": (lambda f: ["run", str(file("job.json", b'{"task": "cook"}')(f))], "task|cook"),
    "job without paths": (lambda f: ["run", str(file("job.json", b'{"task": "upsample"}')(f))], "input"),
    "demo into a file": (lambda f: ["demo", "--output", str(good(f))], "folder"),
}

VOLUMES: dict[str, tuple[Build, str]] = {
    "missing file": (lambda f: ["upsample", str(f / "none.nrrd"), str(f / "iso.nrrd")], "no such|none.nrrd"),
    "empty file": (upsample(file("scan.nrrd", b"")), "empty"),
    "text instead of a volume": (upsample(file("scan.nrrd", b"Dear colleague,\n")), "scan.nrrd"),
    "not an image": (upsample(file("scan.png", b"\x89PNG\r\n\x1a\n" + bytes(50))), "scan.png"),
    "gzip cut off": (upsample(lambda f: cut(wrong.nifti(f / "scan.nii.gz"), 0.6)), "truncated"),
    "raw data cut off": (upsample(scan(data=b"\0" * 900)), "truncated|900"),
    "MetaImage cut off": (upsample(lambda f: cut(wrong.metaimage(f / "scan.mha"), 0.7)), "scan.mha|bytes"),
    "header says less than the data": (upsample(scan(sizes="12 10 3")), "disagree"),
    "header claims more than any machine holds": (upsample(scan(sizes="90000 90000 90000")), "claim"),
    "header of no numbers": (upsample(scan(sizes="many more than few")), "header"),
    "folder without images": (upsample(empty_folder), "empty"),
    "several series, none chosen": (upsample(two_series), "series|1.2.3.4|1.2.3.5"),
    "series that is not there": (upsample(two_series, "--series", "9.9"), "series|9.9"),
    "missing slice": (upsample(series(0, 4, 8, 16, 20)), "slice|8"),
    "duplicate slice": (upsample(series(0, 4, 8, 8, 12)), "twice|8.00"),
    "mixed orientations": (upsample(odd_slice(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])), "orientation"),
    "mixed sizes": (upsample(odd_slice(Rows=8)), "size"),
    "single DICOM slice": (upsample(series(0)), "slice"),
    "RGB": (upsample(scan(values=wrong.vectors(3).astype("uint8"), kinds="RGB-color domain domain domain",
                          space_directions="none (1,0,0) (0,1,0) (0,0,4)")), "color|number"),
    "vectors": (upsample(scan(values=wrong.vectors(3), kinds="vector domain domain domain",
                              space_directions="none (1,0,0) (0,1,0) (0,0,4)")), "number"),
    "complex": (upsample(lambda f: wrong.nifti(f / "scan.nii", wrong.noise().astype("complex64"), 32)), "number"),
    "RGB NIfTI": (upsample(lambda f: wrong.nifti(f / "scan.nii", wrong.vectors(3).astype("uint8"), 128)), "number"),
    "4D": (upsample(lambda f: wrong.nifti(f / "scan.nii", np.stack([wrong.noise()] * 2))), "4D|--frame"),
    "two slices": (upsample(scan(values=wrong.noise((2, 10, 12)))), "2 along|3"),
    "label map": (upsample(changed(lambda v: np.clip(v // 100, 0, 9))), "label"),
    "already isotropic": (upsample(scan(space_directions="(1,0,0) (0,1,0) (0,0,1)")), "isotropic|--z-scale"),
    "all voxels equal": (upsample(changed(lambda v: np.zeros_like(v))), "equal"),
    "NaN": (upsample(changed(lambda v: put(v, (2, 3, slice(0, 4)), np.nan), "float32")), "NaN|4 of"),
    "infinity": (upsample(changed(lambda v: put(v, (2, 3, 4), np.inf), "float32")), "infinity|1 of"),
    "zero spacing": (upsample(scan(space_directions="(1,0,0) (0,1,0) (0,0,0)")), "spacing"),
    "zero MetaImage spacing": (upsample(lambda f: wrong.metaimage(f / "s.mha", ElementSpacing="1 1 0")), "spacing"),
    "singular matrix": (upsample(scan(space_directions="(1,0,0) (1,0,0) (0,0,4)")), "singular"),
    "matrix that is not finite": (upsample(scan(space_directions="(1,0,0) (0,nan,0) (0,0,4)")), "finite"),
    "origin that is not finite": (upsample(scan(space_origin="(0,inf,0)")), "finite"),
    "NIfTI matrix of zeros": (upsample(lambda f: wrong.nifti(f / "scan.nii", rows=np.zeros((3, 4)))), "sform"),
    "compressed without decoder": (upsample(compressed(HTJ2KLossless)), "decoder|pylibjpeg-openjpeg"),
    "compressed and damaged": (upsample(compressed(JPEGLSLossless)), "damaged"),
    "input of info missing": (lambda f: ["info", str(f / "none.nrrd")], "none.nrrd"),
    "input of measure missing": (lambda f: ["measure", str(f / "none.nrrd")], "none.nrrd"),
    "reference of --like missing": (lambda f: [*upsample(good)(f), "--like", str(f / "none.nrrd")], "none.nrrd"),
}  # fmt: skip

MODELS: dict[str, tuple[Build, str]] = {
    "no such model": (upsample(good, "--model", "heavy"), "model|heavy"),
    "model that was bundled once": (upsample(good, "--model", "base"), "no such model|base|choose light"),
    "pickle": (model_file(lambda folder: pickle.dumps(Touch(folder / "opened"))), "safetensors"),
    "empty file": (model_file(lambda folder: b""), "safetensors"),
    "no card": (model_file(safetensors_with(None)), "card"),
    "card that is no JSON": (model_file(safetensors_with('"hello"')), "card"),
    "card of a newer version": (model_file(safetensors_with('"{\\"card_version\\": 99}"')), "newer|99"),
    "weights that do not fit the card": (
        model_file(safetensors_with('"{\\"card_version\\": 1, \\"name\\": \\"x\\", \\"network\\": {}}"')),
        "card",
    ),
}


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def refused(build: Build, expected: int, words: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = build(folder)
    before = tree(folder)
    capfd.readouterr()
    status = main(argv)
    out, err = capfd.readouterr()
    check_refusal(status, out, err, expected, words)
    assert tree(folder) == before


@pytest.mark.parametrize("case", REQUESTS)
def test_a_request_that_cannot_be_met_ends_with_2(case, tmp_path, capfd):
    refused(*REQUESTS[case][:1], 2, REQUESTS[case][1], tmp_path, capfd)


@pytest.mark.parametrize("case", VOLUMES)
def test_an_input_that_is_no_usable_volume_ends_with_3(case, tmp_path, capfd):
    refused(*VOLUMES[case][:1], 3, VOLUMES[case][1], tmp_path, capfd)


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_is_none_ends_with_4(case, tmp_path, capfd):
    refused(*MODELS[case][:1], 4, MODELS[case][1], tmp_path, capfd)


HIDE_MATPLOTLIB = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "matplotlib" else find(name, package)
"""


def in_new_process(code: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """`main(argv)` in an interpreter that ran `code` first."""
    program = f"import sys\n{code}\nfrom CycleINRLib.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", program, *argv], cwd=REPOSITORY, capture_output=True, text=True)


def test_a_device_that_is_absent_ends_with_5(tmp_path, capfd):
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"
    refused(upsample(good, "--device", device), 5, device, tmp_path, capfd)


def test_a_full_disk_ends_with_5_and_nothing_is_left(tmp_path):
    """A limit on the size of files stands for the full disk: the same failing write, without needing a file system."""
    resource = pytest.importorskip("resource", reason="limits on files are POSIX")
    del resource
    argv = upsample(good)(tmp_path)
    before = tree(tmp_path)
    run = in_new_process("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))", argv)
    check_refusal(run.returncode, run.stdout, run.stderr, 5, "written")
    assert tree(tmp_path) == before


GIVE_UP_PRIVILEGES = """
import ctypes, os
if os.geteuid() == 0:  # root may write anywhere, unless it lays that right down (Linux: version 3 of capset)
    head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(head, none) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="laying down root's rights is written for Linux")
def test_a_read_only_folder_ends_with_5(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    argv = ["upsample", str(good(tmp_path)), str(tmp_path / "closed" / "iso.nrrd")]
    run = in_new_process(GIVE_UP_PRIVILEGES, argv)
    check_refusal(run.returncode, run.stdout, run.stderr, 5, "read-only|closed")
    assert not list((tmp_path / "closed").iterdir())


def test_a_volume_larger_than_memory_ends_with_5(tmp_path, capfd, monkeypatch):
    """The source is small, but so is the machine: 1000 bytes are free."""
    monkeypatch.setattr("CycleINRLib.upsampling.memory.available_memory_bytes", lambda: 1000.0)
    refused(upsample(good), 5, "memory|GB", tmp_path, capfd)


@pytest.mark.parametrize("package", ["torch", "safetensors"])
def test_a_missing_package_ends_with_6_and_names_its_extra(package, tmp_path):
    argv = upsample(good)(tmp_path)
    before = tree(tmp_path)
    run = in_new_process(f"sys.modules[{package!r}] = None", argv)
    check_refusal(run.returncode, run.stdout, run.stderr, 6, f"{package}|CycleINR[torch]|info")
    assert tree(tmp_path) == before


def test_a_picture_without_matplotlib_ends_with_6_before_any_computing(tmp_path):
    argv = [*upsample(good)(tmp_path), "--picture", str(tmp_path / "p.png")]
    before = tree(tmp_path)
    run = in_new_process(HIDE_MATPLOTLIB + "sys.modules['torch'] = None", argv)
    check_refusal(run.returncode, run.stdout, run.stderr, 6, "matplotlib|CycleINR[pictures]")
    assert tree(tmp_path) == before


def test_an_error_of_ours_ends_with_1_and_asks_for_a_report(tmp_path, capfd, monkeypatch):
    from CycleINRLib.io import files

    monkeypatch.setattr(files, "read", lambda *a, **k: 1 / 0)
    refused(upsample(good), 1, "ZeroDivisionError|--debug|issues", tmp_path, capfd)
