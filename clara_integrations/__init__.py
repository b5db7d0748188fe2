"""CLaRa inside LlamaIndex, Haystack and LangChain: thin components that convert types and hold one shared `Clara`.

Each framework's components are in a package of their own, so none needs another:
``from clara_integrations.haystack import ClaraRanker`` or ``from clara_integrations.llama_index import ClaraRerank``.
Importing this package imports no framework, nor torch.
"""
