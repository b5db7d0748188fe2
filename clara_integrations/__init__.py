"""CLaRa inside LlamaIndex and Haystack: thin components that convert types and hold one shared `Clara`.

Each framework's components are in a package of their own, so neither framework needs the other:
``from clara_integrations.haystack import ClaraRanker`` or ``from clara_integrations.llama_index import ClaraRerank``.
Importing this package imports neither framework, nor torch.
"""
