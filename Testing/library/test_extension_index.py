"""What the Extensions Index asks of an entry: its schema, its automatic checks, its review questions.

The rules are those of the index in August 2026: schema 1.0.2 of a catalog entry, `check_description_files.py`, and the
questions of the review. What a network or a person is needed for stands in docs/checklist.md.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRY = REPOSITORY / "CycleINR.json"
CMAKE = (REPOSITORY / "CMakeLists.txt").read_text("utf-8")
README = (REPOSITORY / "README.md").read_text("utf-8")
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
REQUIRED = {"$schema", "category", "scm_url"}
KINDS: dict[str, type] = {  # every property of schema 1.0.2; no other is allowed
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "dicom_support_rule": str,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
MODULE = REPOSITORY / "CycleINR" / "CycleINR.py"
MODULES = sorted([*MODULE.parent.rglob("*.py"), *(REPOSITORY / "CycleINRLib").rglob("*.py")])
HOMES = {path.name: path for parent in (REPOSITORY, MODULE.parent) for path in parent.iterdir() if path.is_dir()}
NETWORK = {"urllib", "http", "requests", "socket", "ftplib", "smtplib", "httpx", "aiohttp", "websockets", "xmlrpc"}


def entry() -> dict:
    return json.loads(ENTRY.read_text("utf-8"))


def stated(name: str) -> str:
    """The value of an EXTENSION_ variable, by the expression that the index uses."""
    (found,) = re.findall(rf'set\s*\({name}\s*"([^"]+)"[ ]*\)', CMAKE)
    return found


# --- the entry --------------------------------------------------------------------------------------------------
def problems_of(facts: dict) -> list[str]:
    """Where `facts` break schema 1.0.2."""
    found = [f"{name} is missing" for name in REQUIRED - facts.keys()]
    found += [f"{name} is not allowed" for name in facts.keys() - KINDS.keys()]
    for name, value in facts.items():
        kind = KINDS.get(name)
        if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            found.append(f"{name} is no {kind.__name__}")
    if not all(isinstance(name, str) for name in facts.get("build_dependencies", [])):
        found.append("build_dependencies are names")
    if facts.get("scm_type", "git") not in ("git", "local"):
        found.append("scm_type is unknown")
    if isinstance(facts.get("tier"), int) and not 1 <= facts["tier"] <= 5:
        found.append("tier is out of range")
    return found


def test_the_entry_keeps_to_the_schema_that_it_names():
    assert entry()["$schema"] == SCHEMA
    assert problems_of(entry()) == []


@pytest.mark.parametrize(
    "change",
    [{"tier": 6}, {"tier": True}, {"homepage": "x"}, {"build_dependencies": "PyTorch"}, {"scm_type": "svn"}],
    ids=str,
)
def test_a_wrong_entry_would_be_seen(change):
    assert len(problems_of({**entry(), **change})) == 1


def test_the_entry_lacks_nothing_that_is_required():
    for name in REQUIRED:
        assert problems_of({key: value for key, value in entry().items() if key != name}) == [f"{name} is missing"]


def test_the_entry_has_unix_line_ends_and_its_category_exists():
    assert b"\r" not in ENTRY.read_bytes()
    assert (
        stated("EXTENSION_CATEGORY") == entry()["category"] == "Filtering"
    )  # one of the index's list, and the module's own (test_module_file.py)


def test_the_names_of_extension_and_repository_follow_the_rules():
    address = urlsplit(entry()["scm_url"])
    assert address.scheme == "https" and address.netloc == "github.com"
    assert address.path.rstrip("/").split("/")[-1].removesuffix(".git") == f"Slicer{ENTRY.stem}"
    assert not ENTRY.stem.lower().startswith("slicer")
    assert re.findall(r"project\s*\(\s*([^\s\)\n\r]+)", CMAKE, re.IGNORECASE)[0] == ENTRY.stem


def test_the_entry_and_cmake_say_the_same():
    facts = entry()
    assert facts["build_dependencies"] == stated("EXTENSION_DEPENDS").split()
    assert facts["scm_url"] == stated("EXTENSION_HOMEPAGE")
    branch = f"https://raw.githubusercontent.com/{urlsplit(facts['scm_url']).path.strip('/')}/{facts['scm_revision']}/"
    for url in (stated("EXTENSION_ICONURL"), *stated("EXTENSION_SCREENSHOTURLS").split()):
        assert url.startswith(branch)
        picture = REPOSITORY / url.removeprefix(branch)
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", f"{url} would answer with no image"


def test_a_full_clone_with_its_history_stays_below_100_mb():
    """The index counts the .git folder too, since it clones a branch with its whole history."""
    run = subprocess.run(
        ["git", "rev-list", "--disk-usage", "--objects", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
    )
    if run.returncode:
        pytest.skip("not a git checkout, or a git without --disk-usage")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\0")
    files = sum((REPOSITORY / name).stat().st_size for name in names if name and (REPOSITORY / name).is_file())
    assert int(run.stdout) + files < 100 * 2**20


# --- the questions of the review: documents ---------------------------------------------------------------------
def test_the_description_tells_a_reader_of_images_what_comes_out():
    text = stated("EXTENSION_DESCRIPTION")
    assert 60 < len(text) < 300 and text.endswith(".")
    assert text.count(". ") <= 1  # one or two sentences
    assert all(word in text for word in ("CT", "MR", "slice"))


def test_the_home_page_has_what_the_index_looks_for():
    assert README.startswith("# CycleINR\n")
    first = README.split("\n\n")[1]
    assert "slice" in first and len(first) < 800
    picture = README.index("![")
    assert picture < README.index("## "), "a picture before the first heading"
    modules = README.split("## The module", 1)[1].split("\n## ", 1)[0]
    assert "**CycleINR**" in modules  # one sentence for each module
    assert "## Cite" in README and "arxiv.org/abs/2404.04878" in README
    assert "Apache License 2.0" in README


def test_the_tutorial_has_steps_pictures_and_the_way_to_its_sample_data():
    text = (REPOSITORY / "docs" / "tutorial.md").read_text("utf-8")
    steps = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert len(steps) >= 8 and steps[0] == 1
    assert "Sample Data" in text and "CycleINRAbdomenCT" in text
    assert len(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)) >= 2
    assert "docs/tutorial.md" in README


# --- the questions of the review: code --------------------------------------------------------------------------
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports_of(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def at_file_scope(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a file is imported; what only type checkers read is left out."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from at_file_scope(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from at_file_scope(handler.body)


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_fetched_or_sent(path):
    used = {name.partition(".")[0] for name in imports_of(ast.walk(tree_of(path)))}
    assert not used & NETWORK, "a file of the extension speaks to a network"
    calls = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
    assert not {name for name in calls if name.endswith(("urlretrieve", "urlopen", "downloadFile", "hub.load"))}
    assert not calls & {"exec", "eval", "pickle.load", "pickle.loads", "torch.load", "os.system"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_torch_is_never_installed_by_pip(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("pip_install", "pip_ensure"):
            assert "torch" not in ast.unparse(node).lower(), ast.unparse(node)
    assert "pip_install" not in path.read_text("utf-8")


def test_the_list_for_pip_has_no_torch_and_no_exact_pin():
    text = (REPOSITORY / "CycleINR" / "Resources" / "requirements.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines and not any("torch" in line or "==" in line for line in lines)


def test_the_module_runs_no_code_at_file_scope_but_finding_its_library():
    """Definitions, constants and imports; the one call is the fallback of a source tree."""
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Try)
    others = []
    for node in at_file_scope(tree_of(MODULE).body):
        if not isinstance(node, allowed) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            others.append(ast.unparse(node))
    assert [text.partition("(")[0] for text in others] == ["sys.path.append"]


def test_all_that_the_module_loads_at_its_import_is_allowed():
    """CycleINR.py and, followed through the library, every file that is loaded with it."""
    allowed = {*sys.stdlib_module_names, "numpy", "scipy", "SimpleITK", "vtk", "slicer"}
    seen: set[Path] = set()
    waiting = [MODULE, *sorted((MODULE.parent / "CycleINRParts").glob("*.py"))]  # these when the panel is opened
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in at_file_scope(tree_of(path).body):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            for target in library_files(node, path):
                waiting.append(target)
            if not getattr(node, "level", 0):
                foreign = {name.partition(".")[0] for name in imports_of(iter([node]))} - allowed - HOMES.keys()
                assert not foreign, f"{name_of(path)} loads {sorted(foreign)} at file scope"
    assert len(seen) > 8  # it did follow


def library_files(node: ast.Import | ast.ImportFrom, path: Path) -> Iterator[Path]:
    """The files of ours that an import statement in `path` loads."""
    if isinstance(node, ast.Import):
        modules = [alias.name.split(".") for alias in node.names]
    else:
        package = package_of(path) if node.level else []
        base = [*package[: len(package) + 1 - (node.level or 1)], *filter(None, (node.module or "").split("."))]
        modules = [base, *([*base, alias.name] for alias in node.names)]
    for parts in modules:
        for count in range(1, len(parts) + 1):
            path = HOMES.get(parts[0], Path("nowhere")).joinpath(*parts[1:count])
            yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


def package_of(path: Path) -> list[str]:
    """The package that a file lies in: ["CycleINRLib", "imaging"]."""
    home = next(home for home in HOMES.values() if home in path.parents and (home / "__init__.py").is_file())
    return [home.name, *path.relative_to(home).parts[:-1]]


def test_the_home_page_says_what_is_known_of_patents():
    assert "patent" in README
