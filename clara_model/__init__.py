"""The model: compresses documents into memory-token latents, ranks them, and answers from them. No framework, no training loop."""
