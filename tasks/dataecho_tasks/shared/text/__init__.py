"""Parts that the language tasks share: tokenizers, packing, sources, the Transformer, prose for the miniatures."""
