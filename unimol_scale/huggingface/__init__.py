"""Uni-Mol2 for Hugging Face's ``AutoModel`` and ``AutoConfig``. Needs the extra ``hf``.

from unimol_scale.huggingface import SmilesCollator, UniMol2Model

model = UniMol2Model.from_unimol_scale("unimol-scale-2m")
model.save_pretrained("folder")                       # or model.push_to_hub("owner/name")
model = AutoModel.from_pretrained("folder")           # in other programs with trust_remote_code=True
output = model(**SmilesCollator(model.config)(["CCO", "c1ccccc1O"]))
output.pooler_output                                  # [molecules, channels]
"""

from unimol_scale.common.plugins import is_installed

if not is_installed("transformers"):
    raise ImportError("unimol_scale.huggingface needs transformers: pip install 'unimol-scale[hf]'")

from unimol_scale.huggingface.configuration_unimol2 import UniMol2Config
from unimol_scale.huggingface.modeling_unimol2 import UniMol2Model, UniMol2Output
from unimol_scale.huggingface.smiles_collator import SmilesCollator

__all__ = ["SmilesCollator", "UniMol2Config", "UniMol2Model", "UniMol2Output"]
