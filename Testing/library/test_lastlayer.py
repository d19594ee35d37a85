"""The last layer fitted in closed form: what its lines are, what changes, and what it never sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="adapting needs torch")

from CycleINRLib.adapting.adapt import adapt, compare_held_out  # noqa: E402
from CycleINRLib.adapting.lastlayer import fitted, lines_along  # noqa: E402
from CycleINRLib.adapting.thick import ThickScan, ready  # noqa: E402
from CycleINRLib.errors import Cancelled, VolumeError  # noqa: E402
from CycleINRLib.imaging.volume import Volume  # noqa: E402
from CycleINRLib.io.files import read  # noqa: E402
from CycleINRLib.jobs import AdaptJob  # noqa: E402
from CycleINRLib.network.weights import find_model, load_model, save_model  # noqa: E402

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "MR_knee_4.3mm.nrrd"


@pytest.fixture(scope="module")
def knee() -> Volume:
    """A block of a real scan with thick sagittal slices."""
    volume = read(SAMPLE)
    first = volume.slices_first("kji"[int(np.argmax(volume.spacing_mm))])
    n, j, i = first.values.shape
    block = np.ascontiguousarray(first.values[:, j // 2 - 48 : j // 2 + 48, i // 2 - 32 : i // 2 + 32])
    geometry = first.geometry.cropped((0, j // 2 - 48, i // 2 - 32), block.shape)
    return dataclasses.replace(first.with_values(block, geometry), name="knee", thickness_mm=3.3)


@pytest.fixture(scope="module")
def scan(knee) -> ThickScan:
    (scan,) = ready([knee], AdaptJob())
    return scan


@pytest.fixture(scope="module")
def light():
    return load_model(find_model("light"))


def test_lines_lie_as_far_apart_as_slices_and_the_asked_ones_between_them(scan):
    n, j, i = scan.shown[0].shape
    rows = np.broadcast_to(np.arange(j, dtype=np.float32)[None, :, None], (n, j, i))
    lines = lines_along(scan, rows, 1, 3.0)
    spacing, pixel = scan.volume.spacing_mm[:2]
    at = lines.thick.mean((1, 2))
    assert np.allclose(np.diff(at), spacing / pixel, rtol=0.01)
    asked = lines.thin.mean((1, 2))
    assert np.allclose(asked, np.interp(lines.places, np.arange(len(at)), at), atol=0.1)


def test_thin_lines_are_sharper_than_thick_ones(scan):
    lines = lines_along(scan, scan.shown[0], 1, 6.0)
    slope = [np.abs(np.diff(np.asarray(block), axis=0)).mean() for block in (lines.thick, lines.thin)]
    steps = np.diff(lines.places).mean()
    assert slope[1] / steps > 1.1 * slope[0]


def test_the_last_layer_alone_changes_and_every_call_changes_it_alike(scan, light):
    start = light[0]
    once, again = (fitted(start, [scan])[0].state_dict() for _ in range(2))
    changed = {name for name, value in start.state_dict().items() if not torch.equal(value, once[name])}
    assert changed == {"last.weight", "last.bias"}
    assert all(torch.equal(value, again[name]) for name, value in once.items())


def test_a_last_layer_that_was_spoiled_is_mended(scan, light, tmp_path):
    network, card = light
    spoiled = load_model(find_model("light"))[0]
    with torch.no_grad():
        spoiled.last.weight.mul_(-1.0)
    start = save_model(spoiled, card, tmp_path / "spoiled.safetensors")
    found = compare_held_out([scan], start, fitted(spoiled, [scan])[0])
    assert found["psnr_db"] > found["psnr_start_db"] + 0.5


def test_what_the_held_out_slices_show_makes_no_difference(scan, light):
    values = scan.volume.values.copy()
    values[scan.held] = values[scan.held][::-1]
    other = dataclasses.replace(scan, volume=scan.volume.with_values(values))
    one, gain = fitted(light[0], [scan])
    two, other_gain = fitted(light[0], [other])
    assert torch.equal(one.last.weight, two.last.weight) and gain != 0 and abs(gain - other_gain) < 0.05


def test_a_scan_without_room_for_lines_is_refused_in_a_sentence(knee, tmp_path):
    small = knee.values[:, :24, :24]
    geometry = knee.geometry.cropped((0, 0, 0), small.shape)
    with pytest.raises(VolumeError, match="too small to learn from"):
        adapt([knee.with_values(np.ascontiguousarray(small), geometry)], AdaptJob(), tmp_path)


def test_it_stops_when_asked_to(scan, light):
    with pytest.raises(Cancelled):
        fitted(light[0], [scan], cancelled=lambda: True)
