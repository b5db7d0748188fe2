"""Trainers of CLaRa checkpoints: the three stages, their data and commands. Knows `clara_model`, no framework."""
