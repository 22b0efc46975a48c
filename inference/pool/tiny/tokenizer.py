"""The small model's own CLIP tokenizer: byte-pair merges learnt from the phrases of `vocabulary`."""

import json
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from inference.pool.tiny import vocabulary

_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
_CORPUS_PHRASES = 6000
_VOCABULARY_SIZE = 700


def _corpus(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    phrases = ["visual"] * 50
    for _ in range(_CORPUS_PHRASES):
        draw = rng.random()
        colour = str(rng.choice(vocabulary.COLOUR_NAMES)) if draw < 0.6 else None
        shape = str(rng.choice(vocabulary.SHAPE_NAMES)) if 0.2 < draw < 0.8 else None
        if draw > 0.9:
            phrases.append(vocabulary.unknown_phrase(rng))
        else:
            phrases.append(vocabulary.phrase_for(rng, colour, shape))
    return phrases


def build(seed: int = 0) -> CLIPTokenizer:
    """Learn the merges and return the tokenizer; the same seed gives the same tokenizer.

    Every byte is a token with and without the end-of-word mark, so that any text can be encoded.
    """
    learner = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=[*_SPECIAL, *alphabet, *(letter + "</w>" for letter in alphabet)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(seed), trainer)
    with tempfile.TemporaryDirectory() as folder:
        learner.model.save(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text())
        lines = (Path(folder) / "merges.txt").read_text().splitlines()
    merges = [(left, right) for left, right in (line.split(" ") for line in lines[1:])]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=32)
