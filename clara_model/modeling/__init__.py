"""The model on tensors: tokens, the three roles, memory rows, ranking, generation, losses."""
