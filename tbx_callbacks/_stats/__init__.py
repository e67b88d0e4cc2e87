"""Pure functions on tensors: norms, histograms, and the kernels behind them."""
