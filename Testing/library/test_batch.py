"""`cycleinr batch`: every scan as `upsample` gives it, once, whatever is wrong with another one or with the command."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the network needs torch")

from dicom_series import make_series, put  # noqa: E402

from CycleINRLib.archive.lock import FolderLock  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.io.files import read, write  # noqa: E402

ASKED = ["--z-scale", "2", "--noise", "acquired", "--gain", "1", "--axis", "k"]
PLAIN = ["--z-scale", "2", "--noise", "acquired", "--gain", "1"]


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


@pytest.fixture()
def dicom(thick_ct, tmp_path):
    """A CT series of six slices."""

    def change(n, dataset):
        put(dataset, (thick_ct.values[n, 8:32, 8:32].astype(int) + 1024).clip(0, 4095).astype(np.uint16))

    return make_series(tmp_path / "series", 6, step=(0.0, 0.0, 5.0), change=change)


def run(*words) -> int:
    return main(["batch", "--workers", "0", *map(str, words)])


def told(out: Path) -> list[dict]:
    return json.loads((out / "batch.json").read_text("utf-8"))["scans"]


def listing(out: Path) -> set[str]:
    """Every file below, hidden ones too."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


SUMMARY = {"batch.json", "batch.csv", "batch.html", "batch.sqlite"}


