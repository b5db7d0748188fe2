"""Measuring a checkpoint: answers and rankings against what is known to be right."""
