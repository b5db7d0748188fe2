"""Where latents are kept: the protocol of a store, and the bounded cache in memory."""
