"""Muon for matrices, AdamW for the rest, a cosine per phase, and the running average that is shipped."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

_MUON_SIDE_MIN = 16
_WARM_UP_STEPS = 60
_CLIP_NORM = 5.0


class Optimiser:
    """Two torch optimisers behind one step, with a warm-up and a cosine down to a twentieth of the peak."""

    def __init__(self, groups: Sequence[tuple[float, Iterable[nn.Parameter]]], peak: float, steps: int) -> None:
        """groups: (learning-rate factor, parameters); peak: the learning rate; steps: the phase's length."""
        self._peak, self._steps = peak, steps
        muon: list[dict[str, Any]] = []
        adam: list[dict[str, Any]] = []
        self.parameters: list[nn.Parameter] = []
        for factor, parameters in groups:
            chosen = [parameter for parameter in parameters if parameter.requires_grad]
            self.parameters += chosen
            matrices = [p for p in chosen if p.ndim == 2 and min(p.shape) >= _MUON_SIDE_MIN]
            known = {id(p) for p in matrices}
            rest = [p for p in chosen if id(p) not in known]
            if matrices:
                muon.append({"params": matrices, "factor": factor})
            if rest:
                adam.append({"params": rest, "factor": factor})
        self._optimisers: list[torch.optim.Optimizer] = []
        if muon:
            self._optimisers.append(torch.optim.Muon(muon, lr=peak, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
        if adam:
            self._optimisers.append(torch.optim.AdamW(adam, lr=peak, betas=(0.9, 0.98), weight_decay=0.0))

    def step(self, loss: torch.Tensor, step: int) -> float:
        """One update at `step` of the phase; returns the learning rate. A loss that is not finite is skipped."""
        rate = self.rate(step)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            optimiser.zero_grad(set_to_none=True)
        if not math.isfinite(float(loss.detach())):
            return rate
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, _CLIP_NORM)
        for optimiser in self._optimisers:
            optimiser.step()
        return rate

    def rate(self, step: int) -> float:
        """The learning rate at `step`."""
        warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / self._steps)))
        return self._peak * warm * (0.05 + 0.95 * cosine)

    def state_dict(self) -> list[dict[str, Any]]:
        """What a resumed run needs."""
        return [optimiser.state_dict() for optimiser in self._optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Continue from `state_dict()`'s answer."""
        for optimiser, state in zip(self._optimisers, states, strict=True):
            optimiser.load_state_dict(state)


class Average:
    """The exponential running average of named parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        """Start at the parameters' present values."""
        self._decay = decay
        self._parameters = parameters
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._updates = 0

    def update(self) -> None:
        """Take in the parameters' present values; early updates count more."""
        self._updates += 1
        decay = min(self._decay, (1.0 + self._updates) / (10.0 + self._updates))
        values, live = list(self.values.values()), [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(values, live, 1.0 - decay)

    def store(self) -> None:
        """Write the averages into the parameters."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self.values[name])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"values": self.values, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`'s answer."""
        self.values, self._updates = state["values"], state["updates"]
