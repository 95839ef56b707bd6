"""fp32 master weights of a model whose backbone computes in bf16, where small optimizer steps would be rounded off."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from unimol_scale.downstream.config import Precision
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.engine.parallel.ranks import Ranks

# Parts of the model that compute in the chosen precision. The property head always computes in fp32: it is small, and
# bf16 would round its logits.
_CAST = ("backbone.", "coordinate_head.")


class MasterWeights:
    """The weights that the optimizer updates. In fp32 these are the model's own parameters, and nothing is copied.

    Frozen parameters are not included. With bf16 their fp32 values are kept on the CPU.

    Args:
        model: the model in fp32, on its device. With bf16 the parameters of its backbone, and of the coordinate head if
            it has one, are cast in place; buffers are not.
        precision: precision of these parts.
    """

    def __init__(self, model: PropertyModel, precision: Precision) -> None:
        self._model = model
        self.named: dict[str, nn.Parameter] = {}
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._frozen: list[tuple[nn.Parameter, Tensor]] = []
        for name, parameter in model.named_parameters():
            casts = precision != "fp32" and name.startswith(_CAST)
            if parameter.requires_grad:
                self.named[name] = nn.Parameter(parameter.detach().clone()) if casts else parameter
            if casts and parameter.requires_grad:
                self._pairs.append((parameter, self.named[name]))
            elif casts:
                self._frozen.append((parameter, parameter.detach().cpu()))
            if casts:
                parameter.data = parameter.data.to(torch.bfloat16)

    def add_gradients(self) -> None:
        """Add the model's gradients of a micro-batch to those of the master weights, and clear the former."""
        for parameter, master in self._pairs:
            if parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad += parameter.grad
            parameter.grad = None

    def add_up(self, ranks: Ranks) -> None:
        """Sum the gradients of the master weights over ranks, in one exchange.

        Gradients of weights that the loss does not depend on stay None; they are the same on all ranks.
        """
        learning = [(one, one.grad) for one in self.named.values() if one.grad is not None]
        total = ranks.add_up(torch.cat([gradient.flatten() for _, gradient in learning]))
        parts = torch.split(total, [one.numel() for one, _ in learning])
        for (one, _), part in zip(learning, parts, strict=True):
            one.grad = part.view_as(one)

    def copy_into_model(self) -> None:
        """Copy the master weights into the model, rounded to its precision; call it after each step."""
        for parameter, master in self._pairs:
            parameter.data.copy_(master.data)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the master weights, fp32."""
        return {name: master.detach().clone() for name, master in self.named.items()}

    @contextlib.contextmanager
    def replaced(self, values: dict[str, Tensor]) -> Iterator[None]:
        """Make the model compute with other values in the block, rounded to its precision; restore its own after."""
        trained = {name: parameter for name, parameter in self._model.named_parameters() if name in self.named}
        own = {name: parameter.data for name, parameter in trained.items()}
        for name, parameter in trained.items():
            parameter.data = values[name].to(parameter.dtype)
        try:
            yield
        finally:
            for name, parameter in trained.items():
                parameter.data = own[name]

    def restore_into_model(self, values: dict[str, Tensor]) -> None:
        """Replace the trained parameters by a snapshot; afterwards the whole model is in fp32."""
        for name, parameter in self._model.named_parameters():
            if name in self.named:
                parameter.data = values[name]
        for parameter, value in self._frozen:
            parameter.data = value.to(parameter.device)
