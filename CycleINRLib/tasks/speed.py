"""How fast this machine is with one model, so that the time of any plan can be told at once (floor 3).

Measuring needs torch and happens in a child process; the arithmetic of `Speed.seconds` needs nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..imaging.volume import Volume
from ..jobs import UpsampleJob
from .aim import Plan, plan


@dataclass(frozen=True)
class Speed:
    """Seconds for each voxel, on one device with one model.

    Parameters
    ----------
    encode_s : for each voxel of the scan
    decode_s : for each voxel of the result
    device : where, in words
    """

    encode_s: float
    decode_s: float
    device: str

    def seconds(self, source: Volume, aim: Plan) -> float:
        """What a plan of `source` will take; slabs read a halo beside their rows, which is left out."""
        rows, columns = source.geometry.slices_first(aim.axis).shape[1:]
        places = len(aim.grid.positions)
        from .engine import BESIDES

        return BESIDES * rows * columns * (self.encode_s * aim.grid.count + self.decode_s * places)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measured_speed(volume: Volume, job: UpsampleJob | None = None) -> Speed:
    """The speed for the model, device and precision of `job`; computes a small block for about a second.

    Parameters
    ----------
    volume : the scan or a block of it, values (K, J, I)

    Raises
    ------
    RequestError, VolumeError, ModelError, ResourceError, MissingPackageError : as for upsampling
    """
    from ..network.device import describe
    from .engine import Engine, calibrated

    job = job or UpsampleJob()
    aim = plan(volume, job)
    engine = Engine.of(volume, job, aim, None, None)
    encode, decode = calibrated(engine, volume.slices_first(aim.axis).values)
    return Speed(encode, decode, describe(engine.device))
