//! Tokens in, tokens out: the models, the tokenizer and the engine.  Knows nothing of HTTP, files or clocks.
