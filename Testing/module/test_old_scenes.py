"""Scenes that the panel of revision 8443a11 saved: what its dial for texture means now."""

from __future__ import annotations

from pathlib import Path

import pytest
from driving import rows, volumes

pytest.importorskip("slicer", reason="needs slicer-core")
pytest.importorskip("slicer.util")

OLD = Path(__file__).parents[1] / "data" / "revision_8443a11"


@pytest.mark.parametrize(
    "name, words, told",
    [
        ("least", "as acquired", False),
        ("half", "new in each slice", True),
        ("fitted", "as the scan allows", False),
    ],
)
def test_the_choice_of_noise_is_what_the_dial_meant_and_a_change_is_told(open_panel, a_scene, name, words, told):
    panel = open_panel()
    a_scene.load(OLD / f"scene_{name}.mrb")
    ui, asked = panel.ui, panel.logic.getParameterNode()
    assert volumes() == ["MR", "MR z2"] and ui.inputSelector.currentNode().GetName() == "MR"
    assert (ui.targetComboBox.currentText, ui.zScaleSpinBox.value) == ("z-scale", 2.0)
    assert asked.noise == ui.noiseComboBox.currentText == words
    assert ("texture, which is gone" in ui.messageLabel.text) == told and ui.applyButton.enabled
    assert rows(ui.readoutTable)["Consistency"] == ["project"]
    assert not {"texture", "textureDefault"} & set(asked.parameterNode.GetParameterNames())


def test_a_choice_made_afterwards_stays_when_the_scene_is_opened_again(open_panel, a_scene, tmp_path):
    panel = open_panel()
    a_scene.load(OLD / "scene_half.mrb")
    panel.logic.getParameterNode().noise = "removed"
    a_scene.load(a_scene.save(tmp_path / "again.mrb"))
    assert panel.logic.getParameterNode().noise == "removed"
    assert "texture" not in panel.ui.messageLabel.text
