"""A tokenizer of 512 tokens that encodes any text: byte-level, each digit a token of its own."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.toy.arithmetic import draw_conversations

VOCAB_SIZE = 512
MAX_POSITIONS = 4096
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)

# Turns as Qwen3 lays them out.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_NUM_TEXTS = 2000
_INSTRUCTIONS = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
_PEOPLE = ("Anna", "James", "Maria", "Peter", "Sarah", "Tom", "The teacher", "A farmer", "Her brother", "His friend")
_DEEDS = ("buys", "sells", "makes", "gives away", "reads", "earns", "spends", "collects", "needs", "finishes")
_THINGS = ("books", "apples", "dollars", "cards", "flowers", "pages", "hours of work", "bottles of water", "tickets")
_TIMES = ("each day", "in the morning", "every week", "for 3 days", "after school", "per hour", "in total", "this year")
_QUESTIONS = (
    "How many {} are left?",
    "How many more {} does she need?",
    "What is the total number of {} altogether?",
    "If half of the {} were sold for ${} each, how much money did they make?",
)


def save_tokenizer(folder: Path, seed: int) -> None:
    """Trains the tokenizer on generated text and writes it with its chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=cast(list[str], cast(Any, pre_tokenizers.ByteLevel).alphabet()),
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)  # pyright: ignore[reportUnknownMemberType]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]


def _texts(seed: int) -> Iterator[str]:
    """Arithmetic as in the data sets, and word problems in everyday English."""
    random_state = random.Random(seed)
    for question, answer in draw_conversations(_NUM_TEXTS, seed):
        yield from ("user", question, "assistant", answer, "system")
        yield _INSTRUCTIONS.format(_word_problem(random_state))


def _word_problem(random_state: random.Random) -> str:
    choose = random_state.choice
    number = random_state.randint
    things = choose(_THINGS)
    facts = (
        f"{choose(_PEOPLE)} {choose(_DEEDS)} {number(2, 99)} {things} {choose(_TIMES)}." for _ in range(number(1, 3))
    )
    return " ".join([*facts, choose(_QUESTIONS).format(things, number(1, 9))])
