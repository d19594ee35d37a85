"""The repository keeps its word: README's examples run, pins are pins, the wheel holds what a user needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from CycleINRLib import __version__
from CycleINRLib.cli.main import main
from CycleINRLib.imaging.volume import Volume
from CycleINRLib.io.files import write
from CycleINRLib.jobs import UpsampleJob

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_MB = 60  # the Extensions Index refuses 100
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!+]*)(?:; .+)?$")


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text("utf-8")


def readme_block(language: str) -> str:
    """README's block of that language which is marked as tested."""
    pattern = rf"<!-- tested: [^>]* -->\n```{language}\n(.*?)```"
    (block,) = re.findall(pattern, text_of("README.md"), re.DOTALL)
    return block


@pytest.fixture
def folder_of_a_reader(tmp_path: Path, thick_ct: Volume, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a scan and a job file, as the README assumes."""
    write(thick_ct, tmp_path / "scan.nrrd")
    job = UpsampleJob(input="scan.nrrd", output="job.nrrd", z_scale=2.0)
    (tmp_path / "job.json").write_text(json.dumps(job.to_json()), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_shell_line_of_the_readme_works(folder_of_a_reader, capsys):
    lines = readme_block("sh").splitlines()
    assert len(lines) >= 6
    for line in lines:
        command, *argv = shlex.split(line)
        assert command == "cycleinr"
        assert main(argv) == 0, f"{line}\n{capsys.readouterr().err}"
    made = {path.name for path in folder_of_a_reader.iterdir()}
    assert {"iso.nrrd", "fine.nii.gz", "fine.json", "fine.png", "half.mha", "like.nrrd", "job.nrrd"} <= made


def test_the_python_example_of_the_readme_works(folder_of_a_reader, capsys):
    names: dict = {}
    exec(compile(readme_block("python"), "README.md", "exec"), names)
    assert (folder_of_a_reader / "python.nrrd").exists()
    assert names["result"].report["z_scale"] == 3.5
    assert 1 in names["plane"].values.shape
    assert "upsample" in capsys.readouterr().out  # progress was printed


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile_and_ci_runs_them():
    makefile, ci = text_of("Makefile"), text_of(".ci/run")
    for word in ("demo", "test"):
        assert f"make {word}" in text_of("README.md")
        assert re.search(rf"^{word}: ", makefile, re.MULTILINE)
    assert "make test" in ci and "make check" in ci
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & stat.S_IXUSR or os.name == "nt"


def test_the_lines_for_machines_without_make_install_what_make_installs():
    assert '-c constraints.txt -e ".[test]"' in text_of("README.md")
    assert '-c constraints.txt -e ".[test]"' in text_of("Makefile")


def requirements() -> list[Requirement]:
    """What the `test` extra installs, from pyproject.toml through the installed metadata or the file's own lines."""
    quoted = re.findall(r'^\s+"([A-Za-z][^"]*)",', text_of("pyproject.toml"), re.MULTILINE)
    found = [Requirement(line) for line in quoted if re.search(r"[<>=]=", line)]
    assert len(found) > 8
    return found


def test_constraints_pin_everything_exactly_and_name_no_path():
    lines = [line for line in text_of("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(PIN.match(line) for line in lines), lines
    assert PIN.match(lines[0])[1] == "torch"
    assert not re.search(r"https?:|file:|--|\s@\s|/", "\n".join(lines))


def test_every_requirement_has_a_pin_within_its_range():
    pins: dict[str, list[str]] = {}
    for line in text_of("constraints.txt").splitlines():
        if match := PIN.match(line):
            pins.setdefault(match[1].lower().replace("_", "-"), []).append(match[2])
    for requirement in requirements():
        name = requirement.name.lower().replace("_", "-")
        assert name in pins, f"{name} has no pin"
        assert all(requirement.specifier.contains(pin) for pin in pins[name]), requirement


def test_each_locked_file_has_a_hash_and_the_version_of_the_constraints():
    tomllib = pytest.importorskip("tomllib", reason="comes with Python 3.11")
    lines = [line for line in text_of("locked.txt").splitlines() if line and not line.startswith("#")]
    locked = dict(re.fullmatch(r"(\S+==\S+) --hash=sha256:([0-9a-f]{64})", line).groups() for line in lines)
    pins = {line.lower().replace("_", "-") for line in text_of("constraints.txt").splitlines() if "==" in line}
    assert len(locked) > 20 and {name.lower().replace("_", "-") for name in locked} <= pins
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    asked = [Requirement(one).name.lower() for one in extras["batch"] if not one.startswith("CycleINR[")]
    assert len(asked) > 3 and set(asked) <= {name.split("==")[0].lower() for name in locked}
    assert "--require-hashes" in text_of("Makefile") and "locked.txt" in text_of("Makefile")


def test_one_version_everywhere():
    assert f"version: {__version__}\n" in text_of("CITATION.cff")
    assert re.search(r"^## (\S+)", text_of("CHANGELOG.md"), re.MULTILINE)[1] == __version__


def test_both_papers_are_cited_in_the_readme_and_for_machines():
    for name in ("README.md", "CITATION.cff"):
        assert all(number in text_of(name) for number in ("2404.04878", "2003.12627")), name


def test_the_license_is_the_whole_of_apache_2():
    text = text_of("LICENSE.txt")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def tracked_files() -> list[Path]:
    try:
        run = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [REPOSITORY / name for name in run.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_the_checkout_stays_small():
    assert sum(path.stat().st_size for path in tracked_files()) < MOST_MB * 1e6


def test_the_links_of_the_documents_lead_somewhere():
    documents = [path for path in tracked_files() if path.suffix == ".md"]
    assert len(documents) > 8
    for document in documents:
        text = document.read_text("utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, part = target.partition("#")
            found = document.parent / path if path else document
            assert found.exists(), f"{document.relative_to(REPOSITORY)}: {target}"
            if part:
                assert part in headings_of(found), f"{document.relative_to(REPOSITORY)}: {target}"


def test_every_picture_has_its_caption_and_a_mock_up_is_called_one():
    folder = REPOSITORY / "Resources" / "Screenshots"
    captions = dict(re.findall(r"^\| `(\S+)` \| (.+?) \|", (folder / "README.md").read_text("utf-8"), re.MULTILINE))
    assert sorted(captions) == sorted(path.name for path in folder.iterdir() if path.suffix != ".md")
    pages = [path.read_text("utf-8") for path in tracked_files() if path.suffix == ".md"]
    for name in (name for name, caption in captions.items() if caption.startswith("mock-up")):
        shown = [alt for page in pages for alt in re.findall(rf"!\[([^\]]*)\]\([^)]*{name}\)", page)]
        assert all("mock-up" in alt.lower() for alt in shown), name


def headings_of(document: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_python_package_is_listed_for_the_wheel():
    listed = set(re.findall(r'^    "(CycleINRLib[\w.]*)",$', text_of("pyproject.toml"), re.MULTILINE))
    library = REPOSITORY / "CycleINRLib"
    found = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in library.rglob("__init__.py")}
    assert listed == found | {"CycleINRLib.models", "CycleINRLib.samples"}


def has_setuptools() -> bool:
    try:
        return Version(importlib.metadata.version("setuptools")) >= Version("77")
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the tracked files, so that nothing is left in the checkout."""
    if not has_setuptools():
        pytest.skip("builds with the setuptools of the test extra")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for path in tracked_files():
        target = copy / path.relative_to(REPOSITORY)
        if target.relative_to(copy).parts[0] not in ("Testing", ".git"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_library_weights_and_samples(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in held if name.endswith("METADATA"))
    modules = {str(p.relative_to(REPOSITORY).as_posix()) for p in tracked_files() if p.suffix == ".py"}
    assert {name for name in modules if name.startswith("CycleINRLib/")} <= held
    for folder, home in (("Models", "models"), ("SampleData", "samples")):
        for path in tracked_files():
            if path.parent == REPOSITORY / "Resources" / folder:
                assert f"CycleINRLib/{home}/{path.name}" in held
    assert not any(name.startswith(("Testing", "CycleINR/")) for name in held)
    assert f"Version: {__version__}\n" in metadata


@pytest.mark.slow
def test_an_empty_environment_runs_the_installed_command(wheel, tmp_path):
    """A new environment with the wheel alone; the packages it needs are lent from the one that runs the tests."""
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, capture_output=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "-q", str(wheel)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (package,) = home.rglob("CycleINRLib")
    lent = Path(importlib.metadata.distribution("numpy").locate_file(""))
    (package.parent / "lent.pth").write_text(str(lent), "utf-8")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def told(*words: str) -> str:
        run = subprocess.run([scripts / "cycleinr", *words], cwd=tmp_path, env=clean, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    models = json.loads(told("models", "--json"))["models"]
    assert models and all(Path(model["file"]).parent == package / "models" for model in models)
    sample = next((package / "samples").glob("CT*.nrrd"))
    assert json.loads(told("info", str(sample), "--json"))
    assert told("--version").strip() == f"cycleinr {__version__}"
