"""What the Haystack components of CLaRa have in common."""
