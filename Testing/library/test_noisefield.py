"""The noise field is a pure function of the position in the scan and of its seed."""

from __future__ import annotations

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from CycleINRLib.upsampling.noisefield import NoiseField, seed_of  # noqa: E402

KERNEL = np.exp(-np.add.outer(np.arange(-5, 6) ** 2, np.arange(-5, 6) ** 2) / 2.0)
POSITIONS = np.arange(0, 6, 0.25)
WHOLE = (0, 90), (0, 70)


@pytest.fixture(scope="module")
def field() -> NoiseField:
    return NoiseField(2026, (90, 70), KERNEL, 0.2, 0.25)


@pytest.fixture(scope="module")
def noise(field) -> np.ndarray:
    return field.at(POSITIONS, *WHOLE)


def test_noise_has_unit_variance_the_kernel_within_slices_and_the_correlation_across_them(noise):
    kernel = KERNEL / np.sqrt(np.sum(KERNEL**2))
    beside = np.sum(kernel[:, 1:] * kernel[:, :-1])
    assert noise.std() == pytest.approx(1, abs=0.02) and noise.mean() == pytest.approx(0, abs=0.03)
    assert np.mean(noise[:, :, 1:] * noise[:, :, :-1]) == pytest.approx(beside, abs=0.03)
    assert np.mean(noise[1:] * noise[:-1]) == pytest.approx(0.2, abs=0.04)
    assert abs(np.mean(noise[3:] * noise[:-3])) < 0.03


def test_any_part_of_it_is_the_same_to_the_byte(field, noise):
    part = field.at(POSITIONS[5:9], (13, 40), (31, 64))
    assert part.tobytes() == np.ascontiguousarray(noise[5:9, 13:40, 31:64]).tobytes()


def test_slabs_and_threads_do_not_change_it(field, noise):
    rows = [(first, min(90, first + 12)) for first in range(0, 90, 12)]
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda limits: field.at(POSITIONS, limits, (0, 70)), rows))
    assert np.concatenate(parts, axis=1).tobytes() == noise.tobytes()


def test_the_threads_of_torch_do_not_change_it(field, noise):
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert field.at(POSITIONS, *WHOLE).tobytes() == noise.tobytes()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("step", [1.0, 0.5, 0.25, 0.1, 1 / 16])
@pytest.mark.parametrize("alike", [0.02, 0.3, 0.7])
def test_the_correlation_across_slices_is_that_of_every_spacing(step, alike):
    """However many planes the lattice has for it."""
    found = NoiseField(7, (64, 64), KERNEL, alike, step).at(np.arange(12) * step, (0, 64), (0, 64))
    assert found.std() == pytest.approx(1, abs=0.05)
    assert np.mean(found[1:] * found[:-1]) == pytest.approx(alike, abs=0.07)
    assert np.mean(found[2:] * found[:-2]) == pytest.approx(alike**4, abs=0.07)


def test_it_is_the_same_on_every_machine(noise):
    """Whole numbers in, whole numbers out: the digest is that of every processor and library version."""
    assert hashlib.sha256(noise[:4].astype("<f4").tobytes()).hexdigest()[:16] == "9d053a5dad2858e0"


def test_another_seed_gives_noise_that_has_nothing_in_common(field):
    one, other = (
        dataclasses.replace(field, seed=seed, shape=(200, 200)).at(np.arange(8.0), (0, 200), (0, 200))
        for seed in (1, 2)
    )
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.01


def test_it_repeats_nowhere(noise):
    """No shift within slices or across them brings it back."""
    spectrum = np.abs(np.fft.fftn(noise)) ** 2
    alike = np.fft.ifftn(spectrum).real / noise.size
    alike[:4, :4, :4] = alike[-3:, :4, :4] = alike[:4, -3:, :4] = alike[:4, :4, -3:] = 0  # its own correlation
    alike[-3:, -3:, :4] = alike[-3:, :4, -3:] = alike[:4, -3:, -3:] = alike[-3:, -3:, -3:] = 0
    assert np.abs(alike).max() < 0.05


def test_the_seed_knows_neither_shift_nor_scale_and_differs_between_scans():
    scan = np.random.default_rng(0).integers(0, 1000, (5, 40, 40))
    assert seed_of(scan) == seed_of(scan + 50) == seed_of(scan * 3)
    assert seed_of(scan) != seed_of(scan[::-1])
