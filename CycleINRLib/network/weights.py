"""Models on disk: find them, load them, save them; safetensors only (floor 2)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError, ResourceError
from ..modelcard import CHOOSE_MODEL, ModelCard, read_card, tensor_header
from ..wholefile import MODELS, files_of, write_whole

LARGEST_SIZE = 4096  # of any part of a network that a card describes
BEST = "light"  # what "auto" means on every device
OLD_PART = "texture."  # of tensors in files of revision 8443a11 and before, which no network has any more
GONE = {"base": "it computed the very same at twice the time: choose light, or a .safetensors file"}  # once bundled


def list_models() -> list[tuple[str, Path]]:
    """(name, path) of every bundled model."""
    return [(path.stem, path) for path in files_of(MODELS, "*.safetensors")]


def find_model(model: str | Path) -> Path:
    """The weight file of a name, of a path, or of "auto": the best one bundled.

    Raises
    ------
    ModelError : nothing of that name or path; says what there is
    """
    bundled = dict(list_models())
    model = name_of_model(model)
    if str(model) in bundled:
        return bundled[str(model)]
    path = Path(model)
    if path.is_file():
        return path
    names = ", ".join(bundled) or "none"
    raise ModelError("There is no such model", f"{model} (bundled: {names})", GONE.get(str(model), CHOOSE_MODEL))


def name_of_model(model: str | Path) -> str:
    """What `find_model` takes for `model`, so that a job which names it repeats: "auto" becomes a name."""
    return BEST if str(model) == "auto" else str(model)


def shared_model(path: str | Path):
    """What `load_model` gives, kept by this process: for those who do not change the network."""
    facts = os.stat(path)
    return _kept(str(path), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _kept(path: str, size: int, changed_ns: int):
    return load_model(path)


def load_model(path: str | Path):
    """The network with its weights, in evaluation mode on the CPU, and its card: (CycleINR, ModelCard).

    Raises
    ------
    ModelError : not safetensors, no card, a newer card, or weights that do not fit the card
    """
    card = read_card(path)
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .model import CycleINR, NetworkConfig

    try:
        config = NetworkConfig(**card.network)
        sizes = [size for name, size in config.to_dict().items() if name != "attention"]
        if not all(type(size) is int and 1 <= size <= LARGEST_SIZE for size in sizes):
            raise TypeError(f"sizes {sizes}")
        with torch.device("meta"), _undrawn():  # what the card claims, before memory is taken for it
            expected = {name: list(value.shape) for name, value in CycleINR(config).state_dict().items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            "The model card describes no network of this version", f"{path}: {error}", CHOOSE_MODEL
        ) from error
    header = in_use(tensor_header(path))
    stored = {name: facts.get("shape") for name, facts in header.items() if name != "__metadata__"}
    wrong = sorted(name for name in expected.keys() | stored.keys() if expected.get(name) != stored.get(name))
    if wrong:
        raise ModelError(
            "The weights do not fit the model card", f"{len(wrong)} tensors, first {wrong[0]}", CHOOSE_MODEL
        )
    network = CycleINR(config)
    try:
        network.load_state_dict(in_use(load_file(path)))
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError("The weights are unreadable", f"{path}: {error}", CHOOSE_MODEL) from error
    if card.weights_sha256 and card.weights_sha256 != weights_sha256(Path(path)):
        raise ModelError("The weights are not those that the model card tells of", str(path), "copy the file again")
    return network.eval().requires_grad_(False), card


def in_use(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Those by name that a network of today has: older ones held a part for noise, which `upsampling.grain` draws now.

    What a training run of then left behind loads by `network.load_state_dict(in_use(tensors))`.
    """
    return {name: value for name, value in tensors.items() if not name.startswith(OLD_PART)}


def _undrawn():
    """Within it no random value is drawn: without memory, torch loads its compiler for that, which takes 2 s."""
    from torch import Tensor
    from torch.overrides import TorchFunctionMode

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
                return args[0] if args else kwargs["tensor"]
            return func(*args, **(kwargs or {}))

    return Undrawn()


def save_model(network, card: ModelCard, path: str | Path) -> Path:
    """Weights and card in one safetensors file, written beside `path` and renamed.

    Raises
    ------
    ResourceError : the disk is full or read-only
    """
    from safetensors.torch import save

    held = _held(network.state_dict())
    card = dataclasses.replace(card, weights_sha256=weights_sha256(save(held)))
    save_tensors(held, Path(path), {"card": card.to_json(), "format": "pt"})
    return Path(path)


def weights_sha256(file: Path | bytes) -> str:
    """Hex digest of the tensors alone, of a weight file or its bytes: it stays when the card in the header changes.

    It tells a damaged or mixed-up file, as copying to many machines makes them; who changes weights on purpose can
    change the card as well: against that, compare `sha256` of the file with one that you trust.
    """
    content = file if isinstance(file, bytes) else file.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    return hashlib.sha256(memoryview(content)[8 + header :]).hexdigest()


def _held(tensors) -> dict:
    """Copies on the CPU, each with memory of its own."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def save_tensors(tensors, path: Path, told: dict[str, str]) -> None:
    """Tensors by name and texts about them in a safetensors file, whole or not at all.

    Raises
    ------
    ResourceError : the disk is full or read-only
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    held = _held(tensors)

    def save(part: Path) -> None:
        save_file(held, part, told)
        part.chmod(0o644)  # the library makes it readable by its owner alone

    try:
        write_whole(path, save)
    except (SafetensorError, OSError) as error:
        found = f"{path}: {error}"
        raise ResourceError(
            "The weights cannot be written", found, "free some space, or choose another folder"
        ) from error


def sha256(path: str | Path) -> str:
    """Hex digest of a weight file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
