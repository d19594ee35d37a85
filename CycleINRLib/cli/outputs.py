"""What a job writes, and where: checked before any computing, then each file whole or not at all (floor 5).

Order: the volume first, since it is what the computing was for, then the report, then the picture. Each is written
to a hidden file beside its target and renamed; should a later one fail, the earlier ones are complete and stay.
"""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError, RequestError
from ..jobs import UpsampleJob
from ..wholefile import check_file, write_text, write_whole

if TYPE_CHECKING:
    from ..imaging.geometry import Geometry
    from ..imaging.volume import Volume


@dataclass(frozen=True)
class Outputs:
    """The files of one job; `volume` is a folder where `dicom` is asked for."""

    volume: Path
    report: Path | None = None
    picture: Path | None = None
    difference: Path | None = None
    dicom: bool = False
    enhanced: bool = False
    compress: bool = False
    overwrite: bool = False
    inputs: tuple[Path, ...] = ()

    @classmethod
    def of(cls, job: UpsampleJob) -> Outputs:
        """The outputs that a job with paths asks for."""
        if not job.input or not job.output:
            found = f"input {job.input!r}, output {job.output!r}"
            raise RequestError("The job lacks a path", found, 'give both "input" and "output"')
        inputs = tuple(Path(path) for path in (job.input, job.like) if path)
        report, picture, difference = (
            Path(path) if path else None for path in (job.report, job.picture, job.difference)
        )
        return cls(
            Path(job.output), report, picture, difference, job.dicom, job.enhanced, job.compress, job.overwrite, inputs
        )

    def check(self, geometry: Geometry | None = None, source: Volume | None = None) -> None:
        """Refuse now what could not be written later; `geometry` of the output and `source`, once they are known.

        Raises
        ------
        RequestError : folder missing, wrong ending, a file that exists, an output that is the input or another output,
            a sheared volume to NIfTI, DICOM of neither CT nor MR
        ResourceError : no room on the disk
        MissingPackageError : a picture without matplotlib
        """
        from ..imaging.volume import choose_slice_axis
        from ..io.files import check_output, check_room
        from ..upsampling.memory import scratch_folder

        known: dict[str, Any] = {"overwrite": self.overwrite, "inputs": self.inputs, "dicom": self.dicom}
        if source is not None:
            known.update(modality=source.modality, slice_axis=choose_slice_axis(source))
        check_output(self.volume, geometry=geometry, **known)
        if geometry is not None and source is not None:
            size = math.prod(geometry.shape) * source.values.dtype.itemsize
            check_room(self.volume, size, scratch_folder(size))
        if self.report:
            check_file(self.report, [".json"], overwrite=self.overwrite, inputs=self.inputs)
        if self.picture:
            check_picture(self.picture, self.overwrite, self.inputs)
        if self.difference:
            check_output(self.difference, overwrite=self.overwrite, inputs=self.inputs, geometry=geometry)
        paths = [path.absolute() for path in (self.volume, self.report, self.picture, self.difference) if path]
        if len(set(paths)) < len(paths):
            raise RequestError("Two outputs have the same name", str(paths[-1]), "give each a name of its own")

    def write(
        self, source: Volume, output: Volume, report: dict[str, Any], taken: Volume | None = None
    ) -> tuple[str, ...]:
        """Write all of them; the paths in the order of writing. `taken`: the noise of the acquired slices."""
        if self.dicom:
            from ..io.dicomwrite import write_series

            form = {"enhanced": self.enhanced, "compress": self.compress}
            write_series(output, self.inputs[0], self.volume, report, overwrite=self.overwrite, **form)
        else:
            from ..io.files import write

            write(output, self.volume, overwrite=self.overwrite)
        written = [self.volume]
        if self.report:
            write_text(self.report, json.dumps(report, indent=2) + "\n")
            written.append(self.report)
        if self.picture:
            draw(self.picture, source, output, report)
            written.append(self.picture)
        if self.difference and taken is not None:
            from ..io.files import write

            write(taken, self.difference, overwrite=self.overwrite)
            written.append(self.difference)
        return tuple(str(path) for path in written)


def check_picture(path: Path, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """`check_file` for a picture, and whether it can be drawn at all."""
    check_file(path, [".png"], overwrite=overwrite, inputs=inputs)
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError(
            "The package matplotlib is needed for a picture and not installed",
            str(path),
            'pip install "CycleINR[pictures]", or leave out the picture',
        )


def draw(path: Path, source: Volume, output: Volume, report: dict[str, Any]) -> None:
    """The comparison across the slices: input, cubic B-spline, CycleINR."""
    from ..pictures.planes import coronal_comparison

    write_whole(path, lambda partial: coronal_comparison(partial, source, output, report))
