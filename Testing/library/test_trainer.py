"""`cycleinr train`: scans found with their facts, a model that upsample takes, a run that resumes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import train_child

torch = pytest.importorskip("torch", reason="training needs torch")

from CycleINRLib.cli import train as trainer  # noqa: E402
from CycleINRLib.cli.main import main  # noqa: E402
from CycleINRLib.cli.train import find_scans, read_scan  # noqa: E402
from CycleINRLib.errors import RequestError, VolumeError  # noqa: E402
from CycleINRLib.io.files import write  # noqa: E402
from CycleINRLib.modelcard import read_card  # noqa: E402
from CycleINRLib.network import model  # noqa: E402
from CycleINRLib.pictures.training import read_log  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = model.NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4)


def train(data: Path, output: Path, *more: object) -> int:
    argv = ["train", data, "--output", output, "--steps", 4, "--batch", 1, "--patch", 24, "--device", "cpu", *more]
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_polite_kill_save_the_state_and_end_with_130(number, data, tmp_path, monkeypatch):
    from CycleINRLib.training import train as loop

    monkeypatch.setitem(model.CONFIGS, "light", TINY)
    draw = loop.draw_batch

    def drawn(*args):
        if args[4] == 2:
            signal.raise_signal(number)
        return draw(*args)

    monkeypatch.setattr(loop, "draw_batch", drawn)
    assert train(data, tmp_path / "m.safetensors", "--steps", 50) == 130
    assert (tmp_path / "m.state").exists()
    assert 1 <= read_card(tmp_path / "m.safetensors").training["steps_done"] < 50


@pytest.fixture
def tiny_runs(monkeypatch) -> Iterator[None]:
    """Runs of this process are those of train_child.py."""
    monkeypatch.setattr(trainer, "_configuration", train_child.tiny(trainer._configuration))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def child(*words: object, **environment: str) -> subprocess.Popen:
    command = [sys.executable, train_child.__file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})


def arguments(data: Path, output: Path, *more: object) -> tuple[object, ...]:
    return ("train", data, "--output", output, "--steps", 12, "--batch", 3, "--patch", 24, "--device", "cpu", *more)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such kill on this system")
def test_a_run_that_was_killed_goes_on_with_the_very_same_losses(data, tmp_path, tiny_runs):
    cut = child("--kill-at", 8, *arguments(data, tmp_path / "cut.safetensors"))
    assert main(list(map(str, arguments(data, tmp_path / "whole.safetensors")))) == 0
    said = cut.communicate(timeout=900)
    assert cut.returncode == -signal.SIGKILL, said
    at_the_kill = read_log(tmp_path / "cut.csv")["loss"]
    assert [step for step, _ in at_the_kill] == [2, 4, 6, 8]  # the state is that after step 5
    assert main(list(map(str, arguments(data, tmp_path / "cut.safetensors", "--resume")))) == 0
    whole, again = (read_log(tmp_path / f"{name}.csv") for name in ("whole", "cut"))
    assert [step for step, _ in again["loss"]] == [2, 4, 6, 8, 10, 12]
    assert again == whole  # to the last bit, what was held out too
    assert (tmp_path / "cut.png").stat().st_size > 1000
    weights = [read_weights(tmp_path / f"{name}.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(data, tmp_path, tiny_runs):
    """Three patches a step, so that the shares differ; error, cycle and noise are all in the loss.

    The two train on a pack, where neither an image library nor scipy is installed.
    """
    assert main(["pack", str(data), str(tmp_path / "thin.pack")]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    everyone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    words = arguments(tmp_path / "thin.pack", tmp_path / "two.safetensors")
    pair = [child("--bare", *words, **everyone, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]
    assert main(list(map(str, arguments(data, tmp_path / "one.safetensors")))) == 0
    said = [one.communicate(timeout=900) for one in pair]
    assert [one.returncode for one in pair] == [0, 0], said
    assert b"written" in said[0][0] and said[1][0] == b""  # the first speaks for both
    one, two = (read_log(tmp_path / f"{name}.csv") for name in ("one", "two"))
    assert one.keys() == two.keys() == {"loss", "held_out_gain_db"}
    for kind, points in one.items():
        assert [step for step, _ in points] == [step for step, _ in two[kind]]
        assert [value for _, value in two[kind]] == pytest.approx([value for _, value in points], rel=1e-4, abs=1e-4)
    assert read_card(tmp_path / "two.safetensors").training["processes"] == 2
    alone, together = (read_weights(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-4, rtol=1e-3, msg=name)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def test_more_processes_than_patches_and_half_an_environment_are_refused(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert train(data, tmp_path / "m.safetensors") == 2
    assert "no MASTER_ADDR" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    assert train(data, tmp_path / "m.safetensors") == 2
    assert "2 of 2" in capsys.readouterr().err


def test_a_schedule_that_fits_needs_minutes_and_ends_with_them(data, tmp_path, tiny_runs, capsys):
    assert train(data, tmp_path / "m.safetensors", "--fit") == 2
    assert "add --minutes" in capsys.readouterr().err
    assert train(data, tmp_path / "m.safetensors", "--fit", "--minutes", 0.03, "--steps", 1) == 0
    assert read_card(tmp_path / "m.safetensors").training["steps_done"] > 1  # the clock ruled, not the steps


def test_without_matplotlib_a_sentence_stands_for_the_picture(data, tmp_path, tiny_runs, monkeypatch, capsys):
    from CycleINRLib.pictures import training as curves

    monkeypatch.setattr(curves.importlib.util, "find_spec", lambda name: None)
    assert train(data, tmp_path / "m.safetensors") == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert not (tmp_path / "m.png").exists()


def test_a_patch_or_a_share_that_makes_no_sense_is_refused(data, tmp_path, capsys):
    assert train(data, tmp_path / "a.safetensors", "--patch", 30) == 2
    facts = {"head.nrrd": {"modality": "CT", "share": 0}}
    (data / "scans.json").write_text(json.dumps(facts), "utf-8")
    assert train(data, tmp_path / "a.safetensors") == 2
    said = capsys.readouterr().err
    assert "size of a patch" in said and "0 of head.nrrd" in said
    assert not list(tmp_path.glob("a.*"))
