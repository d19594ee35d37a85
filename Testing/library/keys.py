"""What `CycleINR.decode` is given of whole slices, for tests that ask for it by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from CycleINRLib.network.model import CycleINR


def keys_of(network: CycleINR, codes: Tensor) -> Tensor | None:
    """Codes [P, D, H, W] -> LAM's keys and values with a rim of one pixel [P, 2d, H + 2, W + 2]; None without LAM."""
    if network.attend is None:
        return None
    return F.pad(network.attend.key_value(codes), (1, 1, 1, 1), mode="replicate")
