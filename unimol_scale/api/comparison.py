"""``compare``: tests which of several fine-tuned models is significantly better. Imports torch."""

from os import PathLike
from pathlib import Path

from unimol_scale.api.call_settings import a_call
from unimol_scale.common.text.argument_names import path_text
from unimol_scale.downstream.comparison.compare import Comparison, compare_folds
from unimol_scale.downstream.comparison.comparison_report import write_comparison

_ARGUMENTS = {"--output": "output", "--folds": "folds", "--repeats": "repeats", "--split": "split", "--seed": "seed"}


def compare(*models: "str | PathLike[str]", output: str | Path | None = None) -> Comparison:
    """Compare cross-validated fine-tunings of the same data with the same folds.

    Args:
        models: two or more folders that ``finetune`` wrote with a split that ends in -kfold, or its return values.
        output: Markdown file (.md) for a report, with a plot beside it; None writes nothing.

    Returns:
        The mean scores, and for each pair the difference with its 95 % intervals. ``str`` of the result is what the
        command prints; ``headline()`` says which model is better and whether the difference is significant.

    Raises:
        ConfigError: there are fewer than two models, one is not a finished cross-validation, they differ in data,
            metric or folds, or the output cannot be written.
        SourceError: the out-of-fold predictions of a model are missing or damaged.

    Source:
        Repeated-measures analysis of variance and Tukey's intervals: Ash et al., J. Chem. Inf. Model. 2025. Variance
        corrected for shared training rows: Nadeau and Bengio, Machine Learning 52, 2003.

    Example:
        >>> import unimol_scale as us
        >>> smiles = ["C" * n for n in range(1, 25)] + ["O" + "C" * n for n in range(1, 17)]
        >>> carbons = [text.count("C") for text in smiles]
        >>> two = [
        ...     us.finetune(
        ...         "runs/hello", (smiles, carbons), target="carbons", output=f"finetuned/folds-{epochs}",
        ...         split="random-kfold", folds=2, inputs="2d", settings={"train.epochs": epochs},
        ...     )
        ...     for epochs in (1, 2)
        ... ]
        >>> found = us.compare(*two)
        >>> found.names, len(found.pairs)
        (('folds-1', 'folds-2'), 1)
    """
    with a_call(_ARGUMENTS):
        what = "the folder of a fine-tuned model, or what finetune returned"
        found = compare_folds([Path(path_text(model, "models", what)) for model in models])
        if output is not None:
            write_comparison(Path(output), found)
        return found
