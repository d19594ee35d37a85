"""One network on one device for one scan: output slices slab by slab, with the fallbacks for memory (floor 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Cancelled, MissingPackageError, RequestError, ResourceError
from ..events import Listener, Stopwatch, Warned
from ..imaging.consistency import Grid, kept, projection
from ..imaging.intensity import IntensityScale
from ..imaging.interpolation import base_weights
from ..imaging.noise import AcquiredQuery, positions_to_query
from ..imaging.slabs import MIN_ROWS, Slab, plan_slabs, rows_within, slab_for_rows
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from ..modelcard import ModelCard
from .plan import WORKING_BYTES, Plan, available_memory_bytes
from .smoothing import REACH, smoothed, widened

CLIPPED_SHARE = 1e-3  # of the voxels beyond the type's range from which it is said
LEAST_GAIN = 1e-3  # below it the network's correction is nothing
RATIO_SEEN = 1.3  # thickness / spacing up to which the network was trained


class Engine:
    """Computes output slices of one scan slab by slab, with the fallbacks for memory, cancel and progress."""

    def __init__(
        self,
        network: Any,  # CycleINR; torch is imported only where it runs
        card: ModelCard,
        path: Path,
        device: str,
        precision: str,
        scale: IntensityScale,
        aim: Plan,
        spacing_mm: tuple[float, ...],  # of the source, slices first
        kind: np.dtype,  # of the output's values
    ) -> None:
        self.network, self.card, self.path = network, card, path
        self.device, self.precision = device, precision
        self.scale, self.aim, self.spacing_mm, self.kind = scale, aim, spacing_mm, kind
        self.progress: Listener | None = None
        self.cancelled: Callable[[], bool] | None = None
        self.warnings: list[str] = []
        self.rows_limit: int | None = None
        self.texture = 0.0
        self.lowest = -np.inf  # value of the scan
        self.gain = 1.0  # on the correction of least error, in [0, 1], see `selfcheck`; texture is added in full

    @classmethod
    def of(
        cls,
        volume: Volume,
        job: UpsampleJob,
        aim: Plan,
        progress: Listener | None,
        cancelled: Callable[[], bool] | None,
    ) -> Engine:
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
        path = find_model(job.model)
        network, card = load_model(path)
        texture = float(job.texture or 0.0)  # None is settled later, by `settle_texture`
        if texture > 0 and not card.texture:
            raise RequestError("This model knows no texture", f"--texture {texture:g}", "use --texture 0")
        precision = choose_precision(job.precision, network, device)
        source = volume.slices_first(aim.axis)
        scale = IntensityScale.of(source.values, aim.modality)
        network = cast_network(network, device, DTYPES[precision])
        engine = cls(network, card, path, device, precision, scale, aim, source.spacing_mm, volume.values.dtype)
        engine.progress, engine.cancelled, engine.texture = progress, cancelled, texture
        engine.lowest = float(source.values.min())
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
        outputs, errors, beside = self._run(values, grid, (self.texture,), rows, column)
        return outputs[0], errors, beside[0]

    def at_textures(
        self, values: np.ndarray, grid: Grid, textures: tuple[float, ...]
    ) -> list[tuple[np.ndarray, AcquiredQuery | None]]:
        """The whole output and that at acquired positions, as `run` gives them, for each texture; encoded once."""
        outputs, _, beside = self._run(values, grid, textures)
        return list(zip(outputs, beside))

    def _run(
        self,
        values: np.ndarray,
        grid: Grid,
        textures: tuple[float, ...],
        rows: tuple[int, int] | None = None,
        column: int | None = None,
    ) -> tuple[np.ndarray, Remainder, list[AcquiredQuery | None]]:
        whole = rows is None and column is None
        columns = slice(0, values.shape[2]) if column is None else slice(column, column + 1)
        first, last = rows or (0, values.shape[1])
        slices = grid.crop.stop - grid.crop.start
        size = (last - first, columns.stop - columns.start)
        output = np.empty((len(textures), slices, *size), self.kind if whole else np.float32)
        wanted = positions_to_query(grid.positions[grid.crop], len(values)) if whole else np.zeros(0, int)
        beside = np.empty((len(textures), len(wanted), *size), np.float32)
        errors = Remainder()
        slabs = self._slabs(values.shape, first, last, grid)
        watch = Stopwatch("upsample", len(slabs) * self._ticks(len(values)), self.progress)
        done = 0
        while done < len(slabs):
            slab = slabs[done]
            try:
                parts = list(self._slab(values, slab, columns, grid, wanted, textures, watch, errors))
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                slabs = slabs[:done] + self._retry(values.shape, slab.first, last, grid, error)
                watch.of = watch.done + (len(slabs) - done) * self._ticks(len(values))
                continue
            keep = slice(max(slab.first, first) - slab.first, None)
            at = slice(max(slab.first, first) - first, slab.last - first)
            for n, (x, extra) in enumerate(parts):
                output[n, :, at] = self.stored(x[:, keep]) if whole else x[:, keep]
                beside[n, :, at] = extra[:, keep]
            done += 1
        self._empty_outside(output, values, grid)
        queried = [AcquiredQuery(self.stored(one), wanted) if len(wanted) else None for one in beside]
        return output, errors, queried

    def _empty_outside(self, output: np.ndarray, values: np.ndarray, grid: Grid) -> None:
        """Slices of a reference that lie beyond the scan hold its lowest value: nothing is extrapolated."""
        places = grid.positions[grid.crop]
        outside = (places < -0.5 - 1e-6) | (places > grid.count - 0.5 + 1e-6)
        if outside.any():
            output[:, outside] = values.min()
            self.warn(f"{outside.sum()} slices of the reference lie outside the scan: filled with its lowest value.")

    def _slab(
        self, values, slab: Slab, columns: slice, grid: Grid, wanted: np.ndarray, textures, watch: Stopwatch, errors
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One slab at each texture, consistent with its acquired slices: (M, rows, columns) float32, and the slices
        `wanted` beside."""
        read = np.asarray(values[:, slab.read_first : slab.read_last], np.float32)
        rows = slice(slab.first - slab.read_first, slab.last - slab.read_first)
        y = np.ascontiguousarray(read[:, rows, columns])
        inside = np.clip(grid.positions, 0, grid.count - 1)
        places, where = np.unique(np.concatenate([inside, wanted]).round(9), return_inverse=True)
        found = self._corrections(read, rows, columns, places, grid, textures, watch)
        base = np.tensordot(self._base(places, grid), y, 1)
        for unique in found:
            unique += base
        del base, unique
        while found:
            unique = found.pop(0)
            x, extra = unique[where[: len(inside)]], unique[where[len(inside) :]]
            del unique
            yield self._consistent(x, extra, y, grid, inside, wanted, errors)

    def _consistent(self, x, extra, y, grid: Grid, inside: np.ndarray, wanted: np.ndarray, errors: Remainder):
        """Output x at `inside` and extra at acquired positions `wanted`, in agreement with the acquired slices y."""
        aim = self.aim
        if aim.consistency == "keep":
            x = kept(x, y, inside)
            extra = y[wanted]
        elif aim.consistency in ("project", "exact"):
            A = grid.profile(aim.ratio, aim.profile).astype(np.float32)
            P = projection(A.astype(np.float64), aim.consistency).astype(np.float32)
            update = np.tensordot(P, y - np.tensordot(A, x, 1), 1)
            x += update
            extra += _along_z(grid, update, wanted)
            errors.add(y - np.tensordot(A, x, 1), y)
        return x[grid.crop], extra

    def _base(self, places: np.ndarray, grid: Grid) -> np.ndarray:
        return base_weights(places, grid.count, self.aim.ratio, grid.step).astype(np.float32)

    def _corrections(
        self,
        read: np.ndarray,
        rows: slice,
        columns: slice,
        places: np.ndarray,
        grid: Grid,
        textures: tuple[float, ...],
        watch: Stopwatch,
    ) -> list[np.ndarray]:
        """The network's part at sorted `places`, in the scan's unit: (M, rows, columns) float32 for each texture."""
        from ..network.infer import corrections
        from ..network.model import Conditions

        def tick() -> None:
            watch.step()
            if self.cancelled is not None and self.cancelled():
                raise Cancelled()

        aim, scale = self.aim, self.scale
        gain = max(self.gain, LEAST_GAIN)  # gain * (correction + texture / gain * noise): texture stays what it is
        size = (len(places), rows.stop - rows.start, columns.stop - columns.start)
        outs = [np.empty(size, np.float32) for _ in textures]
        inner_rows = inner_columns = slice(None)
        if min(textures) < 0:
            rows, inner_rows = widened(rows, read.shape[1])
            columns, inner_columns = widened(columns, read.shape[2])
        anisotropy = self.spacing_mm[0] / min(self.spacing_mm[1:])
        ratio, seen = min(aim.ratio, RATIO_SEEN), (scale.through, scale.within)
        parts = corrections(
            self.network,
            read / np.float32(scale.scale),
            rows,
            places,
            columns=columns,
            detail=scale.detail,
            z_scale=1 / grid.step,
            conditions=Conditions(ratio, float(aim.gaussian), anisotropy, *seen),
            textures=[max(texture, 0.0) / gain for texture in textures],
            tick=tick,
        )
        for part, found in parts:
            for out, one, texture in zip(outs, found, textures):
                corrected = smoothed(one, -texture) if texture < 0 else one
                np.multiply(corrected[:, inner_rows, inner_columns], np.float32(gain * scale.scale), out=out[part])
        return outs

    def of_every_second(self, known: np.ndarray) -> Engine:
        """The same network for every second slice of the scan, `known` (N, J, I): texture 0, gain 1, no consistency."""
        aim = dataclasses.replace(self.aim, ratio=self.aim.ratio / 2, consistency="none", reversed=False)
        return self._sibling(known, aim, (2 * self.spacing_mm[0], *self.spacing_mm[1:]))

    def of_block(self, values: np.ndarray) -> Engine:
        """The same network, texture and gain for slices (N, J, I) like those of the scan; says nothing."""
        other = self._sibling(values, self.aim, self.spacing_mm)
        other.texture, other.gain = self.texture, self.gain
        return other

    def _sibling(self, values: np.ndarray, aim: Plan, spacing_mm: tuple[float, ...]) -> Engine:
        scale = IntensityScale.of(values, aim.modality, self.scale.scale)
        network = (self.network, self.card, self.path, self.device, self.precision)
        other = Engine(*network, scale, aim, spacing_mm, np.dtype(np.float32))
        other.cancelled = self.cancelled
        return other

    # --- slabs and memory -------------------------------------------------------------------------------------
    @property
    def halo(self) -> int:
        """Rows on each side that one output row depends on, at any texture; even."""
        return self.network.reach + 2 * REACH

    def _slabs(self, shape: tuple[int, ...], first: int, last: int, grid: Grid) -> list[Slab]:
        halo = self.halo
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
        on_cuda = self.device == "cuda"
        budget = 0.7 * free_memory_bytes() if on_cuda else min(WORKING_BYTES, 0.7 * available_memory_bytes())
        needed = per_row * (MIN_ROWS + 2 * self.halo)
        if needed > max(budget, 0.9 * available_memory_bytes()):
            found = f"{needed / 1e9:.1f} GB for the smallest slab, {budget / 1e9:.1f} GB free"
            raise ResourceError("There is not enough memory", found, "close other programs, or crop the volume")
        rows = rows_within(budget, shape[1], per_row, 0, self.halo)
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
        halo = self.halo
        rest = plan_slabs(last - first, halo, self._rows(shape, grid))
        end = shape[1]
        return [
            Slab(first + s.first, first + s.last, max(0, first + s.first - halo), min(end, first + s.last + halo))
            for s in rest
        ]

    def _ticks(self, slices: int) -> int:
        from ..network.infer import step_count

        return step_count(self.network, slices)

    # --- values -----------------------------------------------------------------------------------------------
    def stored(self, values: np.ndarray) -> np.ndarray:
        """Float32 values in the scan's type: integers rounded and clipped to the type's range.

        That is said where it may take something away: not where the scan itself reaches the bottom of its type, as MR
        does in the air at 0. Interpolation swings below it beside edges, and there is no intensity to be lost.
        """
        if values.dtype == self.kind:
            return values
        if self.kind.kind not in "iu":
            return values.astype(self.kind if self.kind.kind == "f" else np.float32)
        limits = np.iinfo(self.kind)
        whole = np.rint(values)
        far = 0.02 * self.scale.scale  # rounding and noise around an empty background are no loss
        beyond = np.count_nonzero(whole > limits.max + far)
        if self.lowest > limits.min + far:
            beyond += np.count_nonzero(whole < limits.min - far)
        if beyond > CLIPPED_SHARE * whole.size:
            self.warn(f"Intensities beyond the range of {self.kind} were clipped.")
        return np.clip(whole, limits.min, limits.max).astype(self.kind)

    def warn(self, message: str) -> None:
        """Into the report once, and to the listener."""
        if message not in self.warnings:
            self.warnings.append(message)
            if self.progress is not None:
                self.progress(Warned(message))


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


def _doubts(card: ModelCard, aim: Plan, volume: Volume) -> list[str]:
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
