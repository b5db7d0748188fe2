"""Who writes: the protocol, and vLLM over HTTP."""
