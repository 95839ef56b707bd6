"""Estimators with scikit-learn's interface, on pretrained models."""
