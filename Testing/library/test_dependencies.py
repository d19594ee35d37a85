"""What the child needs, brought into Slicer: after consent, by the right way, and told where it fails."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from CycleINRLib.child import dependencies
from CycleINRLib.errors import MissingPackageError

REQUIREMENTS = Path(__file__).resolve().parents[2] / "CycleINR" / "Resources" / "requirements.txt"


class Slicer:
    """The part of the application that is asked: what is installed, what the user said, what was done."""

    def __init__(self) -> None:
        self.installed: set[str] = set()  # names
        self.agrees, self.testing = True, False
        self.questions: list[str] = []
        self.done: list[tuple] = []  # (installer, what was asked of it)
        self.torch_error: Exception | None = None
        self.torch_arrives = self.others_arrive = True
        self.others_error: Exception | None = None

    def pip_check(self, requirement) -> bool:
        return str(requirement).partition(">")[0] in self.installed

    def load_requirements(self, path) -> list[str]:
        lines = Path(path).read_text("utf-8").splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def pip_ensure(self, requirements, **options) -> None:
        self.done.append(("pip", requirements, options))
        if self.others_error:
            raise self.others_error
        if self.others_arrive:
            self.installed |= {line.partition(">")[0] for line in requirements}

    def install_torch(self, **options):
        self.done.append(("PyTorchUtils", options))
        if self.torch_arrives:
            self.installed.add("torch")
        if self.torch_error:
            raise self.torch_error
        return object()

    def answer(self, text: str, **_) -> bool:
        self.questions.append(text)
        return self.agrees


class PyTorchUtilsLogic:
    @property
    def torch(self):
        raise AssertionError("reading it installs without asking")


@pytest.fixture
def slicer(monkeypatch) -> Slicer:
    """A Slicer with nothing installed but the PyTorch extension."""
    said = Slicer()
    packaging = types.SimpleNamespace(
        pip_check=said.pip_check, load_requirements=said.load_requirements, pip_ensure=said.pip_ensure
    )
    application = types.SimpleNamespace(testingEnabled=lambda: said.testing)
    util = types.SimpleNamespace(confirmOkCancelDisplay=said.answer)
    parts = {
        "slicer": types.SimpleNamespace(app=application, util=util, packaging=packaging),
        "slicer.packaging": packaging,
        "slicer.i18n": types.SimpleNamespace(tr=lambda text: text),
        "PyTorchUtils": types.SimpleNamespace(
            PyTorchUtilsLogic=type(
                "Logic", (PyTorchUtilsLogic,), {"installTorch": lambda _, **o: said.install_torch(**o)}
            )
        ),
    }
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, name, part)
    return said


def test_where_everything_is_at_hand_nothing_is_asked_or_done(slicer):
    slicer.installed = {"torch", "safetensors"}
    assert dependencies.missing(REQUIREMENTS) == []
    assert dependencies.ensure(REQUIREMENTS)
    assert slicer.questions == [] and slicer.done == []


def test_one_question_for_all_packages_then_torch_by_its_extension_and_the_rest_by_pip(slicer):
    heard = []
    assert dependencies.ensure(REQUIREMENTS, heard.append)
    (question,) = slicer.questions
    assert "torch" in question and "safetensors" in question and "GB" in question
    (by_torch, options), (by_pip, packages, more) = slicer.done
    assert (by_torch, by_pip) == ("PyTorchUtils", "pip")
    assert options == {"askConfirmation": False, "torchVersionRequirement": ">=2.4"}
    assert packages == ["safetensors>=0.4"] and more["prompt_install"] is False
    assert len(heard) == 2 and "PyTorch" in heard[0]


def test_a_small_package_alone_is_not_announced_as_gigabytes(slicer):
    slicer.installed = {"torch"}
    assert dependencies.ensure(REQUIREMENTS)
    assert "GB" not in slicer.questions[0] and [step[0] for step in slicer.done] == ["pip"]


def test_without_consent_nothing_is_installed(slicer):
    slicer.agrees = False
    assert not dependencies.ensure(REQUIREMENTS)
    assert slicer.done == []


def test_without_the_pytorch_extension_the_user_is_told_before_any_question(slicer, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(MissingPackageError, match="install it by the Extensions Manager"):
        dependencies.ensure(REQUIREMENTS)
    assert slicer.questions == []


def test_an_absent_extension_does_not_matter_where_torch_is_there(slicer, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    slicer.installed = {"torch"}
    assert dependencies.ensure(REQUIREMENTS)


def test_testing_mode_installs_nothing_though_every_question_is_answered_yes(slicer):
    slicer.testing = True
    with pytest.raises(MissingPackageError, match="torch>=2.4"):
        dependencies.ensure(REQUIREMENTS)
    assert slicer.questions == [] and slicer.done == []


def test_a_failed_download_is_told_with_its_reason_and_the_way_without_a_network(slicer, caplog):
    slicer.torch_arrives, slicer.torch_error = False, CalledProcessError(1, "light_the_torch install")
    with pytest.raises(MissingPackageError, match="PyTorch could not be installed.*exit status 1.*docs/install.md"):
        dependencies.ensure(REQUIREMENTS)
    assert "installing PyTorch failed" in caplog.text


def test_a_torch_that_is_there_but_fails_to_load_into_slicer_is_left_to_the_child(slicer):
    slicer.torch_error = OSError("DLL load failed")
    assert dependencies.ensure(REQUIREMENTS)


def test_a_small_package_that_fails_is_told(slicer):
    slicer.others_error = RuntimeError("pip install is already in progress")
    with pytest.raises(MissingPackageError, match="safetensors>=0.4 could not be installed.*in progress"):
        dependencies.ensure(REQUIREMENTS)


def test_an_installation_that_brings_nothing_is_noticed(slicer):
    slicer.others_arrive = False
    with pytest.raises(MissingPackageError, match="did not bring all packages. Found: safetensors>=0.4"):
        dependencies.ensure(REQUIREMENTS)
