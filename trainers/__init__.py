"""Trainers of CLaRa checkpoints: the three stages, their data and their command lines. Knows `clara_model`, no framework."""
