"""A folder is a floor: what each file of the library may import, read from its source and seen when it is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "CycleINRLib"
FLOOR_OF_FOLDER = {  # a folder is a room with one matter; files of the root itself are floor 0
    "imaging": 1,
    "panel": 1,
    "io": 2,
    "scene": 2,
    "network": 2,
    "upsampling": 3,
    "training": 3,
    "adapting": 3.5,  # above upsampling and training
    "evaluation": 4,
    "pictures": 4,
    "child": 4,
    "archive": 4,
    "cli": 5,
}
LANGUAGES = {"SimpleITK": "ITK", "pydicom": "DICOM", "slicer": "MRML", "vtk": "MRML", "vtkmodules": "MRML"}
HEAVY = {"torch", "scipy", "SimpleITK", "pydicom", "vtk", "slicer", "matplotlib"}
MAY_IMPORT = {  # other people's packages, room by room
    "": set(),
    "imaging": {"numpy", "scipy"},
    "panel": set(),
    "io": {"numpy", "isal", "SimpleITK", "pydicom"},
    "scene": {"numpy", "slicer", "vtk"},
    "network": {"numpy", "torch", "safetensors"},
    "upsampling": {"numpy", "scipy", "torch"},
    "training": {"numpy", "torch", "safetensors"},
    "adapting": {"numpy", "scipy", "torch"},
    "evaluation": {"numpy"},
    "pictures": {"numpy", "matplotlib"},
    "child": {"numpy", "torch", "slicer", "PyTorchUtils"},  # `dependencies` brings packages into Slicer
    "archive": {"numpy", "dask", "distributed", "PIL"},
    "cli": {"numpy", "torch"},
}
FILES = sorted(LIBRARY.rglob("*.py"))


def name_of(file: Path) -> str:
    """ "imaging.volume" for CycleINRLib/imaging/volume.py, "" for the package itself."""
    parts = list(file.relative_to(LIBRARY).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(name: str) -> float:
    if name == "__main__":
        return 5  # the door
    folder, _, rest = name.partition(".")
    return FLOOR_OF_FOLDER[folder] if rest or (LIBRARY / folder).is_dir() and folder else 0


def room_of(name: str) -> str:
    """The folder of a file; "" for the root."""
    return name.partition(".")[0] if (LIBRARY / name.partition(".")[0]).is_dir() else ""


def imports_of(file: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, inside functions too."""
    package = ["CycleINRLib", *file.relative_to(LIBRARY).parts[:-1]]
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if file_of(inner) else module


def file_of(module: str) -> Path | None:
    """The source of one of our modules; None for anything else."""
    parts = module.split(".")
    if parts[0] != "CycleINRLib":
        return None
    path = LIBRARY.joinpath(*parts[1:])
    if (path / "__init__.py").exists():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else None


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_imports_only_from_its_own_or_lower_floors(file):
    floor = floor_of(name_of(file))
    for module in imports_of(file):
        if file_of(module):
            other = name_of(file_of(module))
            lower = floor_of(other) < floor or name_of(file) == "__main__" or room_of(other) == room_of(name_of(file))
            beside = floor_of(other) == floor == 4  # evaluation draws pictures
            assert lower or beside, f"{name_of(file)} (floor {floor}) imports {other}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_uses_only_the_packages_of_its_room(file):
    name = name_of(file)
    used = {module.partition(".")[0] for module in imports_of(file)}
    foreign = used - set(sys.stdlib_module_names) - {"CycleINRLib"}
    allowed = MAY_IMPORT[room_of(name)]
    assert foreign <= allowed, f"{name} imports {sorted(foreign - allowed)}"


def test_the_root_holds_no_more_than_eight_files():
    assert len(list(LIBRARY.glob("*.py"))) <= 8


@pytest.mark.parametrize("file", sorted((LIBRARY / "io").glob("*.py")), ids=name_of)
def test_a_file_of_io_speaks_one_library(file):
    used = {module.partition(".")[0] for module in imports_of(file)}
    assert len({LANGUAGES[module] for module in used if module in LANGUAGES}) <= 1


@pytest.mark.parametrize("file", sorted((LIBRARY / "network").glob("*.py")), ids=name_of)
def test_the_network_knows_no_image_format(file):
    assert not any(module.startswith("CycleINRLib.io") for module in imports_of(file))


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name_of(file): {name_of(file_of(m)) for m in imports_of(file) if file_of(m)} - {name_of(file)} for file in FILES
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages in sys.modules of a fresh interpreter after importing `modules`."""
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=LIBRARY.parent, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def modules_where(keep) -> list[str]:
    return [f"CycleINRLib.{name_of(file)}".rstrip(".") for file in FILES if keep(name_of(file))]


def test_importing_the_package_loads_none_of_the_heavy_ones():
    assert not loaded_by("CycleINRLib") & HEAVY


def test_floor_0_runs_on_the_standard_library_alone():
    modules = modules_where(lambda name: floor_of(name) == 0)
    assert len(modules) > 4
    assert not loaded_by(*modules) & (HEAVY | {"numpy", "safetensors"})


def test_floor_1_loads_numpy_and_scipy_alone():
    modules = modules_where(lambda name: floor_of(name) == 1)
    assert len(modules) > 4
    assert not loaded_by(*modules) & (HEAVY - {"scipy"} | {"safetensors"})


def test_the_command_line_costs_nothing_before_a_command_runs():
    assert not loaded_by("CycleINRLib.cli.main") & (HEAVY | {"numpy", "safetensors"})
