"""What a stage of the acceptance run is given, and what it finds: checks that pass or do not, and numbers.

A stage runs in a process of its own and leaves its findings as JSON.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
# A small store of real molecules that is part of the checkout.
STORE = REPOSITORY / "tests" / "earlier" / "2026-11-28" / "stores" / "arrow"


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What a stage is given.

    Attributes:
        device: that is accepted.
        quick: whether everything is small, as on a CPU.
        folder: for what the stage writes.
        store: conformers for the real pretraining; None: there are none.
        seconds: that the stage has.
    """

    device: torch.device
    quick: bool
    folder: Path
    store: Path | None
    seconds: float

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class Check:
    """A condition: what was found, what was wanted, and whether that is so."""

    name: str
    found: str
    wanted: str
    passed: bool


@dataclass(kw_only=True)
class Findings:
    """What a stage found.

    Attributes:
        checks: any that fails makes the acceptance run fail.
        tables: title → rows, of which the first has the headings.
        notes: sentences, also about what was left out and why.
    """

    checks: list[Check] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def at_most(self, name: str, found: float, limit: float) -> None:
        """Check that a number is no larger than a limit; one that is not finite is."""
        self.checks.append(Check(name=name, found=f"{found:.3g}", wanted=f"≤ {limit:g}", passed=found <= limit))

    def equal(self, name: str, found: object, wanted: object) -> None:
        """Check that two values are equal."""
        self.checks.append(Check(name=name, found=str(found), wanted=str(wanted), passed=found == wanted))

    def write(self, path: Path) -> None:
        """Leave them in a file."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")


def read_findings(path: Path) -> Findings:
    """Return what a stage left."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Findings(checks=[Check(**check) for check in told.pop("checks")], **told)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |found − expected| / |expected|, in fp64 on the CPU."""
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
