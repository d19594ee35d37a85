"""The extension's CMake: lists equal the tree, and a package holds all that the library needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cmake_lists
import pytest

REPOSITORY = cmake_lists.REPOSITORY
MODELS = (cmake_lists.LIBRARY, "LIBRARY_MODELS")
TOP = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
LAYOUT = """
# Where things are in a Slicer, and what the extension's CMake uses of it.
foreach(file Slicer_USE_FILE Slicer_EXTENSION_GENERATE_CONFIG Slicer_EXTENSION_CPACK)
  set(${file} "${CMAKE_CURRENT_LIST_DIR}/empty.cmake")
endforeach()
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR ./${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
"""
STAND_IN = """
# What Slicer's macro does with the files that it is given: refuse, copy, byte-compile, install the folder.
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS OR NOT MY_NAME)
    message(FATAL_ERROR "unknown keywords or no name: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  set(folder ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
  set(installed ${folder}/)
  if(MY_WITH_SUBDIR)
    get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(folder ${folder}/${name})
    set(installed ${folder})
  endif()
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file} OR IS_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent file ${file}")
    endif()
    get_filename_component(inner ${file} DIRECTORY)
    file(COPY ${file} DESTINATION ${folder}/${inner})
  endforeach()
  list(TRANSFORM MY_SCRIPTS PREPEND ${folder}/)
  add_custom_target(Compile${MY_NAME} ALL COMMAND "@PYTHON@" -m py_compile ${MY_SCRIPTS})
  install(DIRECTORY ${installed} DESTINATION ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR} COMPONENT RuntimeLibraries)
endfunction()
"""
REAL = """
# Slicer's and CTK's own macros, from checkouts of their sources.
list(APPEND CMAKE_MODULE_PATH "@SLICER@/CMake" "@CTK@/CMake")
set(CTK_CMAKE_DIR "@CTK@/CMake")
set(Slicer_USE_PYTHONQT ON)
set(PYTHONINTERP_FOUND ON)
set(PYTHONLIBS_FOUND ON)
set(PYTHON_EXECUTABLE "@PYTHON@")
set(PYTHON_LIBRARIES "@PYTHON@")
include(CMakeParseArguments)
include(ctkMacroParseArguments)
include(ctkFunctionExtractOptimizedLibrary)
include(ctkMacroCompilePythonScript)
include(SlicerMacroBuildScriptedModule)
set(BUILD_TESTING ON)
enable_testing()
include(ExternalData)
set(Slicer_ExternalData_DATA_MANAGEMENT_TARGET ExtensionData)
set(Slicer_LAUNCHER_EXECUTABLE Slicer)
set(Slicer_PYTHON_MODULE_TEST_TEMPLATES_DIR "@SLICER@/Base/QTCore/Testing/Python")
include(SlicerMacroConfigureGenericPythonModuleTests)
include(SlicerMacroPythonTesting)
"""
SOURCES = {"SLICER": "SLICER_SOURCE_DIR", "CTK": "CTK_SOURCE_DIR"}  # environment variables that name the checkouts


@pytest.mark.parametrize("key", cmake_lists.LISTS, ids=lambda key: key[1])
def test_a_list_names_every_file_and_no_other(key):
    listed, present = cmake_lists.listed(*key), cmake_lists.present(*key)
    fix = "run: python Testing/library/cmake_lists.py --write"
    assert sorted(listed) == present, f"{' '.join(key)} differs from the tree; {fix}"
    assert listed, "an empty list proves nothing"


def test_the_lists_can_be_written_anew_and_an_unlisted_file_is_seen(tmp_path, monkeypatch):
    for key in cmake_lists.LISTS:
        folder = tmp_path / cmake_lists.LISTS[key][0]
        (tmp_path / key[0]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / key[0], tmp_path / key[0])
        for name in cmake_lists.listed(*key):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    monkeypatch.setattr(cmake_lists, "REPOSITORY", tmp_path)
    key = (cmake_lists.LIBRARY, "LIBRARY_PYTHON_SCRIPTS")
    assert sorted(cmake_lists.listed(*key)) == cmake_lists.present(*key)
    (tmp_path / "CycleINRLib" / "training" / "new.py").touch()
    assert set(cmake_lists.present(*key)) - set(cmake_lists.listed(*key)) == {"training/new.py"}
    before = (tmp_path / key[0]).read_text(encoding="utf-8")
    cmake_lists.write(*key)
    after = (tmp_path / key[0]).read_text(encoding="utf-8")
    assert sorted(set(after.splitlines()) - set(before.splitlines())) == ["  training/new.py"]
    assert not set(before.splitlines()) - set(after.splitlines())


def test_the_extension_states_what_the_index_asks():
    stated = dict(re.findall(r'^set\((EXTENSION_\w+) "([^"]*)"\)$', TOP, re.MULTILINE))
    assert "project(CycleINR)" in TOP
    assert stated["EXTENSION_HOMEPAGE"] == "https://github.com/CycleINR/SlicerCycleINR"
    assert stated["EXTENSION_DEPENDS"] == "PyTorch"
    assert stated["EXTENSION_DESCRIPTION"].endswith(".") and len(stated["EXTENSION_DESCRIPTION"]) < 300
    raw = "https://raw.githubusercontent.com/CycleINR/SlicerCycleINR/main/"
    icon, *screenshots = (stated["EXTENSION_ICONURL"] + " " + stated["EXTENSION_SCREENSHOTURLS"]).split()
    assert (REPOSITORY / icon.removeprefix(raw)).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for url in screenshots:  # the pictures that the README shows
        assert url.startswith(raw) and f"]({url.removeprefix(raw)})" in readme
    for name in ("EXTENSION_README_FILE", "EXTENSION_LICENSE_FILE"):
        assert (REPOSITORY / Path(stated[name]).name).is_file()


def slicer_config(kind: str) -> str:
    """SlicerConfig.cmake with a stand-in for Slicer's macros, or with the macros themselves."""
    text = LAYOUT + (STAND_IN if kind == "stand-in" else REAL)
    if kind == "real":
        for word, variable in SOURCES.items():
            if not os.environ.get(variable):
                pytest.skip(f"needs checkouts of Slicer and CTK, named by {' and '.join(SOURCES.values())}")
            text = text.replace(f"@{word}@", os.environ[variable])
    return text.replace("@PYTHON@", sys.executable)


