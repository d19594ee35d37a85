"""The last layer of a network, fitted in closed form to lines within the slices of one's own scans (floor 3).

Within acquired slices pixels are fine. Lines of them are averaged over the slice thickness at the slice spacing, as the
scanner did across slices, and the lines between are known. With X what the last layer sees at the pixels there, w its
weights and y the correction that would be right,

    minimize  mean (y - X w)^2 + STAY * mean(diag X'X) * |w - w_start|^2

which has one solution, found in seconds; gradient steps of some minutes leave a trained network where it is, or worse.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import Cancelled, VolumeError
from ..events import Listener, Stopwatch
from ..imaging.consistency import KEEP_RATIO
from ..imaging.intensity import BODY_CT_HU, BODY_MR, IntensityScale
from ..imaging.interpolation import base_weights, cubic_weights
from ..imaging.profile import profile_weights
from ..network.model import Conditions, CycleINR, source_features
from ..training.degradation import ScanProtocol
from .thick import ThickScan

STAY = 1.0  # 0.3 gains 0.03 dB more where there are many slices, and loses 0.1 dB where there are few
HALVED = 2.0  # z-scale; asked of thick slices without gaps, it cost 0.03 to 0.06 dB of the isotropic result
MOST_Z_SCALE = 6.0  # to isotropic, as far as the network has learned it
MOST_PLACES = 40  # along the lines of one direction
MOST_PIXELS = 192  # of the plane through the lines, and of the lines
LEAST_LINES, LEAST_SHOWN = 4, 4
_ON_LINE = 1e-6


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines of one direction as slices: `thick` (N, H, W) as acquired, `thin` (M, H, W) at `places` (M,) among them.

    spacing_mm : of the thick lines, and twice that of the pixels; z_scale : of the thin ones
    """

    thick: np.ndarray
    thin: np.ndarray
    places: np.ndarray
    spacing_mm: tuple[float, float, float]
    protocol: ScanProtocol


@dataclass(eq=False)
class Sums:
    """Over pixels: X'X, X'r and r'r, with r = y - X w_start, and how many pixels there are."""

    square: Tensor
    missing: Tensor
    power: float = 0.0
    count: int = 0

    @classmethod
    def zero(cls, size: int) -> Sums:
        return cls(torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64))

    def add(self, seen: Tensor, missing: Tensor) -> None:
        """Of pixels: what the last layer sees (n, size), and what its output lacks (n,)."""
        self.square += (seen.T @ seen).double().cpu()
        self.missing += (seen.T @ missing).double().cpu()
        self.power += float(missing.double().square().sum())
        self.count += len(missing)

    def include(self, other: Sums) -> None:
        """The means of `other` as one more pixel, so that all lines count alike."""
        self.square += other.square / other.count
        self.missing += other.missing / other.count
        self.power += other.power / other.count
        self.count += 1

    def gain_db(self, change: Tensor) -> float:
        """How much less the mean square of r is once `change` is added to the weights."""
        left = self.power - 2 * float(change @ self.missing) + float(change @ self.square @ change)
        return 10 * math.log10(self.power / max(left, 1e-12 * self.power)) if self.power else 0.0


