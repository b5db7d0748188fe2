"""The command `clara`."""
