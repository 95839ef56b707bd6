"""Muon for hidden matrices and AdamW for everything else, in one optimizer that DeepSpeed can shard at every stage.

Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) steps along a matrix's momentum after making it orthogonal.
The step is scaled by 0.2·√max(rows, columns) (equation 4 of Liu et al.), so that its elements are about as large as
AdamW's: learning rate, schedule and weight decay carry over from AdamW.

DeepSpeed 0.19.8 has a Muon of its own, which is not used. At stages 1 to 3 it clips by the norm of the *orthogonal*
update, so that a ``gradient_clip`` of 1 shrinks the steps of all parameters as the model grows [measured]. It also
takes every weight of a linear layer, including heads, scales differently, compiles its kernels at the first step, and
keeps a momentum that cannot be saved by element. Here DeepSpeed sums, checks and clips the gradient as for AdamW, and
calls this optimizer with the flat fp32 tensors that it shards.

Shapes: K matrices of R rows and C columns.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from unimol_scale.checkpoints.run.shares import MOMENTUM
from unimol_scale.engine.parallel.hidden_weights import HiddenWeight
from unimol_scale.engine.parallel.matrix_exchange import MatrixExchange

# Key of a parameter group: whether Muon updates it.
IS_MUON = "muon"
# From Moonlight (Liu et al. 2025): the root mean square of an AdamW step is 0.2 to 0.4 times the learning rate.
RMS = 0.2


@torch.no_grad()
def orthogonalised(matrices_KRC: Tensor, iterations: int) -> Tensor:
    """Return matrices with the same singular vectors and singular values near one, [K, R, C], same dtype.

    Fifth-order Newton–Schulz iterations with the coefficients of Jordan et al. (2024). After five of them, singular
    values that were not tiny lie between about 0.7 and 1.2. torch.optim.Muon has the same iteration, but as a private
    function for one matrix at a time and only in bf16.

    Args:
        matrices_KRC: matrices of any scale; a zero matrix stays zero.
        iterations: number of iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices_KRC.shape[-2] <= matrices_KRC.shape[-1]
    x = matrices_KRC if wide else matrices_KRC.mT
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


class MuonAdamW(torch.optim.AdamW):
    """Two parameter groups: AdamW's, then Muon's. Does nothing until ``start``, since DeepSpeed takes steps of its own.

    Args:
        matrices: hidden weights.
        others: all other parameters.
        lr: learning rate of both, on AdamW's scale.
        betas: coefficients of AdamW.
        weight_decay: decoupled weight decay of both.
        pair_rate: factor on the steps of the pair track's matrices. Weight decay is not scaled.
        momentum: Nesterov momentum of Muon.
        iterations: Newton–Schulz iterations.
        dtype: dtype in which matrices are sent and made orthogonal.
    """

    def __init__(  # noqa: PLR0913 - all but two are named by the caller
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        pair_rate: float = 1.0,
        momentum: float,
        iterations: int,
        dtype: torch.dtype,
    ) -> None:
        groups = [{"params": list(others), IS_MUON: False}, {"params": list(matrices), IS_MUON: True}]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        self._momentum, self._iterations, self._dtype = momentum, iterations, dtype
        self._scale = {"atom": RMS, "pair": RMS * pair_rate}
        self._exchange: MatrixExchange | None = None
        self._weights: Mapping[str, HiddenWeight] = {}
        self._numbers: dict[int, int] = {}

    def start(self, exchange: MatrixExchange, weights: Mapping[str, HiddenWeight], flats: Sequence[Tensor]) -> None:
        """Register where the matrices lie; from now on, steps take effect.

        Args:
            exchange: exchange among all ranks.
            weights: parameter name → its matrices, for Muon's weights.
            flats: tensors that this rank updates, in the order in which ``exchange`` numbers them; each of Muon's has
                its momentum in ``state``.
        """
        self._exchange, self._weights = exchange, weights
        self._numbers = {id(flat): number for number, flat in enumerate(flats)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the present parameter groups; DeepSpeed hides the others. Collective with several ranks."""
        assert closure is None, "the gradient must already exist"
        if self._exchange is None:
            return
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group[IS_MUON]]
        super().step()
        self.param_groups = groups
        for group in groups:
            if group[IS_MUON] and group["params"]:
                self._step_matrices(group["params"], group["lr"], group["weight_decay"])

    def _step_matrices(self, flats: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        """Update Muon's weights; this overwrites ``grad``."""
        assert self._exchange is not None
        numbered = {self._numbers[id(flat)]: flat for flat in flats}
        ahead = {}
        for number, flat in numbered.items():
            gradient = torch.zeros_like(flat) if flat.grad is None else flat.grad
            momentum = self.state[flat][MOMENTUM]
            momentum.lerp_(gradient, 1.0 - self._momentum)
            ahead[number] = gradient.lerp_(momentum, self._momentum)
            flat.mul_(1.0 - lr * weight_decay)
        for round_ in self._exchange.rounds(list(numbered)):
            whole = self._orthogonalised(self._exchange.collect(round_, ahead, self._dtype))
            for run, update in self._exchange.distribute(round_, whole, self._dtype, flats[0].device):
                weight = self._weights[run.name]
                _, rows, columns = weight.matrix_shape
                moved = numbered[run.flat].view(-1).narrow(0, run.offset, run.length)
                moved.add_(update, alpha=-lr * self._scale[weight.track] * math.sqrt(max(rows, columns)))

    def _orthogonalised(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return orthogonal updates of whole weights, flat; matrices of the same shape are computed together."""
        alike: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name in whole:
            alike[self._weights[name].matrix_shape[1:]].append(name)
        updates: dict[str, Tensor] = {}
        for names in alike.values():
            matrices = [self._weights[name].split(whole[name]) for name in names]
            found = orthogonalised(torch.cat(matrices), self._iterations)
            for name, update in zip(names, torch.split(found, [len(part) for part in matrices]), strict=True):
                updates[name] = self._weights[name].join(update)
        return updates
