"""dptrain: train diagnostic models with differential privacy and measure the risk of each single patient."""

__version__ = "0.1.0"
