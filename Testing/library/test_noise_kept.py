"""The noise of a scan is measured once: what is kept is that scan's alone, to the bit, and only time depends on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib import machine  # noqa: E402
from CycleINRLib.imaging.consistency import noise_level  # noqa: E402
from CycleINRLib.jobs import UpsampleJob  # noqa: E402
from CycleINRLib.upsampling import grain, noisekept, noisemodel  # noqa: E402
from CycleINRLib.upsampling.noisemodel import NoiseModel  # noqa: E402
from CycleINRLib.upsampling.plan import plan  # noqa: E402

SAMPLE = Path(__file__).parents[2] / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"


@pytest.fixture(scope="module")
def scan():
    whole = cycleinr.read(SAMPLE)
    values = np.ascontiguousarray(whole.values[10:20, 64:160, 80:176])
    return whole.with_values(values, whole.geometry.cropped((10, 64, 80), values.shape))


@pytest.fixture
def measured(tmp_path, monkeypatch) -> list[tuple[int, ...]]:
    """One entry for each time that noise was judged, from an empty cache."""
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    calls: list[tuple[int, ...]] = []
    real = grain.judged
    monkeypatch.setattr(grain, "judged", lambda values, *rest: calls.append(values.shape) or real(values, *rest))
    return calls


def settled(scan, **fields):
    warned: list[str] = []
    job = UpsampleJob(z_scale=4, **fields)
    treatment = grain.settle_noise(scan.values, scan.spacing_mm, plan(scan, job), job, warned.append)
    return treatment, warned


def assert_same(one, other) -> None:
    for field in dataclasses.fields(one.model):
        np.testing.assert_array_equal(getattr(one.model, field.name), getattr(other.model, field.name))
        assert type(getattr(one.model, field.name)) is type(getattr(other.model, field.name))
    assert (one.mode, one.seed, one.taken_rms, one.taken_ratio) == (
        other.mode, other.seed, other.taken_rms, other.taken_ratio,
    )  # fmt: skip


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_derivatives_that_the_noise_level_looked_at_are_not_made_again_and_change_no_bit(scan, monkeypatch, modality):
    values = scan.values - scan.values.min() if modality == "MR" else scan.values
    derivatives: dict[int, np.ndarray] = {}
    level = noise_level(values, modality, derivatives)
    assert level == noise_level(values, modality) and sorted(derivatives) == list(range(len(values)))
    expected = NoiseModel.of(values, scan.spacing_mm, modality)
    monkeypatch.setattr(noisemodel, "gradient_parts", None)
    found = NoiseModel.of(values, scan.spacing_mm, modality, derivatives)
    for field in dataclasses.fields(expected):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_what_is_kept_is_what_was_measured_to_the_bit(scan, measured, modality):
    asked = scan.with_values(scan.values - scan.values.min()) if modality == "mr" else scan
    first, second = (settled(asked, modality=modality, noise="renew") for _ in range(2))
    assert len(measured) == 1 and first[1] == second[1]
    assert_same(first[0], second[0])


def test_another_mode_takes_it_and_another_scan_spacing_or_modality_does_not(scan, measured):
    changed = scan.values.copy()
    changed[3, 17, 23] += 1  # one voxel anywhere
    folded = scan.values.reshape(10, 48, 192)
    wider = cycleinr.Geometry.from_spacing(scan.values.shape, (5.0, 0.9, 0.9))
    settled(scan, noise="renew")
    for other in (settled(scan, noise="remove"), settled(scan)):
        assert len(measured) == 1 and other[0].model is not None
    for another, fields in (
        (scan.with_values(changed), {}),
        (scan.with_values(scan.values.astype(np.int32)), {}),
        (scan.with_values(folded, cycleinr.Geometry.from_spacing(folded.shape, scan.spacing_mm)), {}),
        (scan.with_values(scan.values, wider), {}),
        (scan, {"modality": "mr"}),
    ):
        before = len(measured)
        settled(another, noise="renew", **fields)
        assert len(measured) == before + 1
    settled(scan, noise="renew")
    assert len(measured) == 6


def test_another_version_or_other_code_measures_anew(scan, measured, monkeypatch):
    settled(scan, noise="renew")
    monkeypatch.setattr(cycleinr, "__version__", "0.0.0")
    settled(scan, noise="renew")
    assert len(measured) == 2
    monkeypatch.setattr(noisekept, "MEASURED_BY", ("split.py",))
    settled(scan, noise="renew")
    assert len(measured) == 3


def test_the_seed_is_of_the_scan_at_hand_and_never_kept(scan, measured, tmp_path, monkeypatch):
    settled(scan, noise="renew")
    assert "seed" not in (tmp_path / "noise.json").read_text()
    monkeypatch.setattr(grain, "seed_of", lambda _: 7)
    assert settled(scan, noise="renew")[0].seed == 7 and len(measured) == 1


def test_doubts_and_too_few_flat_places_are_told_again(scan, measured, monkeypatch):
    monkeypatch.setattr(grain, "MOST_TAKEN", 0.0)
    first, second = settled(scan), settled(scan)
    assert len(measured) == 1 and first[1] == second[1] and first[0].mode == second[0].mode == "acquired"
    assert "more would be taken than there is" in first[1][0]
    air = np.arange(scan.values.size) % 30 - 1000
    empty = scan.with_values(air.astype(np.int16).reshape(scan.values.shape))
    assert settled(empty, noise="renew")[1] == settled(empty, noise="renew")[1] != []


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: {},
        lambda entry: {**entry, "doubts": [1]},
        lambda entry: {**entry, "taken_rms": "much"},
        lambda entry: {**entry, "model": {}},
        lambda entry: {**entry, "model": {**entry["model"], "other": 1}},
        lambda entry: {**entry, "model": {**entry["model"], "level": {"type": "<f4", "shape": [1], "data": "AAAA"}}},
        lambda entry: {**entry, "model": {**entry["model"], "modality": 3}},
        lambda entry: {**entry, "model": {**entry["model"], "spectrum": 1.0}},
    ],
)
def test_what_is_damaged_is_measured_anew(scan, measured, tmp_path, damage):
    first, _ = settled(scan, noise="renew")
    path = tmp_path / "noise.json"
    path.write_text(json.dumps({key: damage(entry) for key, entry in json.loads(path.read_text()).items()}))
    second, _ = settled(scan, noise="renew")
    assert len(measured) == 2
    assert_same(first, second)


def test_what_is_kept_stays_within_the_size_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CYCLEINR_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "_MOST_BYTES", 5000)
    for n in range(20):
        machine.remember("noise", str(n), {"data": "x" * 900})
        assert machine.recall("noise", str(n)) is not None
        assert (tmp_path / "noise.json").stat().st_size <= 5000
    assert machine.recall("noise", "18") is not None
