"""modelhub-hpc: run published deep-learning models over whole studies on a cluster."""

__version__ = "0.1.0"
