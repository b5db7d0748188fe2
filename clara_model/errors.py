"""The one error type for what a user can put right, such as a bad checkpoint or latents of another model.

Plain misuse of an argument raises ``ValueError`` or ``TypeError``; ``ClaraError`` is a ``ValueError``, so that one
``except`` serves both.
"""


class ClaraError(ValueError):
    """What was wrong, the value that was given, and how to put it right, in one sentence."""
