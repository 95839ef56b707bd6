"""What the absence of a setting means never changes: files of earlier versions that lack it must keep their meaning.

A default that does change is named in ``FORMER_DEFAULTS``, with which such files are read. defaults.yaml has the
settings and their defaults as they were when the file was written, but for those that only say where, how fast or how
often something is done. A setting that is added needs a default that means "as before", or a former one that does: add
it to the file when a version with it is out, and never change a line.
"""

from pathlib import Path

import pytest
import yaml

from conformer_gen.config import BuildConfig
from unimol_scale.config import defaults_of, keys_of, recorded_defaults_of
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_progress import Progress
from unimol_scale.model.accounting import Heads
from unimol_scale.store.manifest import Manifest

KINDS = (BuildConfig, PretrainConfig, FinetuneConfig, FinetunedConfig, Heads, Manifest, Progress)
KNOWN = yaml.safe_load((Path(__file__).parent / "defaults.yaml").read_text())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_absence_of_a_setting_means_what_it_meant(kind):
    known, now = KNOWN[kind.__name__], recorded_defaults_of(kind)
    assert {key: now.get(key, "(no default)") for key in known["defaults"]} == known["defaults"]
    assert set(known["required"]) <= set(keys_of(kind)), "a setting that files have is gone"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_setting_that_is_new_has_a_default(kind):
    without = set(keys_of(kind)) - set(defaults_of(kind))
    # A table of the user's own names, such as units, has an empty default, which has no key.
    assert without <= {*KNOWN[kind.__name__]["required"], *KNOWN[kind.__name__]["tables"]}
