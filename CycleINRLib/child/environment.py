"""What this Python offers the network: packages, devices, models, each tried rather than believed (floor 4).

The panel runs it in a child process (task "check"), so that a broken torch takes nothing down with it.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__
from ..errors import CycleINRError
from ..machine import usable_cores

NEEDED = ("torch", "safetensors", "numpy", "scipy", "SimpleITK", "pydicom")


def examine() -> dict[str, Any]:
    """The facts, JSON-ready; nothing raises, each problem stands where it was met.

    Returns
    -------
    dict with "version", "python", "platform", "cores"; "packages" {name: version or None};
    "devices" [{"device", "name", "memory_gb", "problem"}], "models" [{"name", "file", "problem"}];
    "auto" {"model", "device", "precision", "why"}, what a job takes that says auto, or None;
    "speed" (upsampling.speed.Speed) of the model that "auto" means, measured and remembered, or None;
    "problems" [str], empty where the network can run
    """
    packages = {name: _version(name) for name in NEEDED}
    problems = [f"{name} is not installed" for name, found in packages.items() if found is None]
    torch_problem = None if packages["torch"] is None else _torch_problem()
    devices = [] if packages["torch"] is None or torch_problem else [_device(name) for name in ("cpu", "cuda", "mps")]
    models = _models(bool(devices) and packages["safetensors"] is not None)
    if torch_problem:
        problems.append(f"torch {packages['torch']} cannot be loaded: {torch_problem}")
    problems += [
        f"the model {model['name']} cannot be used: {model['problem']}" for model in models if model["problem"]
    ]
    if not models:
        problems.append("no model is installed")
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "packages": packages,
        "devices": devices,
        "models": models,
        "auto": None if problems else _auto(),
        "speed": None if problems else _speed(),
        "problems": problems,
    }


def lines_of(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, text) of each fact of `examine`, for people."""
    lines = [
        ("CycleINR", facts["version"]),
        ("Python", f"{facts['python']}, {facts['platform']}, {facts['cores']} cores"),
        ("Packages", ", ".join(f"{name} {found or 'missing'}" for name, found in facts["packages"].items())),
    ]
    for device in facts["devices"]:
        memory = f", {device['memory_gb']:.1f} GB" if device["memory_gb"] else ""
        works = f"cannot be used: {device['problem']}" if device["problem"] else f"works ({device['name']}{memory})"
        lines.append((f"Device {device['device']}", works))
    for model in facts["models"]:
        lines.append((f"Model {model['name']}", model["problem"] or "loads"))
    if auto := facts.get("auto"):
        rarely = "" if auto["precision"] == "float32" else "; float32 for a scan whose noise would not hide rounding"
        text = f"{auto['model']} on {auto['device']} in {auto['precision']} ({auto['why']}{rarely})"
        lines.append(("Auto takes", text))
    if facts.get("speed"):
        rates = (1e-6 / max(facts["speed"][name], 1e-12) for name in ("encode_s", "decode_s"))
        encoded, decoded = (f"{rate:.2g}" for rate in rates)
        lines.append(("Speed", f"encodes {encoded} and decodes {decoded} million voxels a second"))
    lines.append(("Result", "; ".join(facts["problems"]) or "everything that the network needs is there"))
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torch_problem() -> str | None:
    """Why torch does not load; a broken installation may raise anything."""
    try:
        import torch  # noqa: F401
    except Exception as error:
        return _reason(error)
    return None


def _device(name: str) -> dict[str, Any]:
    """Whether a kernel runs there, its name and its memory in GB (0: not known)."""
    from ..network.device import choose_device, describe

    facts = {"device": name, "name": "", "memory_gb": 0.0, "problem": None}
    try:
        choose_device(name)
        facts["name"] = describe(name)
        if name == "cuda":
            import torch

            facts["memory_gb"] = torch.cuda.get_device_properties(0).total_memory / 1e9
    except CycleINRError as error:
        facts["problem"] = error.found or error.what
    except Exception as error:
        facts["problem"] = _reason(error)
    return facts


def _models(can_load: bool) -> list[dict[str, Any]]:
    """Each bundled model, and why it cannot be used: its card is read, and its weights where torch is at hand."""
    from ..modelcard import read_card
    from ..network.weights import list_models, load_model

    found = []
    for name, path in list_models():
        problem = None
        try:
            load_model(path) if can_load else read_card(path)
        except CycleINRError as error:
            problem = str(error)
        except Exception as error:
            problem = _reason(error)
        found.append({"name": name, "file": str(path), "problem": problem})
    return found


def _auto() -> dict[str, str]:
    """What the machine is decides, not how fast it is just now: the same at every call."""
    from ..network.device import choose_device, usual_precision
    from ..network.weights import find_model

    device = choose_device("auto")
    precision, why = usual_precision(device)
    return {"model": find_model("auto").stem, "device": device, "precision": precision, "why": why}


def _speed() -> dict[str, Any] | None:
    """How fast the network runs here, from about a second of a drawn scan; later answers come from it."""
    import numpy as np

    from ..imaging.geometry import Geometry
    from ..imaging.volume import Volume
    from ..upsampling.speed import CALIBRATION, measured_speed

    k, j, i = np.indices(CALIBRATION)
    values = (300 * np.sin(j / 3 + k) * np.cos(i / 5 - k) + 50 * np.sin(17.0 * j * i + k)).astype(np.int16)
    try:
        return measured_speed(Volume(values, Geometry.from_spacing(values.shape, (4.0, 1.0, 1.0)), "CT")).to_json()
    except Exception:  # what is wrong stands where the device or the model was tried
        return None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
