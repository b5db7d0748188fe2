"""Training data: rows, their order, batches; and `clara-data`, which checks, converts and synthesizes them."""
