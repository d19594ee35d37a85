"""The main job: a volume in, an isotropic volume and its report out (floor 3).

The way of one volume (design section 3): plan -> normalize -> for each slab: encode, query each place, denormalize,
consistency -> measure -> report. Nothing here draws random numbers or opens a file but the model's.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Cancelled, MissingPackageError, RequestError, ResourceError
from ..events import Listener, Stopwatch, Warned
from ..imaging.baselines import base_weights, cubic_weights
from ..imaging.consistency import Grid, kept, projection
from ..imaging.geometry import AXES, Geometry
from ..imaging.intensity import IntensityScale
from ..imaging.metrics import AcquiredQuery, noise_readout, positions_to_query, psnr
from ..imaging.slabs import MIN_ROWS, Slab, plan_slabs, rows_within, slab_for_rows
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from .aim import WORKING_BYTES, Plan, available_memory_bytes, plan

__all__ = ["Plan", "Result", "plan", "preview", "upsample"]

CLIPPED_SHARE = 1e-3  # of the voxels beyond the type's range from which it is said
SELF_CHECK_PIXELS = 160  # side of the central block that the self-check computes
RATIO_SEEN = 1.3  # thickness / spacing up to which the network was trained


@dataclass(frozen=True, eq=False)
class Result:
    """The upsampled volume and its report (design section 4.5)."""

    volume: Volume
    report: dict[str, Any]


def upsample(
    volume: Volume,
    job: UpsampleJob | None = None,
    *,
    like: Geometry | Volume | None = None,
    progress: Listener | None = None,
    cancelled: Callable[[], bool] | None = None,
    **fields: Any,
) -> Result:
    """An isotropic volume, or one of the asked z-scale, spacing or grid, by the implicit neural representation.

    Parameters
    ----------
    volume : the scan, (K, J, I) in HU (CT) or stored units (MR), any slice axis
    job : the request; or its fields as keywords: `upsample(volume, z_scale=3.5)`
    like : a Volume or Geometry whose grid is filled
    progress : receives events.Progress and events.Warned
    cancelled : asked between slabs and between layers; true stops the run

    Returns
    -------
    Result : volume of the source's type and unit at the target geometry, and the report

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, MissingPackageError, Cancelled : see errors
    """
    start = time.monotonic()
    job = dataclasses.replace(job or UpsampleJob(), **fields)
    if job.like is not None and like is None:
        raise RequestError("The reference is not read yet", job.like, "pass like=cycleinr.read(path)")
    aim = plan(volume, job, like)
    engine = Engine.of(volume, job, aim, progress, cancelled)
    source = volume.slices_first(aim.axis)
    values, errors, queried = engine.run(source.values, aim.grid)
    output = engine.stored(values)
    readout = noise_readout(
        source.values, output, aim.z_scale, aim.modality, acquired=queried, positions=aim.grid.positions[aim.grid.crop]
    )
    check = engine.self_check(source.values, errors) if job.self_check else None
    result = _placed(volume, output, aim)
    engine.watch_memory()
    return Result(result, _report(volume, result, job, aim, engine, readout, errors, check, time.monotonic() - start))


def preview(
    volume: Volume, plane: str, at_mm: float | None = None, z_scale: float | None = None, **fields: Any
) -> Volume:
    """One coronal or sagittal plane of the result, alone: a Volume one row (or column) thick.

    Parameters
    ----------
    plane : "coronal" or "sagittal", meaning the in-plane axis nearest to anterior-posterior or left-right
    at_mm : RAS coordinate of the plane along that direction (P-A or L-R), None: the middle
    z_scale : as for `upsample`; further job fields as keywords

    Raises
    ------
    RequestError : the plane is none of the two, lies outside the volume, or is parallel to the slices
    """
    job = UpsampleJob(z_scale=z_scale, **fields)
    aim = plan(volume, job)
    name, row = _row_of(volume.geometry, aim.axis, plane, at_mm)
    source = volume.slices_first(aim.axis).values
    engine = Engine.of(volume, job, aim, None, None)
    if name == _in_plane(aim.axis)[0]:
        wide, _, _ = engine.run(source, aim.grid, rows=(row, row + 1))
    else:
        slab = slab_for_rows(row, row + 1, source.shape[2], engine.network.reach)
        block = source[:, :, slab.read_first : slab.read_last]
        wide, _, _ = engine.run(block, aim.grid, column=row - slab.read_first)
    stored = np.moveaxis(engine.stored(wide), 0, AXES.index(aim.axis))
    first = [0, 0, 0]
    first[AXES.index(name)] = row
    return dataclasses.replace(
        volume,
        values=stored,
        geometry=aim.target.cropped((first[0], first[1], first[2]), stored.shape),
        slice_axis=aim.axis,
    )


# --- the engine: one network on one device, for one scan ------------------------------------------------------
class Engine:
    """Computes output slices of one scan slab by slab, with the fallbacks for memory, cancel and progress."""

    def __init__(
        self, network, card, path, device: str, precision: str, scale: IntensityScale, aim: Plan, kind
    ) -> None:
        self.network, self.card, self.path = network, card, path
        self.device, self.precision = device, precision
        self.scale, self.aim, self.kind = scale, aim, kind
        self.progress: Listener | None = None
        self.cancelled: Callable[[], bool] | None = None
        self.warnings: list[str] = []
        self.rows_limit: int | None = None
        self.peak_mb = peak_memory_mb()

    @classmethod
    def of(cls, volume: Volume, job: UpsampleJob, aim: Plan, progress, cancelled) -> Engine:
        """Loads the model, chooses device and precision, measures the scan's intensities."""
        try:
            from ..network.device import DTYPES, cast_network, choose_device, choose_precision
            from ..network.weights import find_model, load_model
        except ImportError as error:
            raise MissingPackageError(
                "The network needs PyTorch and safetensors",
                f"{error.name or error} is not installed",
                "install the extra with pip install CycleINR[torch], or the PyTorch extension in Slicer; "
                "info and measure work without it",
            ) from error
        device = choose_device(job.device)
        path = find_model(job.model, device)
        network, card = load_model(path)
        if job.texture and not card.texture:
            raise RequestError("This model knows no texture", f"--texture {job.texture:g}", "use --texture 0")
        precision = choose_precision(job.precision, network, device)
        scale = IntensityScale.of(volume.slices_first(aim.axis).values, aim.modality)
        network = cast_network(network, device, DTYPES[precision])
        engine = cls(network, card, path, device, precision, scale, aim, volume.values.dtype)
        engine.progress, engine.cancelled = progress, cancelled
        for message in (*aim.warnings, *_doubts(card, aim, volume)):
            engine.warn(message)
        return engine

    # --- running ----------------------------------------------------------------------------------------------
    def run(
        self, values: np.ndarray, grid: Grid, rows: tuple[int, int] | None = None, column: int | None = None
    ) -> tuple[np.ndarray, Remainder, AcquiredQuery | None]:
        """Output slices of (N, J, I) `values` on the target part of `grid`, for all of it, some rows or one column.

        Returns
        -------
        (M, rows, I) in the scan's type for whole volumes, which saves memory, else (M, rows, columns) float32;
        what consistency left over; the output at acquired positions where the measure needs it
        """
        whole = rows is None and column is None
        columns = slice(0, values.shape[2]) if column is None else slice(column, column + 1)
        first, last = rows or (0, values.shape[1])
        slices = grid.crop.stop - grid.crop.start
        output = np.empty((slices, last - first, columns.stop - columns.start), self.kind if whole else np.float32)
        wanted = positions_to_query(grid.positions[grid.crop], len(values)) if whole else np.zeros(0, int)
        beside = np.empty((len(wanted), *output.shape[1:]), np.float32) if len(wanted) else None
        errors = Remainder()
        slabs = self._slabs(values.shape, first, last, grid)
        watch = Stopwatch("upsample", len(slabs) * self._ticks(len(values)), self.progress)
        done = 0
        while done < len(slabs):
            slab = slabs[done]
            try:
                x, extra = self._slab(values, slab, columns, grid, wanted, watch, errors)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                slabs = slabs[:done] + self._retry(values.shape, slab.first, last, grid, error)
                continue
            keep = slice(max(slab.first, first) - slab.first, None)
            at = slice(max(slab.first, first) - first, slab.last - first)
            output[:, at] = self.stored(x[:, keep]) if whole else x[:, keep]
            if beside is not None:
                beside[:, at] = extra[:, keep]
            done += 1
        query = None if beside is None else AcquiredQuery(self.stored(beside), wanted)
        return output, errors, query

    def _slab(self, values, slab: Slab, columns: slice, grid: Grid, wanted: np.ndarray, watch: Stopwatch, errors):
        """One slab, consistent with its acquired slices: (M, rows, columns) float32, and the slices `wanted` beside."""
        read = np.asarray(values[:, slab.read_first : slab.read_last], np.float32)
        rows = slice(slab.first - slab.read_first, slab.last - slab.read_first)
        y = np.ascontiguousarray(read[:, rows, columns])
        inside = np.clip(grid.positions, 0, grid.count - 1)
        places, where = np.unique(np.concatenate([inside, wanted]).round(9), return_inverse=True)
        unique = np.tensordot(self._base(places, grid), y, 1)
        unique += self._corrections(read, rows, columns, places, grid, watch)
        x, extra = unique[where[: len(inside)]], unique[where[len(inside) :]]
        del unique
        aim = self.aim
        if aim.consistency == "keep":
            x = kept(x, y, inside)
            extra = y[wanted]
        elif aim.consistency in ("project", "exact"):
            A = grid.profile(aim.ratio, aim.profile).astype(np.float32)
            P = projection(A.astype(np.float64), aim.consistency).astype(np.float32)
            missing = y - np.tensordot(A, x, 1)
            update = np.tensordot(P, missing, 1)
            x += update
            extra += _along_z(grid, update, wanted)
            errors.add(y - np.tensordot(A, x, 1), y)
        return x[grid.crop], extra

    def _base(self, places: np.ndarray, grid: Grid) -> np.ndarray:
        return base_weights(places, grid.count, self.aim.ratio, grid.step).astype(np.float32)

    def _corrections(
        self, read: np.ndarray, rows: slice, columns: slice, places: np.ndarray, grid: Grid, watch: Stopwatch
    ) -> np.ndarray:
        """The network's part at sorted `places`, in the scan's unit: (M, rows, columns) float32."""
        from ..network.infer import corrections

        def tick() -> None:
            watch.step()
            if self.cancelled is not None and self.cancelled():
                raise Cancelled()

        aim, scale = self.aim, self.scale
        out = np.empty((len(places), rows.stop - rows.start, columns.stop - columns.start), np.float32)
        spacing = self.source_spacing_mm
        parts = corrections(
            self.network,
            read / np.float32(scale.scale),
            rows,
            places,
            columns=columns,
            scale=scale,
            z_scale=1 / grid.step,
            ratio=min(aim.ratio, RATIO_SEEN),
            gaussian=aim.gaussian,
            anisotropy=spacing[0] / min(spacing[1:]),
            tick=tick,
        )
        for part, found in parts:
            np.multiply(found, np.float32(scale.scale), out=out[part])
        return out

    @property
    def source_spacing_mm(self) -> tuple[float, float, float]:
        """(slice, in-plane, in-plane) spacing of the source."""
        spacing = self.aim.target.slices_first(self.aim.axis).spacing_mm
        return spacing[0] * self.aim.z_scale, spacing[1], spacing[2]

    # --- slabs and memory -------------------------------------------------------------------------------------
    def _slabs(self, shape: tuple[int, ...], first: int, last: int, grid: Grid) -> list[Slab]:
        halo = self.network.reach
        if (first, last) != (0, shape[1]):
            return [slab_for_rows(first, last, shape[1], halo)]
        return plan_slabs(shape[1], halo, self._rows(shape, grid))

    def _rows(self, shape: tuple[int, ...], grid: Grid) -> int:
        """Rows per slab that fit the memory there is.

        Raises
        ------
        ResourceError : not even the smallest slab fits; says how much is needed
        """
        from ..network.device import DTYPES, free_memory_bytes
        from ..network.infer import bytes_per_row

        per_row = bytes_per_row(self.network, shape[0], shape[2], len(grid.positions), DTYPES[self.precision].itemsize)
        budget = min(WORKING_BYTES, 0.7 * available_memory_bytes(), 0.7 * free_memory_bytes(self.device))
        if self.device == "cuda":
            budget = 0.7 * free_memory_bytes("cuda")
        needed = per_row * (MIN_ROWS + 2 * self.network.reach)
        if needed > max(budget, 0.9 * available_memory_bytes()):
            found = f"{needed / 1e9:.1f} GB for the smallest slab, {budget / 1e9:.1f} GB free"
            raise ResourceError("There is not enough memory", found, "close other programs, or crop the volume")
        rows = rows_within(budget, shape[1], per_row, 0, self.network.reach)
        return min(rows, self.rows_limit or rows)

    def _retry(self, shape: tuple[int, ...], first: int, last: int, grid: Grid, error: Exception) -> list[Slab]:
        """The remaining slabs after memory ran out: half the rows, and from the smallest slab on the CPU."""
        from ..network.device import cast_network

        rows = (self.rows_limit or self._rows(shape, grid)) // 2
        if rows < MIN_ROWS:
            if self.device == "cpu":
                found = f"even {MIN_ROWS} rows did not fit"
                raise ResourceError(
                    "There is not enough memory", found, "close other programs, or crop the volume"
                ) from error
            import torch

            self.warn(f"Memory of {self.device} ran out with the smallest slab: going on with the CPU.")
            self.network = cast_network(self.network, "cpu", torch.float32)
            self.device, self.precision, self.rows_limit = "cpu", "float32", None
        else:
            self.warn(f"Memory ran out: slabs of {rows} rows instead.")
            self.rows_limit = rows
            if self.device == "cuda":
                import torch

                torch.cuda.empty_cache()
        halo = self.network.reach
        rest = plan_slabs(last - first, halo, self._rows(shape, grid))
        end = shape[1]
        return [
            Slab(first + s.first, first + s.last, max(0, first + s.first - halo), min(end, first + s.last + halo))
            for s in rest
        ]

    def _ticks(self, slices: int) -> int:
        from ..network.infer import step_count

        return step_count(self.network, slices)

    def watch_memory(self) -> None:
        self.peak_mb = peak_memory_mb()

    # --- values -----------------------------------------------------------------------------------------------
    def stored(self, values: np.ndarray) -> np.ndarray:
        """Float32 values in the scan's type: integers rounded and clipped to the type's range."""
        if values.dtype == self.kind:
            return values
        if self.kind.kind not in "iu":
            return values.astype(self.kind if self.kind.kind == "f" else np.float32)
        limits = np.iinfo(self.kind)
        whole = np.rint(values)
        far = 0.02 * self.scale.scale  # rounding and noise around an empty background are no loss
        beyond = np.count_nonzero((whole < limits.min - far) | (whole > limits.max + far))
        if beyond > CLIPPED_SHARE * whole.size:
            self.warn(f"Intensities beyond the range of {self.kind} were clipped.")
        return np.clip(whole, limits.min, limits.max).astype(self.kind)

    def warn(self, message: str) -> None:
        """Into the report once, and to the listener."""
        if message not in self.warnings:
            self.warnings.append(message)
            if self.progress is not None:
                self.progress(Warned(message))

    def self_check(self, values: np.ndarray, errors: Remainder) -> dict[str, float | None]:
        """Every second acquired slice predicted from the others, on a central block (no ground truth needed)."""
        j, i = (slice(max(0, (n - SELF_CHECK_PIXELS) // 2), (n + SELF_CHECK_PIXELS) // 2) for n in values.shape[1:])
        block = np.asarray(values[:, j, i], np.float32)
        known, hidden = block[::2], block[1::2]
        if len(known) < 3:
            return {"psnr_db": None, "psnr_cubic_db": None, "cycle_psnr_db": None}
        hidden = hidden[: len(known) - 1]
        half = dataclasses.replace(self.aim, ratio=self.aim.ratio / 2, consistency="none", reversed=False)
        places = np.arange(len(hidden)) + 0.5
        grid = Grid(places, slice(0, len(places)), len(known), 0.5)
        other = Engine(
            self.network, self.card, self.path, self.device, self.precision, self.scale, half, np.dtype(np.float32)
        )
        other.scale = IntensityScale.of(known, self.aim.modality, self.scale.scale)
        other.cancelled = self.cancelled
        guess, _, _ = other.run(known, grid)
        cubic = np.tensordot(cubic_weights(places, len(known)).astype(np.float32), known, 1)
        cycle = errors.psnr(self.aim.modality, self.scale.scale)
        return {
            "psnr_db": _finite(psnr(guess, hidden, self.aim.modality)),
            "psnr_cubic_db": _finite(psnr(cubic, hidden, self.aim.modality)),
            "cycle_psnr_db": _finite(cycle),
        }


class Remainder:
    """What the acquired slices still differ by from the slice profile of the output, summed over slabs."""

    def __init__(self) -> None:
        self.squares, self.count = 0.0, 0

    def add(self, missing: np.ndarray, y: np.ndarray) -> None:
        self.squares += float(np.sum(np.square(missing, dtype=np.float64)))
        self.count += y.size

    @property
    def rms(self) -> float | None:
        return float(np.sqrt(self.squares / self.count)) if self.count else None

    def psnr(self, modality: str, scale: float) -> float | None:
        if not self.rms:
            return None
        return 20 * np.log10((2000.0 if modality == "CT" else scale) / self.rms)


def _along_z(grid: Grid, update: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The projection's update, linear between places of the grid, at acquired positions."""
    at = (wanted - grid.positions[0]) / grid.step
    below = np.clip(np.floor(at).astype(int), 0, len(update) - 2)
    t = (at - below).astype(np.float32)[:, None, None]
    return (1 - t) * update[below] + t * update[below + 1]


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)


def _in_plane(axis: str) -> list[str]:
    return [name for name in AXES if name != axis]


def _row_of(geometry: Geometry, axis: str, plane: str, at_mm: float | None) -> tuple[str, int]:
    """The in-plane axis across a coronal or sagittal plane, and the row there."""
    directions = {"coronal": 1, "sagittal": 0}  # RAS component across the plane
    if plane not in directions:
        raise RequestError("There is no such plane", plane, "choose coronal or sagittal")
    component = directions[plane]
    along = {name: abs(geometry.directions[component, 2 - AXES.index(name)]) for name in AXES}
    name = max(along, key=lambda axis_name: along[axis_name])
    if name == axis:
        raise RequestError(f"The slices themselves are {plane}", f"slice axis {axis}", "choose the other plane")
    rows = geometry.shape[AXES.index(name)]
    if at_mm is None:
        return name, rows // 2
    middle = np.array([(n - 1) / 2 for n in geometry.shape])
    start = middle.copy()
    start[AXES.index(name)] = 0
    step = geometry.ras_of(start + np.eye(3)[AXES.index(name)])[component] - geometry.ras_of(start)[component]
    row = int(np.rint((at_mm - geometry.ras_of(start)[component]) / step))
    if not 0 <= row < rows:
        raise RequestError("The plane lies outside the volume", f"{at_mm:g} mm", "choose a place inside")
    return name, row


def _placed(volume: Volume, output: np.ndarray, aim: Plan) -> Volume:
    """The output as a Volume in the axis order of the input, resampled where a reference is not parallel."""
    values = np.moveaxis(output[::-1] if aim.reversed else output, 0, AXES.index(aim.axis))
    spacing = aim.target.slices_first(aim.axis).spacing_mm[0]
    result = dataclasses.replace(
        volume,
        values=np.ascontiguousarray(values),
        geometry=aim.target,
        modality=volume.modality or aim.modality,
        thickness_mm=min(spacing, aim.thickness_mm),
        slice_axis=aim.axis,
        warnings=(),
    )
    if aim.resample_to is None:
        return result
    from ..io.resample import resampled

    return resampled(result, aim.resample_to)


def _doubts(card, aim: Plan, volume: Volume) -> list[str]:
    """Where the scan leaves what the model has seen."""
    found = []
    low, high = card.z_scale_range
    if not low <= aim.z_scale <= high:
        found.append(f"z-scale {aim.z_scale:.3g} is outside what the model was trained for ({low:g} to {high:g}).")
    spacing = volume.geometry.slices_first(aim.axis).spacing_mm[0]
    low, high = card.spacing_range_mm
    if not low <= spacing <= high:
        found.append(
            f"Slice spacing {spacing:.3g} mm is outside what the model was trained for ({low:g} to {high:g} mm)."
        )
    if aim.modality not in card.modalities:
        found.append(f"The model was not trained for {aim.modality}.")
    return found


def _report(
    volume, result, job, aim: Plan, engine: Engine, readout, errors: Remainder, check, seconds: float
) -> dict[str, Any]:
    """Design section 4.5, ready for JSON."""
    from .. import __version__
    from ..network.weights import sha256

    sigma = readout["sigma_mean"]["input"]
    figures = {name: value for name, value in readout.items() if name != "sigma_mean"}
    error = None if errors.rms is None or not sigma else round(errors.rms / sigma, 4)
    if aim.consistency == "exact":
        engine.warn("Exact consistency amplifies noise 1.2 to 1.6 times.")
    if aim.consistency == "keep":
        error = 0.0  # acquired slices are copied bit for bit
    return {
        "version": __version__,
        "model": {
            "name": engine.card.name,
            "file": engine.path.name,
            "sha256": sha256(engine.path),
            "trained_on": [scan["scan"] for scan in engine.card.trained_on],
        },
        "input": _facts(volume, aim.axis, aim.thickness_mm, aim.modality),
        "output": _facts(result, aim.axis, result.thickness_mm, aim.modality),
        "z_scale": aim.z_scale,
        "profile": aim.profile,
        "texture": float(job.texture),
        "consistency": aim.consistency,
        "consistency_error": error,
        "device": engine.device,
        "precision": engine.precision,
        "seconds": round(seconds, 2),
        "peak_memory_mb": engine.peak_mb,
        **figures,
        "self_check": check,
        "warnings": list(engine.warnings),
        "job": job.to_json(),
    }


def _facts(volume: Volume, axis: str, thickness_mm: float | None, modality: str) -> dict[str, Any]:
    return {
        "dimensions": list(volume.geometry.shape[::-1]),
        "spacing_mm": [round(mm, 6) for mm in volume.spacing_mm[::-1]],
        "thickness_mm": thickness_mm,
        "slice_axis": axis,
        "modality": modality,
    }


def peak_memory_mb() -> float | None:
    """The most memory this process has held, in MB; None where the system does not say."""
    try:  # a child started by a large program inherits that program's figure from `getrusage`
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 2**10, 1)
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10), 1)
