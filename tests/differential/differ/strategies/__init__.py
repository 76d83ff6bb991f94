"""Where scripts come from: Hypothesis strategies, one module per family of operations, joined in `script`."""
