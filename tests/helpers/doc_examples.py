"""Runs the examples in the docstrings of unimol_scale's public names, all in the current folder; prints what fails.

It is a program of its own: examples train, and DeepSpeed leaves its marks in a process.
"""

import doctest
import io
import sys

import unimol_scale as us

# In this order, since an example reads what those before it have written.
ORDER = (
    "build_store",
    "open_store",
    "plan",
    "pretrain",
    "from_pretrained",
    "finetune",
    "compare",
    "predict",
    "explain",
    "MoleculeRegressor",
    "MoleculeClassifier",
    "MoleculeEmbedder",
    "fit_scaling_law",
    "fit_rate_law",
    "shipped_models",
    "push_to_hub",
)


def run_examples() -> str:
    """Return a report of the examples that failed; "" if there are none."""
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    report = io.StringIO()
    for name in ORDER:
        for test in finder.find(getattr(us, name), name):
            runner.run(test, out=report.write)
    return report.getvalue()


if __name__ == "__main__":
    failed = run_examples()
    sys.stdout.write(failed)
    sys.exit(bool(failed))
