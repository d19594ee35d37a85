"""Models on disk and their cards."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the network needs torch")

from CycleINRLib.errors import ModelError  # noqa: E402
from CycleINRLib.modelcard import CARD_VERSION, ModelCard, read_card  # noqa: E402
from CycleINRLib.network.model import CycleINR, NetworkConfig  # noqa: E402
from CycleINRLib.network.weights import (  # noqa: E402
    find_model,
    list_models,
    load_model,
    save_model,
    sha256,
    shared_model,
    weights_sha256,
)

SMALL = NetworkConfig(channels=8, blocks=1, codes=4, hidden=8, key=4)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    network = CycleINR(SMALL)
    card = ModelCard("tiny", SMALL.to_dict(), trained_on=({"scan": "a", "license": "MIT"},))
    return network, card, save_model(network, card, tmp_path / "tiny.safetensors")


def test_weights_and_card_come_back_bit_for_bit(saved):
    network, card, path = saved
    loaded, read = load_model(path)
    assert dataclasses.replace(read, weights_sha256="") == card
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert [p.name for p in path.parent.iterdir()] == ["tiny.safetensors"]


def test_the_card_is_read_without_torch(saved):
    code = f"import sys; from CycleINRLib.modelcard import read_card; card = read_card({str(saved[2])!r})\n"
    code += "assert 'torch' not in sys.modules; print(card.name)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "tiny"


def test_loading_a_model_does_not_load_the_compiler_of_torch(tmp_path):
    code = "import os, sys; from CycleINRLib.network.weights import find_model, load_model\n"
    code += "load_model(find_model('light')); print('torch._dynamo' in sys.modules, os.listdir(os.environ['TMPDIR']))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == "False []"


def test_a_pickle_is_refused_and_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="not safetensors"):
        load_model(path)


def test_a_newer_card_is_refused(saved, tmp_path):
    network, card, _ = saved
    newer = ModelCard(**{**card.__dict__, "card_version": CARD_VERSION + 1})
    with pytest.raises(ModelError, match="newer version"):
        read_card(save_model(network, newer, tmp_path / "newer.safetensors"))


def test_a_file_without_card_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(ModelError, match="no model card"):
        read_card(tmp_path / "bare.safetensors")


def test_weights_that_do_not_fit_their_card_are_refused(saved, tmp_path):
    network, card, _ = saved
    other = ModelCard(**{**card.__dict__, "network": {**SMALL.to_dict(), "blocks": 2}})
    with pytest.raises(ModelError, match="do not fit"):
        load_model(save_model(network, other, tmp_path / "other.safetensors"))


def test_a_truncated_file_is_refused(saved):
    path = saved[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="unreadable"):
        load_model(path)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(ModelError, match="nothing-of-the-kind") as caught:
        find_model("nothing-of-the-kind")
    assert all(name in str(caught.value) for name, _ in list_models())


def test_every_bundled_model_loads_and_says_what_it_was_trained_on():
    models = list_models()
    assert "light" in dict(models)
    for name, path in models:
        _, card = load_model(path)
        assert card.name == name and len(sha256(path)) == 64
        assert card.weights_sha256 == weights_sha256(path)  # so a damaged copy is told
        assert card.trained_on and all({"scan", "modality", "license"} <= set(scan) for scan in card.trained_on)
        assert card.figures and json.loads(card.to_json())["name"] == name


def test_auto_is_a_bundled_model():
    assert find_model("auto") == find_model("light")


def test_weights_that_are_not_those_of_their_card_are_refused_and_a_changed_card_is_no_harm(tmp_path):
    network, card = load_model(find_model("light"))
    path = save_model(network, dataclasses.replace(card, description="another"), tmp_path / "a.safetensors")
    assert read_card(path).weights_sha256 == weights_sha256(find_model("light"))
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1  # one bit, as a copy over a bad line has it
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not those"):
        load_model(path)


def test_saving_writes_the_hash_of_what_it_saves_whatever_the_card_held(tmp_path):
    network, card = load_model(find_model("light"))
    next(iter(network.parameters())).data.add_(1)
    path = save_model(network, card, tmp_path / "a.safetensors")
    assert load_model(path)[1].weights_sha256 == weights_sha256(path) != card.weights_sha256


def test_a_file_whose_card_is_older_than_the_hash_still_opens(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    network, card, path = saved
    facts = {name: value for name, value in json.loads(card.to_json()).items() if name != "weights_sha256"}
    save_file(load_file(path), tmp_path / "old.safetensors", {"card": json.dumps(facts)})
    loaded, read = load_model(tmp_path / "old.safetensors")
    assert read == card and read.weights_sha256 == ""
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())


def test_a_network_is_loaded_once_a_process_and_again_where_its_file_changed(tmp_path):
    network, card = load_model(find_model("light"))
    path = save_model(network, card, tmp_path / "a.safetensors")
    first = shared_model(path)
    assert shared_model(path)[0] is first[0]
    save_model(network, dataclasses.replace(card, description="longer than it was before"), path)
    assert shared_model(path)[1].description == "longer than it was before"
