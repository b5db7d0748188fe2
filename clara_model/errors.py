"""The one error type for what a user can put right: a bad checkpoint, latents of another model, a prompt that does not fit.

Plain misuse of an argument raises ``ValueError`` or ``TypeError``; ``ClaraError`` is a ``ValueError`` so one ``except`` serves both.
"""


class ClaraError(ValueError):
    """What was wrong, the value that was given, and how to put it right, in one sentence."""
