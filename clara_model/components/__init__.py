"""What the components of every framework share: the model that they hold, checks, streams in asyncio.

Imports no framework, and torch only when a model is loaded. Leaves out the components themselves, which convert types:
``clara_integrations.llama_index`` and ``haystack_integrations.components``.
"""
