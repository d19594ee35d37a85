"""One network on one device for one scan: output slices slab by slab, with the fallbacks for memory (floor 3)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Cancelled, MissingPackageError, ResourceError
from ..events import Listener, Stopwatch, Warned
from ..imaging.body import Rectangle, read_for
from ..imaging.brightness import SliceBrightness
from ..imaging.consistency import Grid, Remainder, gate, noise_level
from ..imaging.intensity import IntensityScale, floor_of
from ..imaging.noise import AcquiredQuery, positions_to_query
from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from ..modelcard import ModelCard
from .agreement import agreed, places_of
from .memory import (
    MIN_ROWS,
    Cut,
    Slab,
    SlabRule,
    cut,
    empty_volume,
    is_out_of_memory,
    slab_for_rows,
    slabs_between,
    why_lost,
    working_bytes,
)
from .plan import Plan, conditions_of, doubts
from .protocols import AddedNoise, KnownCodes, Rows
from .reading import SlabReader
from .stored import as_stored, evened, slices_from_zero


@dataclass(frozen=True)
class Settings:
    """What is fitted to a scan before it is computed, see `gain`.

    gain : on the network's correction, in [0, 1.5]
    """

    gain: float = 1.0


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
        plan: Plan,
        spacing_mm: tuple[float, ...],  # of the source, slices first
        kind: np.dtype,  # of the output's values
    ) -> None:
        self.network, self.card, self.path = network, card, path  # the network there and in that precision
        self.loaded = network  # and as it was loaded
        self.device, self.precision = device, precision
        self.scale, self.plan, self.spacing_mm, self.kind = scale, plan, spacing_mm, kind
        self.progress: Listener | None = None
        self.cancelled: Callable[[], bool] | None = None
        self.noise: float | None = None  # level in the scan's unit; None where it is not known
        self.warnings: list[str] = []
        self.rows_limit: int | None = None
        self.ran_out = False  # of memory, or lost its device: then the run is not as usual
        self.source: Volume | None = None  # slices first, of even brightness, its values from zero
        self.brightness: SliceBrightness | None = None  # that its slices had; None: they are as acquired
        self.zero = 0.0  # of the scan's values, see `intensity.zero_of`
        self.lowest = -np.inf  # value of the scan, from zero
        self.floor = -np.inf  # that the result does not fall below, from zero
        self.model = str(path)  # as a job names it

    @classmethod
    def of(
        cls,
        volume: Volume,
        job: UpsampleJob,
        plan: Plan,
        progress: Listener | None,
        cancelled: Callable[[], bool] | None,
        derivatives: dict[int, np.ndarray] | None = None,
    ) -> Engine:
        """Loads the model, chooses device and precision, measures the scan's intensities; `derivatives` as for
        `consistency.noise_level`, where that is asked."""
        try:
            from ..network.device import place_network
            from ..network.weights import find_model, name_of_model, shared_model
        except ImportError as error:
            raise MissingPackageError(
                "The network needs PyTorch and safetensors",
                f"{error.name or error} is not installed",
                "install the extra with pip install CycleINR[torch], or the PyTorch extension in Slicer; "
                "info and measure work without it",
            ) from error
        path = find_model(job.model)
        network, card = shared_model(path)
        cast, device, precision, doubt = place_network(network, job.device, job.precision)
        source, zero = slices_from_zero(volume, plan)
        source, brightness = evened(source, plan)
        scale = IntensityScale.of(source.values, plan.modality)
        engine = cls(cast, card, path, device, precision, scale, plan, source.spacing_mm, volume.values.dtype)
        engine.loaded, engine.model = network, name_of_model(job.model)
        engine.progress, engine.cancelled = progress, cancelled
        engine.source, engine.zero, engine.lowest = source, zero, float(source.values.min())
        engine.brightness = brightness
        if plan.consistency == "project":
            engine.noise = noise_level(source.values, plan.modality, derivatives)
        engine.floor = floor_of(volume.values) - zero if plan.modality != "CT" or engine.lowest >= 0 else -np.inf
        for message in (*plan.warnings, *doubts(card, plan, volume), *([doubt] if doubt else [])):
            engine.warn(message)
        if brightness is not None:
            engine.warn(brightness.warning)
        return engine

    # --- running ----------------------------------------------------------------------------------------------
    def run(
        self,
        values: Rows,
        grid: Grid,
        settings: Settings,
        rows: tuple[int, int] | None = None,
        column: int | None = None,
        renewal: AddedNoise | None = None,
        body: Rectangle | None = None,
        brightness: SliceBrightness | None = None,
        codes: KnownCodes | None = None,
    ) -> tuple[np.ndarray, Remainder, AcquiredQuery | None]:
        """Output slices of (N, J, I) `values` on the target part of `grid`, for all of it, some rows or one column.

        renewal : adds noise to what the network gave, before it is stored
        body : rows and columns beyond which there is nothing to correct; None: everywhere there is
        brightness : that the slices had as acquired, which the result gets back
        codes : of these rows and columns at least; None: they are encoded now

        Returns
        -------
        (M, rows, I) in the scan's type for whole volumes, which saves memory, else (M, rows, columns) float32;
        what consistency left over; the output at acquired positions where the measure needs it
        """
        whole = rows is None and column is None
        columns = slice(0, values.shape[2]) if column is None else slice(column, column + 1)
        first, last = rows or (0, values.shape[1])
        slices = grid.crop.stop - grid.crop.start
        size = (last - first, columns.stop - columns.start)
        if (first, last) == (0, values.shape[1]):
            made = self.cut(values.shape, grid)
            slabs, window = made.slabs, None if rows else made.window
        else:
            slabs, window = [slab_for_rows(first, last, values.shape[1], self.halo)], None
        output = empty_volume((slices, *size), self.kind if whole else np.float32)
        wanted = positions_to_query(grid.positions[grid.crop], len(values)) if whole else np.zeros(0, int)
        beside = np.empty((len(wanted), *size), np.float32)
        errors = Remainder()
        ticks = self._ticks(len(values), window)
        watch = Stopwatch("upsample", len(slabs) * ticks, self.progress, self.cancelled)
        reader, done = SlabReader(values, columns, self.scale.scale), 0
        while done < len(slabs):
            slab = slabs[done]
            try:
                near = body and body.seen_from(slab.read_first, 0)
                seen = codes and codes.seen_from(slab.read_first)
                of_grid = partial(self.corrections, grid=grid, gain=settings.gain, watch=watch)
                find = partial(of_grid, window=window, body=near, codes=seen)
                read = partial(
                    reader.read, slab, slabs[done + 1 : done + 2], self.network if self.device == "cuda" else None
                )
                x, extra = self._slab(read, slab, columns, grid, wanted, find, errors)
            except (MemoryError, RuntimeError, FloatingPointError) as error:
                if self.device == "cpu" and not (is_out_of_memory(error) or isinstance(error, FloatingPointError)):
                    raise
                codes = None  # they may be on a device that is left
                reader.forget()
                slabs = slabs[:done] + self._retry(values.shape, slab.first, last, grid, slab, error)
                watch.of = watch.done + (len(slabs) - done) * ticks
                continue
            keep = slice(max(slab.first, first) - slab.first, None)
            at = slice(max(slab.first, first) - first, slab.last - first)
            if renewal is not None:
                renewal.add(x, extra, grid, wanted, self.plan, slice(slab.first, slab.last), columns)
            if brightness is not None:
                brightness.give_back(x, grid.positions[grid.crop])
                brightness.give_back(extra, wanted)
            if whole:
                self.stored(x[:, keep], output[:, at])
            else:
                output[:, at] = x[:, keep]
            beside[:, at] = extra[:, keep]
            done += 1
        self._empty_outside(output, values, grid, whole)
        return output, errors, AcquiredQuery(self.stored(beside), wanted) if len(wanted) else None

    def _empty_outside(self, output: np.ndarray, values: Rows, grid: Grid, whole: bool) -> None:
        """Slices of a reference that lie beyond the scan hold its lowest value: nothing is extrapolated."""
        places = grid.positions[grid.crop]
        outside = (places < -0.5 - 1e-6) | (places > grid.count - 0.5 + 1e-6)
        if outside.any():
            lowest = np.array(self.lowest if np.isfinite(self.lowest) else values.min(), np.float32)
            output[outside] = self.stored(lowest) if whole else lowest
            self.warn(f"{outside.sum()} slices of the reference lie outside the scan: filled with its lowest value.")

    def _slab(
        self,
        read: Callable[[], tuple[np.ndarray, Any]],
        slab: Slab,
        columns: slice,
        grid: Grid,
        wanted: np.ndarray,
        find: Callable[..., np.ndarray],
        errors,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One slab, consistent with its acquired slices: (M, rows, columns) float32, and the slices `wanted` beside."""
        y, normalized = read()
        rows = slice(slab.first - slab.read_first, slab.last - slab.read_first)
        found = find(normalized, rows, columns, places_of(grid, wanted)[0])
        return agreed(found, y, grid, wanted, self.plan, self.noise, errors)

    def corrections(
        self,
        normalized: Any,
        rows: slice,
        columns: slice,
        places: np.ndarray,
        grid: Grid,
        gain: float,
        watch: Stopwatch,
        window: int | None = None,
        body: Rectangle | None = None,
        codes: KnownCodes | None = None,
    ) -> np.ndarray:
        """The network's part at sorted `places`, in the scan's unit: (M, rows, columns) float32.

        normalized : (N, R, I) float32, array or tensor on the device: rows with their halo, divided by the scale
        body, codes : of these rows and columns, see `run`
        """
        from ..network import infer, workers

        plan, scale = self.plan, self.scale
        output = np.zeros((len(places), rows.stop - rows.start, columns.stop - columns.start), np.float32)
        counting = np.flatnonzero(gate(places) > 0) if plan.consistency == "keep" else np.arange(len(places))
        near, inside = read_for(Rectangle(rows, columns), body, normalized.shape, self.halo)
        if not (gain and counting.size and all(part.stop > part.start for part in inside)):
            watch.step(self._ticks(len(normalized), window))
            return output
        mine = inside.seen_from(rows.start, columns.start)
        target = output[:, mine.rows, mine.columns]
        known = None if codes is None else codes.of(inside)
        inside = inside.seen_from(near.rows.start, near.columns.start)
        parts = infer.corrections(
            self.network,
            normalized[:, near.rows, near.columns],
            inside.rows,
            places[counting],
            columns=inside.columns,
            detail=scale.detail,
            z_scale=1 / grid.step,
            conditions=conditions_of(plan, self.card, scale, self.spacing_mm),
            window=window,
            tick=watch.step,
            codes=known,
            unit=gain * scale.scale,
        )
        for part, found in parts:
            at = counting[part]  # without gaps: only slices themselves are left out
            workers.copied(found, target[at[0] : at[-1] + 1])
        return output

    # --- the same network beside the scan ---------------------------------------------------------------------
    def of_every_second(self, known: np.ndarray) -> Engine:
        """For every second slice of the scan, `known` (N, J, I), without consistency; says nothing."""
        plan = dataclasses.replace(self.plan, ratio=self.plan.ratio / 2, consistency="none", reversed=False)
        return self._sibling(known, plan, (2 * self.spacing_mm[0], *self.spacing_mm[1:]))

    def of_block(self, values: np.ndarray, scale: IntensityScale | None = None) -> Engine:
        """For slices (N, J, I) like those of the scan; says nothing. `scale`: None, their own detail and roughness."""
        return self._sibling(values, self.plan, self.spacing_mm, scale)

    def in_float32(self) -> Engine:
        """The same in full precision, for what is fitted; shares the warnings."""
        from ..network.device import DTYPES, cast_network

        if self.precision == "float32":
            return self
        other = copy.copy(self)
        other.network, other.precision = cast_network(self.loaded, self.device, DTYPES["float32"]), "float32"
        return other

    def with_network(self, network: Any) -> Engine:
        """The same scan and settings with other weights of this network."""
        other = copy.copy(self)
        other.network = other.loaded = network
        return other

    def _sibling(
        self, values: np.ndarray, plan: Plan, spacing_mm: tuple[float, ...], scale: IntensityScale | None = None
    ) -> Engine:
        scale = scale or IntensityScale.of(values, plan.modality, self.scale.scale)
        network = (self.network, self.card, self.path, self.device, self.precision)
        other = Engine(*network, scale, plan, spacing_mm, np.dtype(np.float32))
        other.loaded, other.cancelled, other.noise = self.loaded, self.cancelled, self.noise
        return other

    # --- slabs and memory -------------------------------------------------------------------------------------
    @property
    def halo(self) -> int:
        """Rows on each side that one output row depends on; even."""
        return self.network.reach + self.network.reach % 2

    @property
    def slab_rule(self) -> SlabRule:
        """What decides how large a slab is, beside the scan."""
        from ..network.device import DTYPES

        element = DTYPES[self.precision].itemsize
        return SlabRule(self.network.config.channels, element, self.halo, working_bytes(self.device))

    def cut(self, shape: tuple[int, ...], grid: Grid, most: int | None = None) -> Cut:
        """A scan (N, J, I) in slabs, of `most` rows where it is given: from scan and model alone; says where little
        memory is free, which makes them smaller.

        Raises
        ------
        ResourceError : not even the smallest slab fits; says how much is needed
        """
        made = cut(shape, len(grid.positions), self.slab_rule, self.device, most or self.rows_limit)
        if made.rows < made.usual:
            self.warn(f"Little memory is free: slabs of {made.rows} rows instead of {made.usual}.")
        return made

    def _retry(self, shape: tuple[int, ...], first: int, last: int, grid: Grid, slab: Slab, error) -> list[Slab]:
        """The remaining slabs after one failed: half the rows where memory ran out, else as `give_way` does."""
        rows = (slab.last - slab.first) // 2 if is_out_of_memory(error) else 0
        if rows >= MIN_ROWS:
            self._let_go(error)
            self.warn(f"Memory ran out: slabs of {rows} rows instead.")
            self.rows_limit = rows
        elif self.device == "cpu" and is_out_of_memory(error):
            found, next_ = f"even {MIN_ROWS} rows did not fit", "close other programs, or crop the volume"
            raise ResourceError("There is not enough memory", found, next_) from error
        else:
            self.give_way(error)
            rows = last - first
        return slabs_between(first, last, shape[1], self.halo, self.cut(shape, grid, rows).rows)

    def give_way(self, error: Exception) -> None:
        """To float32 where numbers left the range of the precision, else to the CPU."""
        self._let_go(error)
        if isinstance(error, FloatingPointError) and self.precision != "float32":
            self.warn(f"Numbers left the range of {self.precision}: going on in float32.")
            self.network = self.in_float32().network
        else:
            self.warn(f"{why_lost(self.device, error)}: going on with the CPU.")
            self.device, self.network, self.rows_limit = "cpu", self.loaded, None
        self.precision = "float32"

    def _let_go(self, error: Exception) -> None:
        """Of what failed work held."""
        from ..network.device import forget_failed

        self.ran_out = True
        forget_failed(self.device, error)

    def _ticks(self, slices: int, window: int | None) -> int:
        from ..network.infer import step_count

        return step_count(self.network, slices, window)

    # --- values -----------------------------------------------------------------------------------------------
    def stored(self, values: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """Float32 values from zero as the scan has them, in its type `into` an array; clipping is said."""
        made, clipped = as_stored(values, self.kind, self.zero, self.floor, 0.02 * self.scale.scale, into)
        if clipped:
            self.warn(f"Intensities beyond the range of {self.kind} were clipped.")
        return made

    def check_cancelled(self) -> None:
        """Raises Cancelled where it is asked for."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled()

    def warn(self, message: str) -> None:
        """Into the report once, and to the listener."""
        if message not in self.warnings:
            self.warnings.append(message)
            if self.progress is not None:
                self.progress(Warned(message))
