"""Panel, preview and pictures agree about which way an axis runs, whatever the rotation."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from CycleINRLib.imaging.geometry import AXES, Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.jobs import UpsampleJob
from CycleINRLib.pictures.planes import extract_plane
from CycleINRLib.upsampling.plan import plan
from CycleINRLib.upsampling.planes import row_of

SHAPE = (5, 9, 7)


def rotated(seed: int) -> Volume:
    """Three different numbers a voxel: its position along k, j and i."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * (1.0, 1.1, 4.0)
    k, j, i = np.indices(SHAPE)
    return Volume((100 * k + 10 * j + i).astype(np.int16), Geometry(SHAPE, matrix), "MR")


@pytest.mark.parametrize("seed", range(60))
def test_panel_preview_and_pictures_take_the_same_row_of_any_rotation(seed, the_module):
    views = importlib.import_module("CycleINRParts.views")
    volume = rotated(seed)
    axis = plan(volume, UpsampleJob(z_scale=2)).axis
    place = volume.geometry.ras_of(np.array([3, 6, 2]))
    across = views.across(volume, axis)
    assert axis not in across.values() and len(across) == 2
    for direction, name in across.items():
        at = AXES.index(name)
        row = (3, 6, 2)[at]
        coordinate = views.place_across(volume, name, direction, place)
        assert row_of(volume.geometry, axis, direction.lower(), coordinate) == (name, row)
        point = volume.geometry.on_center_line(direction.lower(), coordinate)
        shown = extract_plane(volume, direction.lower(), point).values
        assert set(shown.ravel()) == set(np.take(volume.values, row, axis=at).ravel())
