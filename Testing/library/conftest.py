"""The second opinion on the measures: a program written apart from the library, where the developers have it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


class Yardstick:
    """Thickens one thin scan and scores a result, by the outside program alone."""

    def __init__(self, script: Path, truth: Path, folder: Path, crop: int) -> None:
        self.script, self.truth, self.crop = script, truth, crop
        self.source_file, self.result_file = folder / "source.nrrd", folder / "result.nrrd"

    def degrade(self, z_scale: float, profile: str = "box") -> dict:
        """Writes `source_file`: thickness = spacing, or skip."""
        asked = ("--z-scale", z_scale, "--crop", self.crop, "--profile", profile)
        return self._run("degrade", self.truth, self.source_file, *asked)

    def source(self) -> np.ndarray:
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.source_file)))

    def thin(self) -> np.ndarray:
        """The truth, cropped as `degrade` crops it."""
        import SimpleITK as sitk

        values = sitk.GetArrayFromImage(sitk.ReadImage(str(self.truth)))
        j, i = (max(0, (n - self.crop) // 2) for n in values.shape[1:])
        return values[:, j : j + self.crop, i : i + self.crop]

    def write_result(self, values: np.ndarray, z_scale: float) -> None:
        """Writes `result_file`, which starts where the source starts."""
        import SimpleITK as sitk

        source, result = sitk.ReadImage(str(self.source_file)), sitk.GetImageFromArray(values)
        result.SetOrigin(source.GetOrigin())
        result.SetDirection(source.GetDirection())
        result.SetSpacing((*source.GetSpacing()[:2], source.GetSpacing()[2] / z_scale))
        sitk.WriteImage(result, str(self.result_file))

    def score(self, modality: str, profile: str = "box") -> dict:
        asked = ("--truth", self.truth, "--modality", modality.lower(), "--profile", profile)
        return self._run("score", self.source_file, self.result_file, *asked)

    def _run(self, *arguments: object) -> dict:
        command = [sys.executable, str(self.script), *map(str, arguments)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.fixture
def yardstick(shared_data: Path, tmp_path: Path) -> Callable[..., Yardstick]:
    """`yardstick(scan, crop=96)`; skips where the developers' folder is absent."""
    script = shared_data.parent / "tools" / "yardstick.py"
    if not script.is_file():
        pytest.skip(f"the outside second opinion is not here: {script}")
    return lambda scan, crop=96: Yardstick(script, shared_data / "eval" / f"{scan}.nrrd", tmp_path, crop)


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    """`benchmark_module("write_card")`: the script of Testing/benchmarks as a module of its own."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def data(tmp_path: Path, ct_thin, mr_thin) -> Path:
    """A folder with a CT and an oblique MR to train on, the MR held out."""
    from CycleINRLib.io.files import write

    folder = tmp_path / "data"
    folder.mkdir()
    write(dataclasses.replace(ct_thin, modality=None), folder / "head.nrrd")
    write(mr_thin, folder / "mr_brain.nrrd")
    facts = {"head.nrrd": {"modality": "CT", "license": "MIT"}, "mr_brain.nrrd": {"license": "PDDL", "held_out": True}}
    (folder / "scans.json").write_text(json.dumps(facts), "utf-8")
    return folder


@pytest.fixture
def a_scene(tmp_path: Path):
    """An empty real MRML scene without the application."""
    from CycleINRLib.scene.headless import HeadlessScene

    (tmp_path / "scene").mkdir()
    return HeadlessScene(tmp_path / "scene")


@pytest.fixture
def tight_memory(monkeypatch) -> Callable[[], list[int]]:
    """Called, it lets memory run out in slabs of more than 12 rows, and gives the list of those refused."""

    def tighten() -> list[int]:
        from CycleINRLib.network import infer

        real, refused = infer.corrections, []

        def tight(network, source, rows, positions, **facts):
            if rows.stop - rows.start > 12:
                refused.append(rows.stop - rows.start)
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(network, source, rows, positions, **facts)

        monkeypatch.setattr(infer, "corrections", tight)
        return refused

    return tighten