def fitted(
    network: CycleINR,
    scans: Sequence[ThickScan],
    *,
    device: str = "cpu",
    precision: str = "float32",
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[CycleINR, float]:
    """A copy of the network, on the CPU, whose last layer is fitted to the shown slices of the scans; and its gain.

    Every scan, direction and z-scale counts alike. The same on every call: nothing is drawn.

    Returns
    -------
    the network; by how many dB it is better than before on lines of the held-out slices

    Raises
    ------
    VolumeError : no scan is large enough
    Cancelled : `cancelled()` turned true
    """
    start = copy.deepcopy(network).to(device).eval().requires_grad_(False)
    shown = [(scan, part) for scan in scans for part in scan.shown]
    stretches = [*((True, *each) for each in shown), *((False, scan, scan.held_out) for scan in scans)]
    todo = [(known, scan, make) for known, scan, part in stretches for make in _makers(scan, part)]
    watch = Stopwatch("adapt", len(todo), progress)
    size = start.last.weight.shape[1] + 1
    known_lines, other_lines = Sums.zero(size), Sums.zero(size)
    for known, scan, make in todo:
        if cancelled is not None and cancelled():
            raise Cancelled()
        lines = make()
        found = Sums.zero(size) if lines is None else _sums(start, scan, lines, device, precision)
        if found.count:
            (known_lines if known else other_lines).include(found)
        watch.step()
    if not known_lines.count:
        sizes = ", ".join(" x ".join(map(str, reversed(scan.volume.values.shape))) for scan in scans)
        raise VolumeError("The scan is too small to learn from", sizes, "give scans of more slices or a larger field")
    ridge = STAY * known_lines.square.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    change = torch.linalg.solve(known_lines.square + ridge, known_lines.missing)
    learned = copy.deepcopy(network).to("cpu").eval().requires_grad_(False)
    learned.last.weight += change[None, :-1, None, None].float()
    learned.last.bias += change[-1:].float()
    return learned, round(other_lines.gain_db(change), 3)


def _makers(scan: ThickScan, part: np.ndarray) -> Iterator[Callable[[], Lines | None]]:
    """Makers of the lines of a stretch, each in-plane direction and z-scale: each takes memory of its own.

    Slices with gaps are asked half-way too. Lines twice as far apart, as the examination sees slices, made it worse.
    """
    own = float(min(MOST_Z_SCALE, max(HALVED, round(scan.protocol.z_scale))))
    asked = {own} if scan.protocol.ratio > KEEP_RATIO else {HALVED, own}
    if len(part) >= LEAST_SHOWN:
        for axis, z_scale in product((1, 2), sorted(asked)):
            yield partial(lines_along, scan, part, axis, z_scale)


def lines_along(scan: ThickScan, part: np.ndarray, axis: int, z_scale: float) -> Lines | None:
    """The lines of slices `part` (N, J, I) along `axis` (1 or 2) as slices; None: too few.

    Pixels of the plane through them lie in-plane and, filled by cubic interpolation, across the slices.
    """
    spacing, pixel = scan.volume.spacing_mm[0], scan.volume.spacing_mm[axis]
    other = scan.volume.spacing_mm[3 - axis]
    finer = spacing / other
    values = np.moveaxis(np.asarray(part, np.float32), axis, 0)  # (lines, N, pixels)
    count = min(values.shape[1], int(MOST_PIXELS / finer) + 1)
    values = _middle(_middle(_middle(values, 1, count), 2, MOST_PIXELS), 0, 2 * MOST_PIXELS)
    ratio, profile = scan.protocol.ratio, scan.protocol.profile
    thickness = ratio * spacing / pixel  # in lines
    thin = spacing / z_scale / pixel
    first = max(0.5, thickness * (1.0 if profile == "gaussian" else 0.5))  # those that the end would cut lean
    lines = int((len(values) - 1 - 2 * first) * pixel / spacing) + 1
    if lines < LEAST_LINES:
        return None
    places = np.arange(int((lines - 1) * z_scale) + 1) / z_scale
    if ratio <= KEEP_RATIO:  # acquired slices stay as they are
        places = places[np.abs(places - np.rint(places)) > _ON_LINE]
    places = places[np.unique(np.linspace(0, len(places) - 1, MOST_PLACES).astype(int))]
    filled = cubic_weights(np.arange(int((count - 1) * finer) + 1) / finer, count).astype(np.float32)

    def averaged(at: np.ndarray, width: float) -> np.ndarray:
        weights = profile_weights(first + at * spacing / pixel, width, len(values), profile).astype(np.float32)
        return np.ascontiguousarray(np.einsum("kn,lno->lko", filled, np.tensordot(weights, values, 1)))

    narrow = min(thin, thickness) if profile != "skip" else 1.0
    mm = (spacing, other, other)
    thick, asked = averaged(np.arange(lines), thickness), ScanProtocol(z_scale, ratio, profile)
    return Lines(thick, averaged(places, narrow), places, mm, asked)


def _middle(values: np.ndarray, axis: int, most: int) -> np.ndarray:
    """The middle of an axis, at most so long; an even number along the last two, since pixels are folded by two."""
    count = min(values.shape[axis], most)
    first = (values.shape[axis] - count) // 2
    return values[(slice(None),) * axis + (slice(first, first + count),)]


@torch.no_grad()
def _sums(network: CycleINR, scan: ThickScan, lines: Lines, device: str, precision: str) -> Sums:
    """Over the body of the thin lines."""
    count, rows, columns = (n - n % 2 if axis else n for axis, n in enumerate(lines.thick.shape))
    thick, thin = lines.thick[:, :rows, :columns], lines.thin[:, :rows, :columns]
    scale = IntensityScale.of(thick, scan.modality, scan.scale)
    protocol = lines.protocol
    anisotropy = lines.spacing_mm[0] / min(lines.spacing_mm[1:])
    told = Conditions(protocol.ratio, protocol.form, anisotropy, scale.through, scale.within)
    source = torch.from_numpy(thick / np.float32(scan.scale)).to(device)[None]
    features = source_features(source, scale.detail)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        condition = torch.tensor([told.of_scan()], dtype=torch.float32, device=device)
        codes = network.codes_of(network.encode(features, condition), features)
    codes = codes.float()[0].transpose(0, 1)
    weights = base_weights(lines.places, count, protocol.ratio, 1 / protocol.z_scale).astype(np.float32)
    base = np.tensordot(weights, thick, 1)
    body = thin > (BODY_CT_HU if scan.modality == "CT" else BODY_MR * scan.scale)
    wanted = torch.from_numpy((thin - base) / np.float32(scan.scale * scale.detail)).to(device)
    sums = Sums.zero(network.last.weight.shape[1] + 1)
    for m, place in enumerate(lines.places):
        below = min(int(place), count - 2)
        t = float(place - below)
        pair = codes[below : below + 2].contiguous()
        under = over = None
        if network.attend is not None:
            under, over = F.pad(network.attend.key_value(pair), (1, 1, 1, 1), mode="replicate").split(1)
        query = torch.tensor([told.of_place(t, protocol.z_scale)], dtype=torch.float32, device=device)
        hidden = network.decode_hidden(pair[:1], pair[1:], under, over, torch.tensor([t], device=device), query)[0]
        at = torch.from_numpy(body[m].ravel()).to(device)
        seen = torch.cat([hidden, torch.ones_like(hidden[:1])]).T[at]
        last = torch.cat([network.last.weight[0, :, 0, 0], network.last.bias])
        sums.add(seen, wanted[m].flatten()[at] - seen @ last)
    return sums