@pytest.fixture(scope="module", params=["stand-in", "real"])
def built(request, tmp_path_factory) -> Path:
    """The extension configured, built and installed; holds `build` and `package`."""
    cmake = shutil.which("cmake")
    if cmake is None or (shutil.which("ninja") is None and shutil.which("make") is None):
        pytest.skip("needs cmake and ninja or make")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "slicer").mkdir()
    (folder / "slicer" / "SlicerConfig.cmake").write_text(slicer_config(request.param))
    (folder / "slicer" / "empty.cmake").write_text("")
    no_compiler = ["-DCMAKE_C_COMPILER=/bin/true", "-DCMAKE_C_COMPILER_WORKS=1", "-DCMAKE_CXX_COMPILER=/bin/true"]
    no_compiler += ["-DCMAKE_CXX_COMPILER_WORKS=1", "-DCMAKE_C_COMPILER_FORCED=1", "-DCMAKE_CXX_COMPILER_FORCED=1"]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    build = folder / "build"
    for command in (
        [cmake, "-S", REPOSITORY, "-B", build, f"-DSlicer_DIR={folder / 'slicer'}", *generator, *no_compiler],
        [cmake, "--build", build],
        [cmake, "--install", build, "--prefix", folder / "package"],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def scripted_modules(tree: Path) -> Path:
    return tree / "lib" / "Slicer-5.12" / "qt-scripted-modules"


@pytest.mark.parametrize("tree", ["build", "package"])
def test_build_tree_and_package_hold_a_whole_library(built, tree):
    modules = scripted_modules(built / tree)
    assert (modules / "CycleINR.py").is_file()
    assert (modules / "Resources" / "UI" / "CycleINR.ui").is_file()
    code = (
        f"import sys; sys.path.insert(0, {str(modules)!r})\n"
        "import CycleINRLib, CycleINRLib.cli.demo, CycleINRLib.network.weights as weights, CycleINRLib.child.run\n"
        "print(CycleINRLib.__file__, weights.find_model('light'), CycleINRLib.cli.demo.find_sample('CT'), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    library = modules / "CycleINRLib"
    found = [Path(line) for line in done.stdout.splitlines()]
    assert found[0] == library / "__init__.py"
    assert [path.parent for path in found[1:]] == [library / "models", library / "samples"]


def test_the_package_holds_every_file_as_it_is_in_the_source(built):
    """Byte for byte: each listed file, under the path that design and lists give it, and no other beside byte-code."""
    modules = scripted_modules(built / "package")
    homes = {"LIBRARY_MODELS": "CycleINRLib/models", "LIBRARY_SAMPLES": "CycleINRLib/samples"}
    expected = {}
    for key, (folder, _) in cmake_lists.LISTS.items():
        home = homes.get(key[1], "" if folder == "CycleINR" else folder)
        for name in cmake_lists.listed(*key):
            expected[(Path(home) / name).as_posix()] = REPOSITORY / folder / name
    held = {path.relative_to(modules).as_posix() for path in modules.rglob("*") if path.is_file()}
    assert {name for name in held if "__pycache__" not in name and not name.endswith(".pyc")} == set(expected)
    for name, source in expected.items():
        assert (modules / name).read_bytes() == source.read_bytes(), name
    others = [path for path in (built / "package").rglob("*") if path.is_file() and modules not in path.parents]
    assert others == []


MODULE_OF_PACKAGE = """
import sys, tempfile
sys.path[:] = [path for path in sys.path if path not in ("", {repository!r})]
sys.path[:0] = [{modules!r}, {standins!r}]
import slicer, slicer.util, pytest, standins
standins.install(tempfile.gettempdir(), pytest.MonkeyPatch())
import CycleINR
from CycleINRParts import samples
logic = CycleINR.CycleINRLogic()
scans = samples.files_of(samples.SAMPLES, "*")[0].parent
print(CycleINR.__file__, CycleINR.CycleINRLib.__file__, scans, *logic.modelNames(), sep="\\n")
"""


def test_the_installed_module_loads_in_a_scene_with_its_library_samples_and_models(built):
    pytest.importorskip("slicer", reason="needs slicer-core")
    modules, standins = scripted_modules(built / "package"), REPOSITORY / "Testing" / "module"
    code = MODULE_OF_PACKAGE.format(modules=str(modules), standins=str(standins), repository=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    module, library, samples, *models = done.stdout.splitlines()[-3 - len(cmake_lists.listed(*MODELS)) :]
    assert (Path(module), Path(library)) == (modules / "CycleINR.py", modules / "CycleINRLib" / "__init__.py")
    assert Path(samples) == modules / "CycleINRLib" / "samples"
    assert [f"{name}.safetensors" for name in models] == sorted(cmake_lists.listed(*MODELS))


def test_slicer_will_find_one_module_and_no_other(built):
    """The scanner takes every .py file directly in that folder for a module."""
    assert [path.name for path in scripted_modules(built / "package").glob("*.py")] == ["CycleINR.py"]


def test_slicer_s_own_macros_register_the_module_s_test_and_the_generic_one(built):
    if not (built / "build" / "CTestTestfile.cmake").is_file():
        pytest.skip("the stand-in registers no tests")
    told = subprocess.run(["ctest", "-N", "-V"], cwd=built / "build", capture_output=True, text=True, check=True).stdout
    assert "py_CycleINR" in told and "py_nomainwindow_qSlicerCycleINRModuleGenericTest" in told
    assert "runUnitTest" in told and "Total Tests: 2" in told


def test_an_installed_library_answers_as_a_shell(built):
    main = scripted_modules(built / "package") / "CycleINRLib" / "__main__.py"
    done = subprocess.run([sys.executable, main, "models"], cwd=built, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "light" in done.stdout
