"""What needs no network gets none: padding around a body, slices that are kept, a scan without correction."""

import numpy as np
import pytest

from CycleINRLib.imaging.body import BODY_MARGIN, Rectangle, body_seen
from CycleINRLib.imaging.geometry import Geometry
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.jobs import UpsampleJob

ROWS, COLUMNS = slice(44, 68), slice(39, 62)  # of the body


def padded(seed: int = 0) -> Volume:
    """(5, 112, 106) HU: tissue with noise in the middle of padding."""
    values = np.full((5, 112, 106), -1024, np.int16)
    size = (5, ROWS.stop - ROWS.start, COLUMNS.stop - COLUMNS.start)
    values[:, ROWS, COLUMNS] = np.random.default_rng(seed).normal(40, 20, size)
    return Volume(values, Geometry.from_spacing(values.shape, (4.0, 1.0, 1.0)), "CT", "HU", 4.0, "k")


def test_the_body_is_where_any_slice_holds_more_than_the_lowest_value_and_a_margin():
    values = padded().values
    expected = Rectangle(*(slice(part.start - BODY_MARGIN, part.stop + BODY_MARGIN) for part in (ROWS, COLUMNS)))
    assert body_seen(values) == expected
    values[3, 20, 90] = -1023
    rows, columns = body_seen(values) or pytest.fail("nothing is left out")
    assert (rows.start, columns.stop) == (20 - BODY_MARGIN, 90 + BODY_MARGIN + 1)


def test_the_body_is_counted_from_the_first_row_and_column_of_a_region():
    body, part = body_seen(padded().values), body_seen(padded().values, ((1, 5), (40, 90), (10, 100)))
    assert body is not None and part == body.seen_from(40, 10)


def test_a_scan_without_padding_is_computed_everywhere():
    values = np.random.default_rng(0).normal(0, 20, (5, 40, 50)).astype(np.int16)
    assert body_seen(values) is None
    assert body_seen(np.zeros((5, 40, 50), np.int16)) is None


@pytest.fixture(scope="module", params=["project", "keep"])
def runs(request):
    """A function that computes the padded scan, all of it or its body alone; float32."""
    pytest.importorskip("torch")
    from CycleINRLib.upsampling.engine import Engine, Settings
    from CycleINRLib.upsampling.plan import plan

    scan = padded()
    job = UpsampleJob(z_scale=2.5, consistency=request.param, precision="float32", device="cpu", noise="acquired")
    planned = plan(scan, job)
    engine = Engine.of(scan, job, planned, None, None)
    engine.kind = np.dtype(np.float32)  # before rounding

    def made(body, **wanted):
        return engine.run(scan.values, planned.grid, Settings(1.2), body=body, **wanted)[0]

    return scan, made


def test_within_the_body_nothing_changes_and_beyond_it_padding_stays_what_it_is(runs):
    scan, made = runs
    body = body_seen(scan.values)
    assert body is not None
    whole, some = made(None), made(body)
    assert np.abs(whole - some)[:, body.rows, body.columns].max() < 0.01
    beyond = np.ones(scan.values.shape[1:], bool)
    beyond[body.rows, body.columns] = False
    assert np.abs(some[:, beyond] + 1024).max() < 0.01
    assert np.abs(some[:, ROWS, COLUMNS] + 1024).max() > 100  # and it is not all padding


def test_planes_of_a_padded_scan_equal_those_of_its_volume(runs):
    scan, made = runs
    body = body_seen(scan.values)
    whole = made(body)
    for row in (5, 37, 60):
        assert np.abs(made(body, rows=(row, row + 1))[:, 0] - whole[:, row]).max() < 0.01
    for column in (5, 32, 50):
        assert np.abs(made(body, column=column)[:, :, 0] - whole[:, :, column]).max() < 0.01


def asked(monkeypatch, scan: Volume, consistency: str, gain: float) -> tuple[list[float], list[int]]:
    """The positions at which the network is asked, and what the progress says to be done."""
    pytest.importorskip("torch")
    import CycleINRLib as cycleinr
    from CycleINRLib.network import infer

    positions: list[float] = []
    real = infer.corrections

    def noting(network, source, rows, places, **named):
        positions.extend(places)
        return real(network, source, rows, places, **named)

    monkeypatch.setattr(infer, "corrections", noting)
    told: list[int] = []
    until: list[float] = []

    def listen(event) -> None:
        if getattr(event, "stage", "") == "upsample":
            told.append(event.of - event.done)
            until[:] = positions  # what comes later measures the machine

    job = UpsampleJob(
        z_scale=2, consistency=consistency, gain=gain, precision="float32", device="cpu", noise="acquired"
    )
    cycleinr.upsample(scan, job, progress=listen)
    return until, told


def small() -> Volume:
    values = np.random.default_rng(0).normal(40, 20, (5, 20, 24)).astype(np.int16)
    return Volume(values, Geometry.from_spacing(values.shape, (2.0, 1.0, 1.0)), "CT", "HU", 2.0, "k")


def test_slices_that_are_kept_are_not_asked_of_the_network(monkeypatch):
    assert asked(monkeypatch, small(), "keep", 1.0)[0] == [0.5, 1.5, 2.5, 3.5]
    assert 1.0 in asked(monkeypatch, small(), "project", 1.0)[0]


def test_without_a_correction_no_network_runs_and_the_progress_ends_all_the_same(monkeypatch):
    positions, left = asked(monkeypatch, small(), "project", 0.0)
    assert positions == [] and left[-1] == 0
