"""Search over stored latents: a coarse scan of short vectors, then exact scores on whole latents."""
