"""The examples for Slicer's Python console, run as they stand in README and docs, with the real child and weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
from standins import MODULE

pytestmark = pytest.mark.slow

REPOSITORY = MODULE.parents[1]


def console_block(document: str) -> str:
    pattern = r"<!-- run by Testing/module/test_console_examples.py -->\n```python\n(.*?)```"
    (block,) = re.findall(pattern, (REPOSITORY / document).read_text("utf-8"), re.DOTALL)
    return block


@pytest.mark.parametrize("document", ["README.md", "docs/module.md"])
def test_a_console_example_runs_as_it_stands(document, the_module, an_app, monkeypatch, capfd):
    pytest.importorskip("torch", reason="the child computes with torch")
    import slicer

    values = np.random.default_rng(0).normal(40, 20, (14, 40, 36)).astype(np.int16)
    scan = slicer.util.addVolumeFromArray(values, np.diag([1.0, 1.0, 4.0, 1.0]), name="scan")
    logic = the_module.CycleINRLogic()
    asked = []
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: asked.append(name) or logic, raising=False)
    monkeypatch.setattr(an_app, "processEvents", lambda: None, raising=False)
    names: dict = {"slicer": slicer}  # as the console has it
    exec(compile(console_block(document), document, "exec"), names)
    assert asked == ["CycleINR"]
    assert names["node"].GetNodeReference("CycleINR.source") is scan
    assert slicer.util.arrayFromVolume(names["node"]).shape == (27, 40, 36)
    assert set(names["report"]["snli"]) == {"input", "output", "linear"}
    assert "'linear':" in capfd.readouterr().out  # the figures were printed
    assert np.array_equal(slicer.util.arrayFromVolume(scan), values)
