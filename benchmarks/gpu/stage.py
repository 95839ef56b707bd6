"""The input of a stage of the acceptance run, and its findings: checks that pass or fail, and numbers.

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
    """The input of a stage.

    Attributes:
        device: the device to test.
        quick: whether everything is small, as on a CPU.
        folder: folder for the stage's files.
        store: conformer store for the real pretraining; None: skip it.
        seconds: time limit of the stage.
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
    """A condition: the value found, the value wanted, and whether it is met."""

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
        """Check that a number is finite and at most a limit."""
        self.checks.append(Check(name=name, found=f"{found:.3g}", wanted=f"≤ {limit:g}", passed=found <= limit))

    def equal(self, name: str, found: object, wanted: object) -> None:
        """Check that two values are equal."""
        self.checks.append(Check(name=name, found=str(found), wanted=str(wanted), passed=found == wanted))

    def write(self, path: Path) -> None:
        """Write the findings to a file."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")


def read_findings(path: Path) -> Findings:
    """Return what a stage left."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Findings(checks=[Check(**check) for check in told.pop("checks")], **told)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return |found − expected| / |expected|, in fp64 on the CPU."""
    a, b = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()
