"""Training runs: settings, stages, the trainer and what it writes."""
