"""Random keys (docs/decisions/0002: every random number depends on its purpose) and the state of torch's generators."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from .lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def random_key(*parts: Any) -> int:
    """Return a 63-bit seed that depends on `parts` alone (integers and strings)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def streams(device: torch.device) -> tuple[Tensor, ...]:
    """Return the states of the torch generators that a forward pass on `device` uses."""
    if device.type == "cpu":
        return (torch.get_rng_state(),)
    return torch.get_rng_state(), _module(device).get_rng_state(*_index(device))


def put_streams(device: torch.device, states: tuple[Tensor, ...]) -> None:
    """Restore the generator states returned by `streams` or `seeded_streams`."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        _module(device).set_rng_state(state, *_index(device))


def seeded_streams(device: torch.device, key: int) -> tuple[Tensor, ...]:
    """Return the generator states that `torch.manual_seed(key)` would set, without changing any generator."""
    kinds: list[str | torch.device] = ["cpu"] if device.type == "cpu" else ["cpu", device]
    return tuple(torch.Generator(kind).manual_seed(key).get_state() for kind in kinds)


def _module(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return (device,) if device.type in ("cuda", "xpu") else ()
