"""CycleINR: anisotropic CT and MR volumes made isotropic by an implicit neural representation.

    import CycleINRLib as cycleinr
    volume = cycleinr.read("scan.nrrd")
    result = cycleinr.upsample(volume, z_scale=3.5)
    cycleinr.write(result.volume, "iso.nrrd")
    result.report["snli"]

Importing this package loads none of torch, scipy, SimpleITK, pydicom, vtk, slicer, matplotlib: each is paid for when
used.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {  # public name -> the module that defines it
    "Geometry": "imaging.geometry",
    "Volume": "imaging.volume",
    "UpsampleJob": "jobs",
    "read": "io.files",
    "write": "io.files",
    "upsample": "upsampling.upsample",
    "preview": "upsampling.preview",
    "Result": "upsampling.upsample",
    "measure": "upsampling.measure",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    """Loads the module of a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
