"""A source of your own in one file: lines of "name | SMILES | logP", in files that end in .toy.

PYTHONPATH=tests/extensions unimol-scale build --source toy_source:TOY --input molecules.toy
"""

from conformer_gen.sources.columns import number
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source


def read_toy(stream, config):
    """Yield one row for each line of a file; what packs it (.gz, .zip, .tar …) has been taken off."""
    for at, line in enumerate(stream.text, start=1):
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 3:
            # Still a row, which the build counts as rejected, with this reason.
            problem = f"{stream.name}: line {at} has {len(fields)} fields instead of 3"
            yield SourceMolecule(id=f"{stream.stem}:{at}", problem=problem)
            continue
        name, smiles, log_p = fields
        yield SourceMolecule(id=name, smiles=smiles, labels=(number(log_p, f"{stream.name}: line {at}, logP"),))


TOY = Source(
    name="toy",  # the store goes to data/toy
    suffixes=(".toy",),
    read_stream=read_toy,
    labels={"logP": "log10(octanol/water)"},  # label → unit, in the order of SourceMolecule.labels
)
