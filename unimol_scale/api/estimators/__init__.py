"""Estimators with scikit-learn's interface, built on pretrained models."""
