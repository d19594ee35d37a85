"""`cycleinr batch`: every scan as `upsample` gives it, whatever is wrong with another one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.io.files import read, write  # noqa: E402

ASKED = ["--z-scale", "2", "--texture", "0", "--gain", "1", "--axis", "k"]


@pytest.fixture()
def folder(thick_ct, thick_mr, tmp_path):
    """Two scans and a file that is none."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, volume in (("a_ct", thick_ct), ("c_mr", thick_mr)):
        write(
            volume.with_values(volume.values[:7, :32, :32], volume.geometry.cropped((0, 0, 0), (7, 32, 32))),
            scans / f"{name}.nrrd",
        )
    (scans / "b_bad.nrrd").write_text("no scan")
    return scans


def run(*words) -> int:
    return main(["batch", *map(str, words)])


def test_a_bad_scan_is_told_and_the_others_are_what_upsample_gives(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "--output", out, *ASKED) == 3
    assert "Found: 1 of 3: b_bad.nrrd" in capsys.readouterr().err
    first, bad, last = json.loads((out / "batch.json").read_text())["scans"]
    assert bad["error"]["code"] == "bad_volume" and bad["error"]["what"]
    assert sorted(path.name for path in out.iterdir()) == [
        "a_ct.json",
        "a_ct.nrrd",
        "batch.json",
        "c_mr.json",
        "c_mr.nrrd",
    ]
    assert first["snli"] == json.loads((out / "a_ct.json").read_text())["snli"]
    assert main(["upsample", str(folder / "c_mr.nrrd"), str(tmp_path / "alone.nrrd"), *ASKED]) == 0
    alone, among = read(tmp_path / "alone.nrrd"), read(last["output"])
    np.testing.assert_array_equal(alone.values, among.values)
    assert alone.geometry.same_place_as(among.geometry)


def test_resume_computes_only_what_is_missing(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    kept = (out / "a_ct.nrrd").stat().st_mtime_ns
    shutil.copy(folder / "a_ct.nrrd", folder / "b_bad.nrrd")  # mended
    (out / "c_mr.json").unlink()  # as if stopped before its report
    (out / "c_mr.nrrd").unlink()
    assert run(folder, "--output", out, "--resume", *ASKED) == 0
    assert (out / "a_ct.nrrd").stat().st_mtime_ns == kept
    told = json.loads((out / "batch.json").read_text())["scans"]
    assert [one["z_scale"] for one in told] == [2.0, 2.0, 2.0]
    np.testing.assert_array_equal(read(out / "a_ct.nrrd").values, read(out / "b_bad.nrrd").values)


def test_results_that_exist_are_not_replaced_unasked(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    before = (out / "a_ct.nrrd").read_bytes()
    assert run(folder / "a_ct.nrrd", "--output", out, "--z-scale", "3") == 2
    assert (out / "a_ct.nrrd").read_bytes() == before
    assert run(folder / "a_ct.nrrd", "--output", out, "--overwrite", *ASKED, "--format", "mha") == 0
    assert (out / "a_ct.mha").exists()


def test_scans_of_one_name_get_names_of_their_own(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "c_mr.nrrd", other / "a_ct.nrrd")
    out = tmp_path / "out"
    assert run(folder / "a_ct.nrrd", other / "a_ct.nrrd", "--output", out, *ASKED) == 0
    assert not np.array_equal(read(out / "a_ct.nrrd").values, read(out / "a_ct_2.nrrd").values)


def test_the_report_of_a_scan_named_batch_is_not_lost_to_the_summary(folder, tmp_path):
    scan = shutil.copy(folder / "a_ct.nrrd", tmp_path / "batch.nrrd")
    assert run(scan, "--output", tmp_path / "out", *ASKED) == 0
    (told,) = json.loads((tmp_path / "out" / "batch.json").read_text())["scans"]
    assert json.loads(Path(told["report"]).read_text())["snli"] == told["snli"]


@pytest.mark.parametrize("words", [["--z-scale", "2", "--spacing", "1"], ["--isotropic", "--z-scale", "2"]])
def test_a_request_that_makes_no_sense_stops_before_the_first_scan(folder, tmp_path, words):
    assert run(folder, "--output", tmp_path / "out", *words) == 2
    assert not (tmp_path / "out").exists()


def test_no_scan_leaves_no_folder(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty, "--output", tmp_path / "out") == 3
    assert run(tmp_path / "absent", "--output", tmp_path / "out") == 3
    assert not (tmp_path / "out").exists()
