"""Uni-Mol2 for Hugging Face's ``AutoModel`` and ``AutoConfig``. Needs the extra ``hf``.

    from unimol_scale.huggingface import SmilesCollator, UniMol2Model

    model = UniMol2Model.from_unimol_scale("unimol-scale-2m-v2")
    model.save_pretrained("folder")                       # or model.push_to_hub("owner/name")
    model = AutoModel.from_pretrained("folder")           # other programs need trust_remote_code=True
    output = model(**SmilesCollator(model.config)(["CCO", "c1ccccc1O"]))
    output.pooler_output                                  # [molecules, channels]

Names are imported on first use. Importing ``UniMol2Model`` registers the model and its configuration with ``AutoModel``
and ``AutoConfig``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from unimol_scale.common.plugins import is_installed

if TYPE_CHECKING:
    from unimol_scale.huggingface.configuration_unimol2 import UniMol2Config
    from unimol_scale.huggingface.modeling_unimol2 import UniMol2Model, UniMol2Output
    from unimol_scale.huggingface.smiles_collator import SmilesCollator

_HOMES = {
    "SmilesCollator": "smiles_collator",
    "UniMol2Config": "configuration_unimol2",
    "UniMol2Model": "modeling_unimol2",
    "UniMol2Output": "modeling_unimol2",
}
__all__ = ["SmilesCollator", "UniMol2Config", "UniMol2Model", "UniMol2Output"]

if not TYPE_CHECKING:  # a type checker would accept any name if it saw this function

    def __getattr__(name: str) -> Any:  # noqa: ANN401
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if not is_installed("transformers"):
            raise ImportError(f"{__name__} needs transformers: pip install 'unimol-scale[hf]'")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
