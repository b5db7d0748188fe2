"""What a checkpoint is, and its way from files to tensors and back; the base model it stands on."""
