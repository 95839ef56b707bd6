"""unimol-scale: large-scale molecular pretraining, from conformer store to scaling law."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimol_scale.downstream.embedding.molecular_model import from_pretrained

__all__ = ["from_pretrained"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # When asked for, because it needs torch and RDKit, and most of the package does not.
    if name == "from_pretrained":
        from unimol_scale.downstream.embedding.molecular_model import from_pretrained

        return from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
