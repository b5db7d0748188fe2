"""CLaRa inside LlamaIndex and Haystack: thin components that convert types and hold one shared `Clara`."""
