"""`cycleinr train`: scans found with their facts, a model that upsample takes, a run that resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.cli import main  # noqa: E402
from CycleINRLib.errors import RequestError, VolumeError  # noqa: E402
from CycleINRLib.io.files import write  # noqa: E402
from CycleINRLib.modelcard import read_card  # noqa: E402
from CycleINRLib.network import model  # noqa: E402
from CycleINRLib.trainer import find_scans, read_scan  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = model.NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4)


@pytest.fixture
def data(tmp_path: Path, ct_thin, mr_thin) -> Path:
    """A folder with a CT and an MR, the MR held out."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(dataclasses.replace(ct_thin, modality=None), folder / "head.nrrd")
    write(mr_thin, folder / "mr_brain.nrrd")
    facts = {"head.nrrd": {"modality": "CT", "license": "MIT"}, "mr_brain.nrrd": {"license": "PDDL", "held_out": True}}
    (folder / "scans.json").write_text(json.dumps(facts), "utf-8")
    return folder


def train(data: Path, output: Path, *more: object) -> int:
    argv = ["train", data, "--output", output, "--steps", 4, "--batch", 1, "--device", "cpu", *more]
    return main([str(word) for word in argv])


def test_scans_come_with_their_facts_and_their_modality(data):
    found = dict(find_scans([data]))
    assert [path.name for path in found] == ["head.nrrd", "mr_brain.nrrd"]
    ct, mr = found.values()
    assert ct == {"scan": "head.nrrd", "modality": "CT", "license": "MIT", "source": None, "held_out": False}
    assert mr["modality"] == "MR" and mr["held_out"]  # from the name
    assert read_scan(data / "head.nrrd", "MR").modality == "MR"  # the file does not say; the facts do


def test_facts_about_a_scan_that_is_not_there_are_refused(data):
    (data / "mr_brain.nrrd").unlink()
    with pytest.raises(RequestError, match="mr_brain"):
        list(find_scans([data]))


def test_a_list_of_scans_chooses_among_those_of_the_folder(data, tmp_path):
    listed = tmp_path / "some.json"
    listed.write_text(json.dumps({"head.nrrd": {"modality": "CT", "anatomy": "head"}}), "utf-8")
    ((path, facts),) = find_scans([data], str(listed))
    assert path.name == "head.nrrd" and facts["anatomy"] == "head" and facts["license"] is None
    with pytest.raises(RequestError):
        list(find_scans([data], str(tmp_path / "none.json")))


def test_the_shipped_model_names_scans_that_may_be_used(shared_data):
    """Training scans of the bundled model are there, and none is held out and trained on at once."""
    found = dict(find_scans([shared_data / "train"], str(REPOSITORY / "Resources" / "Models" / "light_scans.json")))
    trained = [facts for facts in found.values() if not facts["held_out"]]
    assert len(trained) >= 10
    assert all(facts["license"] and facts["source"] for facts in trained)


def test_a_folder_that_is_not_there_and_facts_that_are_no_json_are_refused(data):
    with pytest.raises(VolumeError):
        list(find_scans([data / "none"]))
    (data / "scans.json").write_text("[1]", "utf-8")
    with pytest.raises(RequestError):
        list(find_scans([data]))


def test_training_writes_a_model_that_upsamples_and_says_what_it_saw(data, tmp_path, thick_ct, monkeypatch, capsys):
    monkeypatch.setitem(model.CONFIGS, "light", TINY)
    output = tmp_path / "mine.safetensors"
    assert train(data, output) == 0, capsys.readouterr().err
    assert "dB over the closed-form base" in capsys.readouterr().out
    card = read_card(output)
    assert card.name == "mine" and card.network == TINY.to_dict()
    assert [(scan["scan"], scan["license"]) for scan in card.trained_on] == [("head.nrrd", "MIT")]
    assert card.training["steps_done"] == 4
    scan = write(thick_ct, tmp_path / "scan.nrrd")
    assert main(["upsample", str(scan), str(tmp_path / "o.nrrd"), "--model", str(output), "--z-scale", "2"]) == 0


def test_a_run_goes_on_only_when_asked_and_only_if_there_is_one(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(model.CONFIGS, "light", TINY)
    output = tmp_path / "mine.safetensors"
    assert train(data, output, "--resume") == 2
    assert "no run" in capsys.readouterr().err
    assert train(data, output) == 0
    assert train(data, output) == 2
    assert "exists" in capsys.readouterr().err
    assert train(data, output, "--resume", "--steps", 6) == 0
    assert read_card(output).training["steps_done"] == 6


def test_a_folder_without_thin_scans_is_refused_before_anything_is_written(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert train(tmp_path / "empty", tmp_path / "m.safetensors") == 2
    assert "nothing to train on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_ctrl_c_saves_the_state_and_ends_with_130(data, tmp_path, monkeypatch):
    import signal

    from CycleINRLib.tasks import train as loop

    monkeypatch.setitem(model.CONFIGS, "light", TINY)
    draw = loop.draw_batch

    def drawn(*args):
        if args[-1] == 2:
            signal.raise_signal(signal.SIGINT)
        return draw(*args)

    monkeypatch.setattr(loop, "draw_batch", drawn)
    assert train(data, tmp_path / "m.safetensors", "--steps", 50) == 130
    assert (tmp_path / "m.state").exists()
    assert 1 <= read_card(tmp_path / "m.safetensors").training["steps_done"] < 50
