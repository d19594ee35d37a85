"""The packages that the computing process needs beside those of Slicer, and how they come there (floor 4; in Slicer).

The application itself never loads torch: what is installed is read from package metadata, and whether it works is
tried in a child process (`environment.examine`). Nothing is fetched before the user agreed, and nothing at all where
everything is at hand, so that an installed CycleINR works without a network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MissingPackageError

TORCH = "torch>=2.4"  # the first that works with the NumPy of Slicer
OFFLINE = "or install it without a network (docs/install.md on the home page)"


def missing(requirements: str | Path) -> list[str]:
    """What is absent or too old, as requirement lines; loads and installs nothing.

    Parameters
    ----------
    requirements : path of the list of packages other than torch
    """
    from slicer.packaging import load_requirements, pip_check

    return [str(line) for line in (TORCH, *load_requirements(requirements)) if not pip_check(line)]


def ensure(requirements: str | Path, say: Callable[[str], None] = lambda text: None) -> bool:
    """Whether the child will find its packages; what is missing is installed after the user agreed to one question.

    Torch comes through the PyTorch extension alone, which knows the build that fits the graphics card.

    Parameters
    ----------
    requirements : path of the list of packages other than torch
    say : hears what is being installed, since that takes minutes

    Returns
    -------
    bool, False where the user declined

    Raises
    ------
    MissingPackageError : the PyTorch extension is absent, or a package could not be installed, with the reason
    """
    lacking = missing(requirements)
    if not lacking:
        return True
    logic = _pytorch_extension() if TORCH in lacking else None
    if not _may_install(lacking):
        return False
    from slicer.packaging import pip_ensure

    if logic is not None:
        say("Installing PyTorch; this may take several minutes…")
        version = TORCH.removeprefix("torch")
        _install("PyTorch", lambda: logic.installTorch(askConfirmation=False, torchVersionRequirement=version))
    others = [line for line in lacking if line != TORCH]
    if others:
        say("Installing a Python package…")
        _install(", ".join(others), lambda: pip_ensure(others, prompt_install=False, requester="CycleINR"))
    still = missing(requirements)
    if still:
        raise MissingPackageError(
            "Installing did not bring all packages", ", ".join(still), f"restart Slicer and try again, {OFFLINE}"
        )
    return True


def _pytorch_extension() -> Any:
    """The logic of the PyTorch extension; its `torch` property is never touched: reading it installs unasked."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError as error:
        found, todo = "the PyTorch extension is missing", "install it by the Extensions Manager and restart Slicer"
        raise MissingPackageError("CycleINR needs PyTorch", found, f"{todo}, {OFFLINE}") from error
    return PyTorchUtils.PyTorchUtilsLogic()


def _may_install(lacking: list[str]) -> bool:
    """The user's answer. In Slicer's testing mode every question counts as answered with yes, so there it is no."""
    import slicer
    from slicer.i18n import tr as _

    if slicer.app.testingEnabled():
        raise MissingPackageError(
            "Packages are missing", ", ".join(lacking), "install them first: tests do not change Slicer's Python"
        )
    size = _("PyTorch takes 1 to 3 GB, and installing it several minutes.") if TORCH in lacking else ""
    question = _("CycleINR computes with Python packages that are not installed: {packages}. {size} Install now?")
    text = " ".join(question.format(packages=", ".join(lacking), size=size).split())
    return bool(slicer.util.confirmOkCancelDisplay(text, windowTitle="CycleINR"))


def _install(name: str, step: Callable[[], Any]) -> None:
    """One installation; whatever goes wrong in it is foreign code, and told in one sentence with its reason.

    An exception that leaves the package in place is none: after installing, the PyTorch extension loads torch into
    the application, which may fail where the child, a fresh process, succeeds. `ensure` looks afterwards.
    """
    import logging

    try:
        step()
    except Exception as error:
        logging.exception("CycleINR: installing %s failed", name)
        from slicer.packaging import pip_check

        if name != "PyTorch" or not pip_check(TORCH):
            reason = " ".join(str(error).split())[-200:] or type(error).__name__
            todo = f"look into the log, check network and proxy, {OFFLINE}"
            raise MissingPackageError(f"{name} could not be installed", reason, todo) from error
