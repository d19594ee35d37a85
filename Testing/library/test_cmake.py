"""The extension's CMake: lists equal the tree, and a package holds all that the library needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import cmake_lists
import pytest

REPOSITORY = cmake_lists.REPOSITORY
TOP = (REPOSITORY / "CMakeLists.txt").read_text(encoding="utf-8")
SLICER_STUB = """
# What the extension uses of Slicer's build system, as far as files and folders go.
set(Slicer_USE_FILE "${CMAKE_CURRENT_LIST_DIR}/empty.cmake")
set(Slicer_EXTENSION_GENERATE_CONFIG "${CMAKE_CURRENT_LIST_DIR}/empty.cmake")
set(Slicer_EXTENSION_CPACK "${CMAKE_CURRENT_LIST_DIR}/empty.cmake")
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/Slicer-5.12/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR ./${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  set(folder ${Slicer_QTSCRIPTEDMODULES_LIB_DIR})
  if(MY_WITH_SUBDIR)
    get_filename_component(name ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    set(folder ${folder}/${name})
  endif()
  foreach(file IN LISTS MY_SCRIPTS MY_RESOURCES)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "nonexistent file ${file}")
    endif()
    get_filename_component(inner ${file} DIRECTORY)
    file(COPY ${file} DESTINATION ${CMAKE_BINARY_DIR}/${folder}/${inner})
    install(FILES ${file} DESTINATION ./${folder}/${inner})
  endforeach()
endfunction()
"""


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
    (tmp_path / "CycleINRLib" / "tasks" / "new.py").touch()
    assert set(cmake_lists.present(*key)) - set(cmake_lists.listed(*key)) == {"tasks/new.py"}
    before = (tmp_path / key[0]).read_text(encoding="utf-8")
    cmake_lists.write(*key)
    after = (tmp_path / key[0]).read_text(encoding="utf-8")
    assert sorted(set(after.splitlines()) - set(before.splitlines())) == ["  tasks/new.py"]
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


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The extension configured, built and installed against a stub of Slicer; holds `build` and `package`."""
    cmake = shutil.which("cmake")
    if cmake is None or (shutil.which("ninja") is None and shutil.which("make") is None):
        pytest.skip("needs cmake and ninja or make")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "slicer").mkdir()
    (folder / "slicer" / "SlicerConfig.cmake").write_text(SLICER_STUB)
    (folder / "slicer" / "empty.cmake").write_text("")
    no_compiler = ["-DCMAKE_C_COMPILER=/bin/true", "-DCMAKE_C_COMPILER_WORKS=1", "-DCMAKE_CXX_COMPILER=/bin/true"]
    no_compiler += ["-DCMAKE_CXX_COMPILER_WORKS=1", "-DCMAKE_C_COMPILER_FORCED=1", "-DCMAKE_CXX_COMPILER_FORCED=1"]
    build = folder / "build"
    for command in (
        [cmake, "-S", REPOSITORY, "-B", build, f"-DSlicer_DIR={folder / 'slicer'}", *no_compiler],
        [cmake, "--build", build],
        [cmake, "--install", build, "--prefix", folder / "package"],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("tree", ["build", "package"])
def test_build_tree_and_package_hold_a_whole_library(built, tree):
    modules = built / tree / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    assert (modules / "CycleINR.py").is_file()
    assert (modules / "Resources" / "UI" / "CycleINR.ui").is_file()
    code = (
        f"import sys; sys.path.insert(0, {str(modules)!r})\n"
        "import CycleINRLib, CycleINRLib.demo, CycleINRLib.network.weights as weights, CycleINRLib.runs\n"
        "print(CycleINRLib.__file__, weights.find_model('light'), CycleINRLib.demo.find_sample('CT'), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    library = modules / "CycleINRLib"
    places = [Path(line) for line in done.stdout.splitlines()]
    assert places[0] == library / "__init__.py"
    assert [place.parent for place in places[1:]] == [library / "models", library / "samples"]


def test_an_installed_library_answers_as_a_shell(built):
    main = built / "package" / "lib" / "Slicer-5.12" / "qt-scripted-modules" / "CycleINRLib" / "__main__.py"
    done = subprocess.run([sys.executable, main, "models"], cwd=built, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "light" in done.stdout
