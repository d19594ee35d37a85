"""The benchmarks run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench(benchmark_module) -> ModuleType:
    return benchmark_module("bench_upsample")


def test_the_test_scan_is_tissue_in_air(bench: ModuleType):
    values = bench.scan([48, 40, 3])
    assert values.shape == (3, 40, 48) and values.dtype == np.int16
    assert values[:, 0, 0].tolist() == [-1000] * 3
    assert 0.3 < (values > -500).mean() < 0.7


def test_seconds_are_scaled_to_the_voxels_of_the_full_volume(bench: ModuleType):
    asked = bench.options(["--size", "10", "10", "6", "--z-scale", "4"])  # 21 slices, 2100 voxels
    product = {"kind": "product", "seconds": 2.0, "voxels": 2100, "peak_mb": 3000.0, "precision": "float32"}
    rival = {"kind": "arssr-float32", "seconds": 1.0, "voxels": 100, "peak_mb": 9.0, "parameters": 6_279_360}
    text = bench.table([product | {"input_and_output_mb": 100.0}, rival], asked)
    assert "| CycleINR, light | 2.0 | 0.001 | 1.00 | 3000 | float32 |" in text
    assert "| ArSSR-sized RDN + MLP, float32 | 21.0 | 0.000 | 10.50 | 9 |" in text
    assert "= 2148 MB): BROKEN." in text


@pytest.mark.parametrize(("seconds", "verdict"), [(1.9, "kept"), (2.1, "BROKEN here")])
def test_a_preview_is_told_beside_the_table_with_its_promise(bench: ModuleType, seconds: float, verdict: str):
    taken = {name: {"seconds": seconds, "cpu_seconds": 3.5} for name in ("one", "two", "unfitted")}
    result = {"kind": "preview", "seconds": seconds, "voxels": 5, "peak_mb": 1.0, "preview": taken}
    text = bench.table([result], bench.options(["--size", "10", "10", "6"]))
    assert f"Preview, two planes in one job: {seconds:.1f} s, 3.5 s of CPU time." in text
    assert text.endswith(f"(one plane in 2 s): {verdict}.") and "| CycleINR" not in text


def test_a_preview_is_measured_fitted_and_not(bench: ModuleType):
    pytest.importorskip("torch", reason="the network needs torch")
    asked = bench.options(["--size", "40", "40", "10", "--threads", "1", "--z-scale", "2"])
    seconds, voxels, facts = bench.run_preview(bench.scan(asked.size), asked)
    assert voxels == 19 * 40 and seconds == facts["preview"]["one"]["seconds"] > 0
    assert 0 < facts["preview"]["unfitted"]["cpu_seconds"] < facts["preview"]["two"]["cpu_seconds"]


def test_rivals_are_timed_in_processes_of_their_own(tmp_path: Path):
    asked = [
        "--size",
        "24",
        "20",
        "6",
        "--threads",
        "1",
        "--only",
        "zoom",
        "spline",
        "--json",
        str(tmp_path / "out.json"),
    ]
    subprocess.run([sys.executable, str(FOLDER / "bench_upsample.py"), *asked], check=True, capture_output=True)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(r["kind"], r["voxels"]) for r in results] == [("zoom", 21 * 480), ("spline", 21 * 480)]
    assert all(r["seconds"] > 0 and r["peak_mb"] > 20 for r in results)


def ran(script: str, *words: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run([sys.executable, str(FOLDER / script), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cost_of_stages_is_counted_from_the_calls():
    pytest.importorskip("torch")
    text = ran("roofline.py", "--size", "48", "48", "8", "--precision", "float32")
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text.splitlines() if line.startswith("|")}
    within, along = (float(rows[f"layer  1, {name}"][1]) for name in ("within slices", "along z"))
    slices = 8 + 4  # those of the scan, and every second one, from which the gain is fitted
    assert within == pytest.approx(slices * 24 * 24 * 64 * 64 * 9 / 1e9, abs=0.006)
    assert along == pytest.approx(slices * 24 * 24 * 64 * 64 * 3 / 1e9, abs=0.006)
    shares = [float(cells[4].split()[0]) for name, cells in rows.items() if name[0] not in "*s-"]
    assert sum(shares) == pytest.approx(100, abs=3)
    assert {"read", "normalize", "fits", "codes", "decode, products", "consistency", "measure", "write"} <= set(rows)


def test_a_revision_is_compared_with_itself_pair_by_pair():
    pytest.importorskip("torch")
    text = ran(
        "compare_revisions.py", ".", ".", "--pairs", "1", "--size", "32", "32", "6", "--what", "volume", "import"
    )
    volume, imported = (line for line in text.splitlines() if line.startswith(("| volume", "| import")))
    assert volume.endswith("| rms 0, at most 0 |") and imported.endswith("| - |")


def test_new_noise_is_timed_beside_acquired_noise_and_a_preview_beside_the_next():
    pytest.importorskip("torch")
    text = ran("noise_cost.py", ".", "--size", "64", "64", "10", "--turns", "1")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert [row[1] for row in rows] == ["volume, anew", "volume, kept", "preview, anew", "preview, moved"]
    for row in rows[:2]:
        assert float(row[4].split()[-1]) == pytest.approx(float(row[3]) / float(row[2]), rel=0.1)
    assert all(float(row[3]) > 0 and row[4].endswith(" s wall") for row in rows[2:])


def test_previews_of_a_process_that_stays_are_timed_beside_those_of_a_process_each():
    pytest.importorskip("torch")
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    lines = ran("answers.py", "--size", "64", "64", "8", "--planes", "coronal", "--ahead", "1").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert [row[0] for row in rows[2:5]] == ["import CycleINRLib", "python alone", "cycleinr info"]
    taken = {row[0]: [float(cell) for cell in row[1:5] if cell] for row in rows[7:]}
    # which is quicker is for a reader: beside other programs a process that stays may still be at its rows when asked
    assert len(taken) == 13 and all(min(times) >= 0 and times[1] > 0 for name, times in taken.items() if "," in name)


def test_precisions_are_compared_beside_the_noise_and_in_decibels():
    pytest.importorskip("torch")
    thin = FOLDER.parent / "data" / "ct_thin.nrrd"
    lines = ran("precisions.py", str(thin), "--block", "32", "--slices", "24", "--z-scale", "3").splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [cells[0] for cells in rows] == ["ct_thin, box", "ct_thin, skip"]
    for cells in rows:
        assert 0 < float(cells[1]) < float(cells[4]) and abs(float(cells[7])) < 0.02
        assert cells[8] in ("float32", "bfloat16")


def test_lesions_that_stand_out_of_the_noise_of_acquired_slices_keep_their_contrast():
    """Of detectability 4: 95 % on average, of 2, of 4 and of 8 mm."""
    pytest.importorskip("torch")
    scan = FOLDER.parents[1] / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"
    text = ran("lesions_kept.py", str(scan), "--slices", "12", "--seeds", "8", "--detectability", "4")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert len(rows) == 12

    def left(width: str) -> float:
        ones = [(float(share.split()[0]), int(count)) for _, mm, _, share, count, _ in rows if mm == width]
        return np.average([share for share, _ in ones], weights=[count for _, count in ones])

    assert all(left(width) > 0.95 for width in ("2", "4", "8"))
