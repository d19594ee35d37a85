"""The check of packages, devices and models: in this process, and as the panel runs it, in a child."""

from __future__ import annotations

import json
import sys
import types

import pytest

from CycleINRLib.child import environment
from CycleINRLib.child.run import Run
from CycleINRLib.cli.main import main


def label_of(facts: dict, label: str) -> str:
    return dict(environment.lines_of(facts))[label]


def test_a_whole_environment_has_no_problem_and_a_working_cpu():
    pytest.importorskip("torch")
    facts = environment.examine()
    assert facts["problems"] == [] and "everything" in label_of(facts, "Result")
    assert facts["packages"]["torch"] and label_of(facts, "Device cpu").startswith("works (cpu")
    assert [model["name"] for model in facts["models"]] and label_of(facts, "Model light") == "loads"
    assert [device["device"] for device in facts["devices"]] == ["cpu", "cuda", "mps"]
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(("limit", "precision"), [("AVX2", "float32"), ("AVX512_CORE_AMX", None)])
def test_what_auto_takes_is_told_with_its_reason_and_follows_the_limits_of_the_machine(limit, precision, monkeypatch):
    device = pytest.importorskip("CycleINRLib.network.device")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.setattr(environment, "_speed", lambda: None)
    facts = environment.examine()
    auto = facts["auto"]
    assert auto["device"] == device.choose_device("auto") and auto["model"] == "light"
    if auto["device"] == "cpu":
        assert auto["precision"] == (precision or device.usual_precision("cpu")[0])
    told = label_of(facts, "Auto takes")
    assert told.startswith(f"light on {auto['device']} in {auto['precision']} ({auto['why']}")
    assert ("float32 for a scan whose noise" in told) == (auto["precision"] != "float32")


def test_an_absent_torch_is_a_problem_and_models_are_still_read(monkeypatch):
    monkeypatch.setattr(environment, "_version", lambda name: None if name == "torch" else "1.0")
    facts = environment.examine()
    assert facts["problems"] == ["torch is not installed"] and facts["devices"] == []
    assert "torch missing" in label_of(facts, "Packages") and label_of(facts, "Model light") == "loads"


def test_a_torch_that_does_not_load_is_told_with_its_words(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(environment, "_version", lambda name: "9.9")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    facts = environment.examine()
    assert facts["problems"] == ["torch 9.9 cannot be loaded: OSError: libcudart.so: cannot open shared object file"]
    assert facts["devices"] == []


def test_a_broken_model_is_a_problem(monkeypatch, tmp_path):
    pytest.importorskip("torch")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x80\x04 a pickle")
    from CycleINRLib.network import weights

    monkeypatch.setattr(weights, "list_models", lambda: [("broken", broken)])
    facts = environment.examine()
    assert len(facts["problems"]) == 1 and facts["problems"][0].startswith("the model broken cannot be used:")


def test_the_child_checks_without_a_volume_and_leaves_nothing(tmp_path):
    pytest.importorskip("torch")
    run = Run({"task": "check"}, None, lambda folder, facts: facts["report"], tmp_path)
    facts = run.wait()
    assert facts["problems"] == [] and list(tmp_path.iterdir()) == []


def test_a_missing_torch_in_the_child_is_a_fact_and_no_failure(tmp_path, monkeypatch):
    """The child of a Python without torch: an empty `torch` folder hides it, as a broken installation would."""
    (tmp_path / "path" / "torch").mkdir(parents=True)
    (tmp_path / "path" / "torch" / "__init__.py").write_text("raise ImportError('no good')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    home = tmp_path / "home"
    home.mkdir()
    facts = Run({"task": "check"}, None, lambda folder, facts: facts["report"], home).wait()
    assert any("no good" in problem or "torch is not installed" in problem for problem in facts["problems"])


def test_a_device_that_is_refused_says_why(monkeypatch):
    pytest.importorskip("torch")
    from CycleINRLib.network import device

    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    facts = environment._device("cuda")
    assert "sees no cuda device" in facts["problem"]
    lines = dict(environment.lines_of({**environment.examine(), "devices": [facts]}))
    assert lines["Device cuda"].startswith("cannot be used: this torch")


def test_the_memory_of_a_graphics_card_is_told(monkeypatch):
    pytest.importorskip("torch")
    import torch

    from CycleINRLib.network import device

    monkeypatch.setattr(device, "choose_device", lambda asked: asked)
    monkeypatch.setattr(device, "describe", lambda name: "cuda (Card)")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(total_memory=8 * 10**9)
    )
    facts = {**environment.examine(), "devices": [environment._device("cuda")]}
    assert label_of(facts, "Device cuda") == "works (cuda (Card), 8.0 GB)"


def test_the_shell_tells_what_works_and_fails_where_the_network_cannot_run(monkeypatch, capsys):
    pytest.importorskip("torch")
    assert main(["check"]) == 0
    assert "everything that the network needs is there" in capsys.readouterr().out
    monkeypatch.setattr(environment, "_version", lambda name: None if name == "safetensors" else "1.0")
    assert main(["check", "--json"]) == 6
    said = capsys.readouterr()
    assert json.loads(said.out)["problems"] == ["safetensors is not installed"]
    assert said.err.startswith("cycleinr: error: The network cannot run here. Found: safetensors is not installed.")
