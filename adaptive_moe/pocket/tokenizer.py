"""The pocket model's tokenizer: byte-level BPE, digits one by one, and its chat template."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"
BEGIN = "<|begin|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
END = "<|end|>"
# What add_generation_prompt appends. Experts act from its first token on; the tokens after the
# first give them positions to think at. None of them can occur in an answer.
HEADER = ("<|assistant|>", "<|recall|>", "<|answer|>")
SPECIAL_TOKENS = (PAD, BEGIN, SYSTEM, USER, END, *HEADER)

# A space belongs to the word, the digit or the sign that follows it; digits stand alone.
_PIECES = r"'(?:s|t|re|ve|m|ll|d)\b| ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{- '" + SYSTEM + "' + message['content'] + eos_token -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '" + USER + "' + message['content'] + eos_token -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '" + "".join(HEADER) + "' -}}"
    "{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('roles are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + "".join(HEADER) + "' -}}{%- endif -%}"
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Tokenizer:
    """Learn the merges from `texts`; the first ids are the special tokens, in fixed order.

    A space is put before every stretch of text, so that a word has the same token at the start
    of a turn as inside it, and taken away again when decoding.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context: int) -> None:
    """Write the files that `AutoTokenizer.from_pretrained(folder)` reads, template included."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, *HEADER],
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))
