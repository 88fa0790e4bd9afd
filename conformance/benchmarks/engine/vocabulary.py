"""Real vocabularies for the random models: read from GGUF files of llama.cpp, written as GGUF fields and as
tokenizer.json.
"""

import json
import re

import gguf

import shapes

CONTROL, UNUSED = gguf.TokenType.CONTROL, gguf.TokenType.UNUSED

# How the published tokenizers cut a text into words before they merge letters.
PATTERNS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                 r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}


class Vocabulary:
    """The tokens, merges and special tokens of one vocabulary file."""

    def __init__(self, folder, name):
        self.name = name
        self._fields = {
            key: field for key, field in gguf.GGUFReader(folder / f"ggml-vocab-{name}.gguf").fields.items()
            if key.startswith("tokenizer.ggml.")
        }
        self.tokens = self._fields["tokenizer.ggml.tokens"].contents()
        self._kinds = self._fields["tokenizer.ggml.token_type"].contents()
        self._merges = self._fields["tokenizer.ggml.merges"].contents()
        self.begin = self._fields["tokenizer.ggml.bos_token_id"].contents()
        self.end = self._fields["tokenizer.ggml.eos_token_id"].contents()

    def cycles(self):
        """Plain words, one token each, so that every token of an answer is a whole piece of text."""
        words = [token for token, text in enumerate(self.tokens) if re.fullmatch("Ġ[a-z]{2,}", text)]
        last = len(words) - shapes.CYCLE + 1
        return [words[start:start + shapes.CYCLE] for start in range(0, last, shapes.CYCLE)]

    def spelling(self, cycles):
        """How each word of the cycles is spelled, by its token."""
        return {token: self.tokens[token].replace("Ġ", " ") for cycle in cycles for token in cycle}

    def add_to(self, writer):
        """Copies the tokenizer's fields into a GGUF file that is being written."""
        for key, field in self._fields.items():
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type)

    def write_to(self, folder):
        """Writes tokenizer.json and tokenizer_config.json."""
        special = [
            {"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for token, (text, kind) in enumerate(zip(self.tokens, self._kinds)) if kind == CONTROL
        ]
        apart = {entry["id"] for entry in special}
        plain = {
            text: token for token, (text, kind) in enumerate(zip(self.tokens, self._kinds))
            if kind != UNUSED and token not in apart
        }
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": PATTERNS[self.name]}, "behavior": "Isolated", "invert": False}
        tokenizer = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
            "normalizer": {"type": "NFC"} if self.name == "qwen2" else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": self.name == "llama-bpe", "vocab": plain,
                      "merges": [merge.split(" ") for merge in self._merges]},
        }
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": self.tokens[self.begin],
                    "eos_token": self.tokens[self.end], "clean_up_tokenization_spaces": False}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
