"""What Slicer meets at start-up: the module file, its parameters, its .ui, its sample data, its layouts."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import shutil
import subprocess
import sys
import types
import typing
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from standins import MODULE

REPOSITORY = MODULE.parents[1]
UI = MODULE.parent / "Resources" / "UI" / "CycleINR.ui"
SOURCE = MODULE.read_text(encoding="utf-8")
PARTS = sorted((MODULE.parent / "CycleINRParts").glob("*.py"))

LOAD = """
import sys, tempfile
sys.path[:0] = {paths!r}
import numpy, slicer, slicer.util, pytest, standins
patch = pytest.MonkeyPatch()
standins.install(tempfile.gettempdir(), patch)
sys.path[:] = [path for path in sys.path if path != {hidden!r}]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
before = set(sys.modules)
import CycleINR, CycleINRLib
print(CycleINRLib.__file__)
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""
ABSENT = ("torch", "safetensors", "scipy", "SimpleITK", "pydicom", "matplotlib", "PyTorchUtils", "ctk")


def load_in_new_python(folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Imports CycleINR with `folder` on the path as Slicer has it; where the library came from, what was loaded."""
    pytest.importorskip("slicer", reason="needs slicer-core")
    paths = [str(folder), str(Path(__file__).parent)]
    code = LOAD.format(paths=paths, hidden=str(REPOSITORY), absent=ABSENT)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    library, loaded = done.stdout.splitlines()[-2:]
    return Path(library), loaded.split()


def test_the_source_tree_loads_without_torch_and_other_packages(tmp_path):
    library, loaded = load_in_new_python(MODULE.parent, tmp_path)
    assert library == REPOSITORY / "CycleINRLib" / "__init__.py"
    assert {"CycleINR", "CycleINRLib"} <= set(loaded)


def test_the_installed_layout_loads_its_own_library(tmp_path):
    installed = tmp_path / "qt-scripted-modules"
    shutil.copytree(REPOSITORY / "CycleINRLib", installed / "CycleINRLib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(MODULE.parent / "CycleINRParts", installed / "CycleINRParts")
    shutil.copy(MODULE, installed)
    library, _ = load_in_new_python(installed, tmp_path)
    assert library == installed / "CycleINRLib" / "__init__.py"


@pytest.mark.parametrize("file", [MODULE, *PARTS], ids=lambda file: file.name)
def test_a_file_imports_at_its_top_only_what_every_slicer_has(file):
    allowed = {*sys.stdlib_module_names, "numpy", "vtk", "slicer", "CycleINRLib", "CycleINRParts"}
    source = file.read_text(encoding="utf-8")
    tops = [node for statement in ast.parse(source).body for node in walk_outside_functions(statement)]
    names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tops if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= allowed
    assert "__future__" not in names  # Slicer reads the types of the parameter node at run time


def walk_outside_functions(node: ast.AST):
    yield node
    if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
        for child in ast.iter_child_nodes(node):
            yield from walk_outside_functions(child)


def test_the_classes_stand_in_the_order_of_the_template():
    classes = [node.name for node in ast.parse(SOURCE).body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    order = ["", "ParameterNode", "Widget", "Logic", "Test"]
    order_found = [classes.index(f"CycleINR{name}") for name in order]
    assert order_found == sorted(order_found)
    assert order_found[0] < classes.index("registerSampleData") < order_found[1]


def test_the_module_names_itself_its_category_and_both_papers(the_module, an_app):
    parent = types.SimpleNamespace()
    the_module.CycleINR(parent)
    assert parent.title == "CycleINR"
    assert parent.categories == ["Filtering"]
    assert parent.contributors and "Not a medical device" in parent.helpText
    assert all(number in parent.acknowledgementText for number in ("2404.04878", "2003.12627"))
    slots = [the_module.registerSampleData, the_module.registerLayouts]
    assert an_app.connected == [("startupCompleted()", slot) for slot in slots]


def test_the_parameters_have_their_defaults_and_limits(the_module, a_scene):
    asked = the_module.CycleINRLogic().getParameterNode()
    nodes = ("inputVolume", "outputVolume", "resultVolume", "region")
    assert [getattr(asked, name) for name in nodes] == [None] * 4
    assert (asked.target, asked.zScale, asked.spacing, asked.thickness) == ("isotropic", 4.0, 1.0, 0.0)
    assert asked.adaptMinutes == 0.0
    assert (asked.noise, asked.selfCheck, asked.modelFile) == ("as the scan allows", True, "")
    autos = ("consistency", "model", "device", "precision", "modality")
    assert [getattr(asked, name) for name in autos] == ["auto"] * 5
    wrongs = (("zScale", 1.0), ("zScale", 17.0), ("consistency", "strict"), ("device", "tpu"), ("noise", "renew"))
    for name, wrong in (*wrongs, ("target", "cubic"), ("adaptMinutes", -1.0)):
        with pytest.raises(ValueError):
            setattr(asked, name, wrong)
    asked.zScale = 3.5
    assert the_module.CycleINRLogic().getParameterNode().zScale == 3.5


def test_the_choices_of_the_panel_are_those_of_a_job(the_module):
    from CycleINRLib.jobs import CHOICES, NOISES

    for name, hint in the_module.CycleINRParameterNode.allParameters.items():
        choices = [part.choices for part in typing.get_args(hint) if hasattr(part, "choices")]
        expected = {**CHOICES, "noise": NOISES.values(), "target": the_module.TARGETS}
        assert choices == ([list(expected[name])] if name in expected else [])


def test_every_bound_widget_names_a_parameter_and_every_parameter_has_one(the_module):
    bound = [
        prop[0].text for prop in ElementTree.parse(UI).iter("property") if prop.get("name") == "SlicerParameterName"
    ]
    by_hand = {"model", "modelFile", "resultVolume"}  # Slicer binds no such widgets, or there is none
    by_hand |= {"outputVolume", "region"}  # their selectors tell more than what the user chose
    assert sorted([*bound, *by_hand]) == sorted(the_module.CycleINRParameterNode.allParameters)


def test_every_widget_that_the_code_uses_is_in_the_ui():
    names = {element.get("name") for element in ElementTree.parse(UI).iter("widget")}
    texts = [SOURCE, *(file.read_text(encoding="utf-8") for file in PARTS)]
    used = {name for text in texts for name in re.findall(r"\bui\.(\w+)", text)}
    assert used and used <= names


def test_the_ui_gives_the_scene_to_every_node_selector(widgets, a_scene):
    import qtstandins

    top = qtstandins.load_ui(UI)
    children = vars(qtstandins.children_of(top))
    assert type(top.real).__name__ == "qMRMLWidget"
    top.setMRMLScene(a_scene.scene)
    selectors = {name: widget for name, widget in children.items() if "NodeComboBox" in type(widget.real).__name__}
    assert sorted(selectors) == ["inputSelector", "moreSelector", "outputSelector", "regionSelector"]
    for name, selector in selectors.items():
        assert selector.real.scene is a_scene.scene
        kind = "vtkMRMLMarkupsROINode" if name == "regionSelector" else "vtkMRMLScalarVolumeNode"
        assert selector.nodeTypes == [kind]
        assert selector.showChildNodeTypes is False  # no label maps, no vectors


def test_every_widget_of_the_ui_is_a_class_of_qt_ctk_or_qmrml_and_has_the_properties_that_are_set(widgets):
    import qtstandins

    children = vars(qtstandins.children_of(qtstandins.load_ui(UI)))
    for element in ElementTree.parse(UI).iter("widget"):
        meta = children[element.get("name")].real.metaObject()
        assert type(children[element.get("name")].real).__name__ == element.get("class")
        for prop in element.findall("property"):
            special = prop.get("stdset") == "0" or prop.get("name") == "buddy"  # of the .ui format itself
            assert special or meta.indexOfProperty(prop.get("name")) >= 0, prop.get("name")


def test_the_sample_data_are_there_as_stated(the_module, monkeypatch, a_scene):
    registered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **facts: registered.append(facts))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    the_module.registerSampleData()
    files = sorted(path.name for path in (REPOSITORY / "Resources" / "SampleData").glob("*.nrrd"))
    assert files and sorted(facts["fileNames"] for facts in registered) == files
    for facts in registered:
        path = Path(facts["uris"].removeprefix("file://"))
        assert facts["checksums"] == "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts["category"] == "CycleINR"
        assert Path(facts["thumbnailFileName"]).is_file()
        node = a_scene.load_volume(path, facts["nodeNames"])
        _, plan = the_module.CycleINRLogic().outlook(node)
        assert plan.z_scale > 1.5  # anisotropic enough to show something


def test_missing_sample_data_are_not_registered(the_module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace())
    from CycleINRParts import samples

    monkeypatch.setattr(samples, "SAMPLES", (tmp_path,))
    the_module.registerSampleData()


def test_the_icon_is_an_image_of_128_pixels():
    for path in (MODULE.parent / "Resources" / "Icons" / "CycleINR.png", REPOSITORY / "Resources" / "CycleINR.png"):
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert [int.from_bytes(head[at : at + 4], "big") for at in (16, 20)] == [128, 128]


# --- start-up and console -----------------------------------------------------------------------------------------
def test_a_start_of_slicer_loads_nothing_that_only_the_open_panel_needs(tmp_path):
    """What is loaded is what the start costs: 15 to 30 ms of a busy processor, 65 to 110 where all of it was loaded."""
    pytest.importorskip("slicer", reason="needs slicer-core")
    code = LOAD.format(paths=[str(MODULE.parent), str(Path(__file__).parent)], hidden=str(REPOSITORY), absent=ABSENT)
    code += 'print(*sorted(name for name in sys.modules if name.startswith("CycleINR")))'
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    loaded = set(done.stdout.splitlines()[-1].split())
    parts = {"CycleINRParts", *(f"CycleINRParts.{name}" for name in ("logic", "observing", "running"))}
    assert loaded == {"CycleINR", "CycleINRLib", "CycleINRLib.errors", "CycleINRLib.jobs", *parts}


def test_the_console_has_the_functions_that_scripts_rely_on(the_module, a_scene):
    """Design 4.3: names, order and defaults; what came later is by keyword."""
    logic = the_module.CycleINRLogic()
    signatures = {
        "upsample": [("inputVolume", ...), ("zScale", None), ("spacing", None), ("outputVolume", None), ("wait", True)],
        "preview": [("inputVolume", ...), ("zScale", None), ("spacing", None), ("wait", True)],
        "measure": [("inputVolume", ...), ("wait", True)],
        "adapt": [("inputVolumes", ...), ("outputModel", None), ("wait", True)],
        "upsampleSequence": [("inputVolume", ...), ("zScale", None), ("spacing", None), ("wait", True)],
        "carrySegmentations": [("resultVolume", ...)],
        "series": [("item", ...)],
    }
    for name, expected in signatures.items():
        parameters = inspect.signature(getattr(logic, name)).parameters.values()
        plain = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        found = [(one.name, ... if one.default is one.empty else one.default) for one in plain]
        assert found == expected and getattr(logic, name).__doc__, name
    from CycleINRParts.frames import FramesRun

    from CycleINRLib.child.run import Run

    for handle in (Run, FramesRun):
        assert all(hasattr(handle, name) for name in ("cancel", "done", "result", "poll", "wait", "discard", "log"))
