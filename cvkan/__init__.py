"""cvkan: sweeps and benchmarks for complex-valued and phase-based models. Importing it imports nothing heavy."""

__version__ = "0.1.0"
