"""The signal of acquired slices is split a strip of rows at a time: what is held is bounded, strips are not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import CycleINRLib as cycleinr  # noqa: E402
from CycleINRLib.errors import Cancelled  # noqa: E402
from CycleINRLib.upsampling import strips  # noqa: E402
from CycleINRLib.upsampling.grain import Renewal  # noqa: E402
from CycleINRLib.upsampling.noisefield import NoiseField  # noqa: E402
from CycleINRLib.upsampling.noisemodel import NoiseModel  # noqa: E402
from CycleINRLib.upsampling.split import take  # noqa: E402
from CycleINRLib.upsampling.strips import Signal  # noqa: E402

SAMPLE = Path(__file__).parents[2] / "Resources" / "SampleData" / "CT_abdomen_5mm.nrrd"
LIMITS = ((0, 8), (0, 96), (0, 80))


@pytest.fixture(scope="module")
def scan() -> np.ndarray:
    """Soft tissue: 8 slices of the bundled CT."""
    return np.ascontiguousarray(cycleinr.read(SAMPLE).values[12:20, 64:160, 80:160])


@pytest.fixture(scope="module")
def model(scan) -> NoiseModel:
    found = NoiseModel.of(scan, (5.0, 0.8, 0.8), "CT")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def taken(scan, model):
    return take(scan, model)


@pytest.fixture
def narrow(monkeypatch) -> None:
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "LEAST_STRIP", 24)


def test_a_small_scan_is_one_strip_and_its_signal_the_scan_without_what_was_taken(scan, model, taken):
    signal = Signal(scan, model, LIMITS)
    assert [(one.first, one.last) for one, _ in signal.strips(0, 96)] == [(0, 96)]
    np.testing.assert_array_equal(signal[:, 10:30], scan[:, 10:30] - taken.noise[:, 10:30])
    np.testing.assert_array_equal(signal.noise(), taken.noise)
    assert signal.shape == scan.shape and signal.min() == scan.min()


def test_strips_are_not_to_be_seen(scan, model, taken, narrow):
    signal = Signal(scan, model, LIMITS)
    np.testing.assert_allclose(signal.noise(), taken.noise, atol=1e-4)
    whole = Signal(scan, model, LIMITS)._split(0, 96)
    kept = whole.kept(slice(0, 96), slice(0, 80))
    for strip, rows in signal.strips(0, 96):
        at = slice(strip.first + rows.start, strip.first + rows.stop)
        np.testing.assert_allclose(strip.kept(rows, slice(5, 70)), kept[:, at, 5:70], atol=0.01)


def test_slices_that_are_split_apart_are_not_to_be_seen_either(scan, model, taken, monkeypatch):
    monkeypatch.setattr(strips, "LONG_STRIP", 3)
    np.testing.assert_allclose(Signal(scan, model, LIMITS).noise(), taken.noise, atol=1e-4)


def test_a_part_of_the_scan_begins_its_strips_at_cells_of_the_whole(scan, model, taken, narrow):
    signal = Signal(scan, model, ((1, 7), (10, 90), (6, 70)))
    found = [(one.first, one.last) for one, _ in signal.strips(0, 80)]
    assert len(found) > 2 and all((10 + first) % 4 == 0 for first, _ in found[1:]) and found[-1][1] == 80
    np.testing.assert_allclose(signal.noise(), taken.noise[1:7, 10:90, 6:70], atol=1e-4)


def test_no_more_strips_are_held_than_the_rows_that_are_read_and_each_is_split_once(scan, model, narrow, monkeypatch):
    split: list[int] = []
    real = Signal._split
    monkeypatch.setattr(Signal, "_split", lambda self, first, last: split.append(first) or real(self, first, last))
    signal = Signal(scan, model, LIMITS)
    for first in range(0, 96, 12):
        signal[:, max(0, first - 6) : first + 18]
        assert len(signal._held) <= 2
    assert split == [0, 24, 48, 72]
    signal.forget()
    assert not signal._held


def test_splitting_stops_when_asked(scan, model):
    def stop() -> None:
        raise Cancelled()

    with pytest.raises(Cancelled):
        Signal(scan, model, LIMITS, tick=stop)[:, 0:8]


@pytest.mark.parametrize("consistency", ["keep", "project"])
def test_a_volume_in_strips_is_the_volume(consistency, monkeypatch):
    whole = cycleinr.read(SAMPLE)
    values = np.ascontiguousarray(whole.values[12:20, 64:160, 80:144])
    volume = whole.with_values(values, whole.geometry.cropped((12, 64, 80), values.shape))
    asked = {"z_scale": 2, "noise": "renew", "gain": 1.0, "device": "cpu", "precision": "float32"}
    expected = cycleinr.upsample(volume, consistency=consistency, **asked).volume.values
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "LEAST_STRIP", 24)
    found = cycleinr.upsample(volume, consistency=consistency, **asked)
    assert np.abs(found.volume.values.astype(int) - expected).max() <= 1
    assert np.mean(found.volume.values != expected) < 0.001
    assert "taken" not in vars(found) and found.taken.values.shape == values.shape


def test_no_noise_is_made_around_the_body_and_all_else_is_the_same(monkeypatch):
    whole = cycleinr.read(SAMPLE)
    values = np.full((8, 96, 96), -1024, np.int16)
    values[:, 20:84, 30:80] = whole.values[12:20, 84:148, 90:140]
    volume = whole.with_values(values, whole.geometry.cropped((12, 64, 60), values.shape))
    asked = {"z_scale": 2, "noise": "renew", "gain": 1.0, "device": "cpu", "precision": "float32"}
    columns: list[tuple[int, int]] = []
    real = NoiseField.at
    monkeypatch.setattr(
        NoiseField, "at", lambda self, places, rows, across: columns.append(across) or real(self, places, rows, across)
    )
    found = cycleinr.upsample(volume, consistency="project", **asked).volume.values
    assert min(first for first, _ in columns) > 15 and max(last for _, last in columns) < 90
    monkeypatch.setattr(Renewal, "_touched", lambda self, x, beside: slice(0, x.shape[2]))
    expected = cycleinr.upsample(volume, consistency="project", **asked).volume.values
    assert columns[-1] == (0, 96) and found.std() > 100
    np.testing.assert_array_equal(found, expected)