def test_a_bad_scan_is_told_and_the_others_are_what_upsample_gives(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(folder, "--output", out, *ASKED) == 3
    assert "Found: 1 of 3: b_bad" in capsys.readouterr().err
    first, bad, last = told(out)
    assert bad["error"]["code"] == "bad_volume" and bad["error"]["what"]
    assert listing(out) == SUMMARY | {"a_ct.json", "a_ct.nrrd", "c_mr.json", "c_mr.nrrd"}
    assert first["snli"] == json.loads((out / "a_ct.json").read_text())["snli"]
    assert main(["upsample", str(folder / "c_mr.nrrd"), str(tmp_path / "alone.nrrd"), *ASKED]) == 0
    alone, among = read(tmp_path / "alone.nrrd"), read(out / last["output"])
    np.testing.assert_array_equal(alone.values, among.values)
    assert alone.geometry.same_place_as(among.geometry)


def test_resume_computes_only_what_is_missing(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    kept = (out / "a_ct.nrrd").stat().st_mtime_ns
    shutil.copy(folder / "a_ct.nrrd", folder / "b_bad.nrrd")  # mended
    (out / "c_mr.nrrd").unlink()
    assert run(folder, "--output", out, "--resume", *ASKED) == 0
    assert (out / "a_ct.nrrd").stat().st_mtime_ns == kept
    assert [one["z_scale"] for one in told(out)] == [2.0, 2.0, 2.0]
    np.testing.assert_array_equal(read(out / "a_ct.nrrd").values, read(out / "b_bad.nrrd").values)


def test_an_input_that_changed_is_done_again_and_one_that_was_only_copied_is_not(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    before = read(out / "c_mr.nrrd").values
    kept = (out / "c_mr.nrrd").stat().st_mtime_ns
    os.utime(folder / "c_mr.nrrd", ns=(1, 1))
    run(folder, "--output", out, "--resume", *ASKED)
    assert (out / "c_mr.nrrd").stat().st_mtime_ns == kept
    shutil.copy(folder / "a_ct.nrrd", folder / "c_mr.nrrd")
    run(folder, "--output", out, "--resume", *ASKED)
    assert not np.array_equal(read(out / "c_mr.nrrd").values, before)


@pytest.mark.parametrize("words", [["--z-scale", "3"], ["--gain", "0.5"], ["--format", "mha"]])
def test_a_batch_goes_on_with_the_options_that_it_began_with(folder, tmp_path, capsys, words):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    before = (out / "a_ct.nrrd").read_bytes()
    assert run(folder, "--output", out, "--resume", *ASKED, *words) == 2
    assert words[0].strip("-").replace("-", "_") in capsys.readouterr().err
    assert (out / "a_ct.nrrd").read_bytes() == before


def test_results_that_exist_are_not_replaced_unasked(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    before = (out / "a_ct.nrrd").read_bytes()
    assert run(folder / "a_ct.nrrd", "--output", out, *ASKED) == 2
    assert (out / "a_ct.nrrd").read_bytes() == before
    for name in SUMMARY:
        (out / name).unlink()
    assert run(folder / "a_ct.nrrd", "--output", out, *ASKED) == 2  # of something else, as far as we know
    assert (out / "a_ct.nrrd").read_bytes() == before
    assert run(folder / "a_ct.nrrd", "--output", out, "--overwrite", *ASKED, "--format", "mha") == 0
    assert (out / "a_ct.mha").exists()


# --- killed commands ----------------------------------------------------------------------------------------------
def killed_while_running(out: Path, name: str, state: str = "running") -> None:
    """Leaves the manifest as a command leaves it that is killed while a worker has the scan.

    `state` is waiting where not even the begin was written to the disk.
    """
    with sqlite3.connect(out / "batch.sqlite") as db:
        facts = "hash = NULL, figures = NULL, output = NULL, report = NULL, output_bytes = NULL, stamp = NULL"
        db.execute(f"UPDATE scans SET state = ?, {facts} WHERE name = ?", (state, name))
    db.close()


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_a_scan_that_was_finished_but_not_noted_is_not_done_again(folder, tmp_path, state):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    before = told(out)[0]
    kept = (out / "a_ct.nrrd").stat().st_mtime_ns
    killed_while_running(out, "a_ct", state)
    run(folder, "--output", out, "--resume", *ASKED)
    assert (out / "a_ct.nrrd").stat().st_mtime_ns == kept
    assert told(out)[0]["snli"] == before["snli"] and told(out)[0]["state"] == "done"


@pytest.mark.parametrize("state", ["running", "waiting"])
def test_half_a_result_of_a_killed_worker_is_removed_and_the_scan_done_again(folder, tmp_path, state):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    right = (out / "a_ct.nrrd").read_bytes()
    killed_while_running(out, "a_ct", state)
    (out / "a_ct.json").unlink()
    (out / "a_ct.nrrd").write_bytes(b"half")
    staging = out / ".batch" / "1.1"
    staging.mkdir(parents=True)
    (staging / "placing").touch()
    (staging / "a_ct.png").touch()
    run(folder, "--output", out, "--resume", *ASKED)
    assert (out / "a_ct.nrrd").read_bytes() == right
    assert listing(out) == SUMMARY | {"a_ct.json", "a_ct.nrrd", "c_mr.json", "c_mr.nrrd"}


def test_a_report_of_another_run_does_not_make_a_scan_done(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, "--output", out, *ASKED)
    killed_while_running(out, "a_ct")
    report = json.loads((out / "a_ct.json").read_text())
    (out / "a_ct.json").write_text(json.dumps({**report, "batch": "another"}))
    kept = (out / "a_ct.nrrd").stat().st_mtime_ns
    assert run(folder, "--output", out, "--resume", *ASKED) == 2  # it is not ours: neither taken over nor replaced
    assert (out / "a_ct.nrrd").stat().st_mtime_ns == kept and told(out)[0]["state"] == "failed"


def test_two_commands_do_not_work_on_one_folder_and_a_stale_lock_is_no_obstacle(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with FolderLock(out):
        assert run(folder, "--output", out, *ASKED) == 2
        assert f"process {os.getpid()}" in capsys.readouterr().err
        assert listing(out) == {"batch.lock"}
    (out / "batch.lock").write_text('{"process": 999999999, "host": "elsewhere"}')
    assert run(folder / "a_ct.nrrd", "--output", out, *ASKED) == 0
    assert "batch.lock" not in listing(out)


# --- names --------------------------------------------------------------------------------------------------------
def test_results_keep_the_relative_paths_of_a_tree(folder, dicom, tmp_path):
    tree = tmp_path / "bids"
    (tree / "sub-01" / "ses-1" / "anat").mkdir(parents=True)
    (tree / "dataset_description.json").write_text("{}")
    shutil.copy(folder / "a_ct.nrrd", tree / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T2w.nrrd")
    shutil.copytree(dicom, tree / "sub-02" / "scan")
    shutil.copy(dicom / "000.dcm", tree / "sub-02" / "scan" / ".hidden")
    out = tree / "derivatives"  # within what is searched
    assert run(tree, "--output", out, *PLAIN) == 0
    made = {name for name in listing(out) if name.endswith(".nrrd")}
    assert made == {"sub-01/ses-1/anat/sub-01_ses-1_T2w.nrrd", "sub-02/scan.nrrd"}
    assert run(tree, "--output", out, "--resume", *PLAIN) == 0
    assert len(told(out)) == 2  # results are no inputs


def test_scans_of_one_name_get_names_of_their_own(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "c_mr.nrrd", other / "a_ct.nrrd")
    write(read(folder / "a_ct.nrrd"), folder / "a_ct.mha")
    out = tmp_path / "out"
    given = [folder / "a_ct.nrrd", folder / "a_ct.mha", other / "a_ct.nrrd", folder / "a_ct.nrrd"]
    assert run(*given, "--output", out, *ASKED) == 0
    assert {name for name in listing(out) if name.endswith(".nrrd")} == {
        "scans/a_ct.nrrd",
        "scans/a_ct_2.nrrd",
        "other/a_ct.nrrd",
    }
    assert not np.array_equal(read(out / "scans/a_ct.nrrd").values, read(out / "other/a_ct.nrrd").values)


def test_a_list_of_files_is_relative_to_where_it_lies(folder, tmp_path):
    (tmp_path / "list.txt").write_text("# mine\nscans/a_ct.nrrd\n\n")
    assert run("--list", tmp_path / "list.txt", "--output", tmp_path / "out", *ASKED) == 0
    assert "a_ct.nrrd" in listing(tmp_path / "out")


def test_the_report_of_a_scan_named_batch_is_not_lost_to_the_summary(folder, tmp_path):
    scan = shutil.copy(folder / "a_ct.nrrd", tmp_path / "batch.nrrd")
    assert run(scan, "--output", tmp_path / "out", *ASKED) == 0
    (one,) = told(tmp_path / "out")
    assert json.loads((tmp_path / "out" / one["report"]).read_text())["snli"] == one["snli"]


def test_several_series_in_one_folder_are_scans_of_their_own_and_a_damaged_file_is_listed(dicom, tmp_path):
    import pydicom

    scans = tmp_path / "scans"
    shutil.copytree(dicom, scans / "both")
    for n, file in enumerate(sorted(dicom.iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = "1.2.826.0.1.99"
        dataset.PixelData = bytes(reversed(dataset.PixelData))
        dataset.save_as(scans / "both" / f"second_{n}.dcm")
    broken = (sorted(dicom.iterdir())[0]).read_bytes()[:700]
    (scans / "zz_broken.dcm").write_bytes(broken)
    out = tmp_path / "out"
    assert run(scans, "--output", out, *PLAIN) == 3
    states = {one["scan"]: one["state"] for one in told(out)}
    assert sorted(states.values()) == ["done", "done", "failed"] and states["zz_broken"] == "failed"
    assert not any("1.2.826.0.1.99" in (out / name).read_text("latin-1") for name in listing(out))


def test_a_series_that_is_spread_over_folders_is_one_scan_and_never_read_in_parts(dicom, thick_ct, tmp_path):
    scans = tmp_path / "scans"
    shutil.copytree(dicom, scans / "one")
    (scans / "two").mkdir()
    for file in sorted((scans / "one").iterdir())[::2]:
        file.rename(scans / "two" / file.name)
    out = tmp_path / "out"
    assert run(scans, "--output", out, *PLAIN) == 0
    (one,) = told(out)
    assert read(out / one["output"]).values.shape[0] == 11  # of six slices
    make_series(scans / "three", 3, uid="1.2.3.5")  # now it is not clear what belongs together
    assert run(scans, "--output", tmp_path / "more", *PLAIN) == 3
    parts = [one for one in told(tmp_path / "more") if one["scan"] != "three"]
    assert ["several folders" in one["error"]["what"] for one in parts] == [True]


def test_dicom_results_of_nested_scans_do_not_lie_in_each_other(dicom, tmp_path):
    scans = tmp_path / "scans"
    shutil.copytree(dicom, scans / "study")
    shutil.copytree(dicom, scans / "study" / "inner")
    out = tmp_path / "out"
    assert run(scans, "--output", out, "--dicom", *PLAIN) == 0
    for one in told(out):
        assert read(out / one["output"]).values.ndim == 3


# --- what is said of whom -----------------------------------------------------------------------------------------
SECRETS = ("DOE", "JANE", "19700203", "ID-4711", "Mercy", "knee of Jane", "9.8.7.6.5")


@pytest.fixture()
def named(dicom, tmp_path):
    """DICOM that names a person, sound and damaged in ways that make readers quote."""
    import pydicom

    for kind in ("sound", "spacing", "cut"):
        (tmp_path / "named" / kind).mkdir(parents=True)
        for file in sorted(dicom.iterdir()):
            dataset = pydicom.dcmread(file)
            dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "DOE^JANE", "ID-4711", "19700203"
            dataset.InstitutionName, dataset.SeriesDescription = "Mercy", "knee of Jane"
            dataset.SeriesInstanceUID = "9.8.7.6.5"
            target = tmp_path / "named" / kind / file.name
            dataset.save_as(target)
            content = target.read_bytes()
            if kind == "spacing":
                spacing = "\\".join(str(n) for n in dataset.PixelSpacing).encode()
                assert spacing in content
                target.write_bytes(content.replace(spacing, b"DOE^JANE".ljust(len(spacing))[: len(spacing)]))
            elif kind == "cut":
                target.write_bytes(content[: int(len(content) * 0.7)])
    return tmp_path / "named"


@pytest.mark.parametrize("words", [[], ["--anonymous-paths"]])
def test_nothing_of_a_header_is_said_anywhere(named, tmp_path, capfd, words):
    out = tmp_path / "out"
    assert run(named, "--output", out, *words, *PLAIN) == 3
    assert sorted(one["state"] for one in told(out)) == ["done", "failed", "failed"]
    said = "".join(capfd.readouterr())
    everything = said + "".join((out / name).read_text("latin-1") for name in listing(out)) + " ".join(listing(out))
    assert [secret for secret in SECRETS if secret in everything] == []


def test_anonymous_paths_leave_the_paths_in_the_key_alone(folder, tmp_path, capfd):
    out = tmp_path / "out"
    asked = [folder, "--output", out, "--anonymous-paths", *ASKED]
    assert run(*asked) == 3
    said = "".join(capfd.readouterr())
    assert "scan_000001.nrrd" in listing(out)
    for name in listing(out) - {"batch_key.sqlite"}:
        text = name + (out / name).read_text("latin-1")
        assert not any(word in text for word in ("a_ct", "b_bad", "c_mr", str(folder))), name
    assert not any(word in said for word in ("a_ct", "b_bad", "c_mr"))
    assert stat.S_IMODE((out / "batch_key.sqlite").stat().st_mode) == 0o600 or os.name == "nt"
    with sqlite3.connect(out / "batch_key.sqlite") as db:
        paths = [path for (path,) in db.execute("SELECT path FROM paths ORDER BY id")]
    db.close()
    assert paths == [str(folder / f"{name}.nrrd") for name in ("a_ct", "b_bad", "c_mr")]
    shutil.copy(folder / "a_ct.nrrd", folder / "b_bad.nrrd")
    assert run(*asked, "--resume") == 0
    (out / "batch_key.sqlite").unlink()
    assert run(*asked, "--resume") == 2


def test_a_batch_in_one_process_opens_no_socket(folder, tmp_path):
    seen, listens = [], [True]
    sys.addaudithook(lambda event, facts: seen.append(event) if event.startswith("socket.") and listens else None)
    try:
        run(folder / "a_ct.nrrd", "--output", tmp_path / "out", *ASKED)
    finally:
        listens.clear()  # a hook stays for good
    assert seen == [] and "a_ct.nrrd" in listing(tmp_path / "out")


def test_no_link_in_the_folder_leads_a_result_elsewhere(folder, tmp_path):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    out.mkdir()
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    shutil.copy(folder / "a_ct.nrrd", tmp_path / "tree" / "sub" / "a.nrrd")
    (out / "sub").symlink_to(elsewhere)
    assert run(tmp_path / "tree", "--output", out, *ASKED) == 2
    assert listing(elsewhere) == set()


def test_names_are_shown_and_not_run(folder, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    evil = "=cmd()<script>alert(1)</script>".replace("/", "_")
    shutil.copy(folder / "b_bad.nrrd", tree / f"{evil}.nrrd")
    out = tmp_path / "out"
    assert run(tree, "--output", out, *ASKED) == 3
    page = (out / "batch.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page.replace("http-equiv", "")
    assert "'=cmd" in (out / "batch.csv").read_text("utf-8")


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
