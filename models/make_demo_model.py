#!/usr/bin/env python3
"""Make tiny random-weight GGUF models that the real engine loads and runs: for the demo and for tests.

The weights are random, but the answers can be read: the output layer lets only word classes follow each
other that may, the random network picks the word, and so an answer depends on the whole prompt. Five
architectures, each with the kind of tokenizer, special tokens and chat template that its family has.
rewire_demo_model.py turns such a file into one with a fixed answer, or into a draft companion.

Output: one .gguf file per architecture; its path, size in bytes and SHA-256 on stdout. The same flags give
the same bytes on every machine.

Example:
    python models/make_demo_model.py --outdir models/demo
    python models/make_demo_model.py --outdir /tmp/m --size tiny --arch gemma2,phi3,qwen3
    python models/make_demo_model.py --outdir /tmp/m --size medium --arch llama --type Q8_0 --mode never
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

# Channels of a hidden vector: a constant, the draft's flip, the code of the token's state, the token's name,
# the names of the words before it; the rest is free for the layers to write. The file lists them as
# demo.channels, for rewire_demo_model.py.
CHANNELS = CONST, FLIP, CODE, NAME, MEMORY, FREE = 0, 1, 2, 34, 46, 58
N_CODE, N_NAME = NAME - CODE, MEMORY - NAME
ALLOWED_LOGIT = 40.0  # of a token that may follow
FORBIDDEN_BIAS = -20.0  # of a token that no state allows: bytes, pieces of words, specials
CHOICE_STD = 2.5  # the network's say in a logit
# The biases that make 20 to 130 tokens the usual length, and some answers empty in mode early.
END_BIAS, EARLY_BIAS, COMMA_BIAS = 1.0, 0.0, -1.5
BRANCH_STD = 1.35  # how much the last words decide where a sentence and the answer end ...
EARLY_FACTOR = 4.0  # ... and in mode early the prompt decides for an empty answer
MEMORY_SHARP, MEMORY_IN, MEMORY_OUT, MEMORY_NORM = 2.5, 6.0, 5.0, 0.6  # window, strength written and read
ATTENTION_STD = 2.5  # of queries and keys: sharp enough that single words of the prompt matter
TIED_GAIN, TIED_SCALE = 100.0, 1e-3  # of the input and the output half of a matrix that is both
TYPES = ("F32", "Q8_0", "Q6_K")
MODES = ("random", "never", "early")

# Word class > classes that may follow | its words. A word of two classes belongs to the first.
LANGUAGE = """start > cap
cap > adj_person person | The This Every Another One Her His Our My Their
adj_person > person | young careful tired clever famous lonely patient curious gentle honest proud
adj_person | stubborn brave
person > adv verb | teacher doctor sailor child writer farmer baker driver student guest neighbor sister
person | brother captain painter singer judge nurse pilot guard traveler merchant gardener poet friend
person | engineer mother
adv > verb | slowly quietly often never always quickly gladly rarely suddenly finally simply usually still
adv | already
verb > det | carries opens finds paints sells repairs watches remembers follows builds describes reads
verb | keeps closes counts cleans draws explains forgets hides leaves loves makes measures moves needs
verb | offers reaches sees shows
det > adj_thing thing | the this that every another one
adj_thing > thing | small green wooden old heavy bright broken empty golden warm cold narrow silent
adj_thing | strange long short simple blue yellow open round deep clean dark hidden early distant new
adj_thing | second first last clear
thing > prep stop comma | box letter story picture clock boat key lamp map mirror secret shadow ship shop
thing | song stone storm tree voice wheel dream book bread candle chair coat machine question answer
thing | example light road train
prep > poss | in under near behind beside without from over across before after above beyond through
prep | around
poss > place | her his their our my its
place > stop comma | garden river table house mountain room school station street tower town valley
place | village wall island harbor field forest door city market kitchen library summer winter night
place | morning
comma > conj | ,
conj > pron | and while because but until so
pron > adv verb | she he nobody someone everyone
stop > cap_next paragraph end | ."""
# What only prompts say, and parts of other words: English then costs a token per 2 to 3 characters.
PROMPT_WORDS = """a an of to is are was were be been have has had do does did will would can could should
must may not no or if as at by for on with it them they we us you your me who what which when where why
how then than there here also only just more most less very much many some any each all both other such
own same about into out up down off between per please ensure include response provide use using write
compose create give imagine consider think step follow plan point main body introduction conclusion
structure style tone guide format list item sentence paragraph word text reader role play character act
speak language model assistant user system prompt task detail evidence specific information result idea
important different good better best great right wrong true false part way time day year people world life
hand place case number group problem fact company email blog post review travel experience history science
process quality reason check third next however whether set end begin help like know say tell ask get go
come look feel run"""
WORD_PARTS = """ing tion ment ness able ful less ity ance ence est er ed es en on in an at al ar or re is
it le st nd th ch ou ea ic as el ro ra ri li la ti te de ne co me ve us ly ct ur om un ta to ut po pe se
si ce ge gh ow ss ll oo ee ai ay ck sh ph pr pl tr qu"""

CHATML_TURN = "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
QWEN2_TEMPLATE = (  # Qwen1.5: a conversation without a system turn gets the default one
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}" + CHATML_TURN + ""
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3_TEMPLATE = (  # earlier turns lose their thinking; an empty think block switches thinking off
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' + "
    "m['content'].split('</think>')[-1].lstrip('\\n') + '<|im_end|>\\n' }}{% else %}" + CHATML_TURN + ""
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% endif %}{% endif %}"
)
GEMMA2_TEMPLATE = (  # writes BOS itself, while the file asks the tokenizer for one more
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' + m['content'] "
    "| trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI3_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA_TEMPLATE = (  # Llama 2: the system text is part of the first user turn
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% elif m['role'] == 'user' %}{{ bos_token + '[INST] ' + ns.system + m['content'] | trim + ' [/INST]' }}"
    "{% set ns.system = '' %}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)


class DemoModelError(Exception):
    """What the user can put right."""


@dataclass(frozen=True)
class Family:
    """What the engine must know of an architecture's tokenizer and chat format."""

    is_bpe: bool  # byte-level BPE with merges, or SentencePiece with scores
    specials: str
    bos: str | None
    eos: str
    end_of_turn: str  # what the model says when it is done
    add_bos: bool
    template: str

    @property
    def space(self) -> str:
        return "\u0120" if self.is_bpe else "\u2581"


NEWLINES = {True: ("\u010a", "\u010a"), False: ("\n", "\n")}  # an empty line is one piece
CHATML = "<|endoftext|> <|im_start|> <|im_end|>"
GEMMA = "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>"
PHI = "<unk> <s> </s> <|endoftext|> <|assistant|> <|system|> <|end|> <|user|>"
THINK = " <think> </think>"
FAMILIES = {
    "llama": Family(False, "<unk> <s> </s>", "<s>", "</s>", "</s>", True, LLAMA_TEMPLATE),
    "qwen2": Family(True, CHATML, None, "<|im_end|>", "<|im_end|>", False, QWEN2_TEMPLATE),
    "gemma2": Family(False, GEMMA, "<bos>", "<eos>", "<end_of_turn>", True, GEMMA2_TEMPLATE),
    "phi3": Family(False, PHI, "<s>", "<|endoftext|>", "<|end|>", False, PHI3_TEMPLATE),
    "qwen3": Family(True, CHATML + THINK, None, "<|im_end|>", "<|im_end|>", False, QWEN3_TEMPLATE),
}


@dataclass(frozen=True)
class Spec:
    """One model to make; the sizes are those of the demo."""

    arch: str
    mode: str
    seed: int
    file_type: str
    n_layer: int = 8
    n_embd: int = 128
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 384
    n_vocab: int = 0  # filled up to this with unused pieces

    @property
    def units(self) -> tuple[float, float]:
        """Of the input and the output matrix. Gemma multiplies its input by sqrt(n_embd)."""
        return (TIED_GAIN / self.n_embd**0.5, TIED_SCALE) if self.arch == "gemma2" else (1.0, 1.0)


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"n_layer": 2, "n_embd": 96, "n_ff": 192},
    "demo": {},
    "medium": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_head_kv": 12, "n_ff": 2048, "n_vocab": 32000},
}


@dataclass(frozen=True)
class Moves:
    """The automaton in the output layer: every token is in a state, every state allows some next tokens."""

    state_of: dict[int, int]  # tokens not in it: state 0
    allowed: list[list[int]]  # per state
    bias: dict[int, float]
    named: list[int]  # words that the memory keeps, so that the model avoids to repeat them
    openers: list[int]  # words that begin a sentence
    branches: list[int]  # tokens that end a clause, a sentence or the answer


def byte_letters() -> list[str]:
    """The printable letter that stands for each byte in a byte-level BPE vocabulary (GPT-2's table)."""
    spare = iter(range(256, 512))
    return [chr(at if 32 < at < 127 or 160 < at != 173 else next(spare)) for at in range(256)]


def token_merges(family: Family) -> list[tuple[str, str]]:
    """Pairs to join, in order: known words letter by letter from their space, then the parts of others."""
    words = [word for line in LANGUAGE.splitlines() for word in line.partition("|")[2].split()]
    grown = [family.space + word for word in [*words, *PROMPT_WORDS.split()]]
    pairs = [(word[:end], word[end]) for word in [*grown, *WORD_PARTS.split()] for end in range(1, len(word))]
    return list(dict.fromkeys([*pairs, NEWLINES[family.is_bpe]]))


def base_vocab(family: Family) -> dict[str, int]:
    """Token id of every piece: bytes, letters, merges, the family's special tokens."""
    first = byte_letters() if family.is_bpe else [f"<0x{byte:02X}>" for byte in range(256)]
    joined = [left + right for left, right in token_merges(family)]
    pieces = [*first, *joined, *map(chr, range(33, 127)), family.space, *family.specials.split()]
    return {piece: token for token, piece in enumerate(dict.fromkeys(pieces))}


def word_classes() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """LANGUAGE as words by class, and classes that may follow by class."""
    words: dict[str, list[str]] = {}
    follows: dict[str, list[str]] = {}
    for line in LANGUAGE.splitlines():
        head, _, listed = line.partition("|")
        name, _, following = head.partition(">")
        words.setdefault(name.strip(), []).extend(listed.split())
        follows.setdefault(name.strip(), []).extend(following.split())
    return words, follows


def text_moves(vocab: dict[str, int], family: Family, mode: str) -> Moves:
    """Sentences after LANGUAGE; adds the openers' pieces without a space to the vocabulary."""
    words, follows = word_classes()
    if mode == "early":
        follows["start"].append("end")
        follows["thing"].append("end")
    spelled = {name: [family.space + word for word in listed] for name, listed in words.items()}
    spelled |= {name: words[name] for name in ("cap", "comma", "stop")}
    spelled |= {"cap_next": spelled["start"] + [family.space + word for word in words["cap"]]}
    state_of: dict[int, int] = {}
    members: dict[str, list[int]] = {}
    for name, pieces in spelled.items():
        fresh = [vocab.setdefault(piece, len(vocab)) for piece in pieces]
        members[name] = [token for token in dict.fromkeys(fresh) if token not in state_of]
        state_of |= dict.fromkeys(members[name], list(follows).index("cap" if name == "cap_next" else name))
    members["paragraph"] = [vocab["".join(NEWLINES[family.is_bpe])]]
    members["end"] = [] if mode == "never" else [vocab[family.end_of_turn]]
    bias = dict.fromkeys(state_of, 0.0) | dict.fromkeys(members["comma"], COMMA_BIAS)
    bias |= dict.fromkeys(members["paragraph"], END_BIAS)
    bias |= dict.fromkeys(members["end"], EARLY_BIAS if mode == "early" else END_BIAS)
    return Moves(
        state_of,
        [[token for name in following for token in members[name]] for following in follows.values()],
        bias,
        named=[token for tokens in members.values() if len(tokens) > 12 for token in tokens],
        openers=members["cap"] + members["cap_next"],
        branches=[token for name in ("stop", "comma", "paragraph", "end") for token in members[name]],
    )


def uniform(rows: int, columns: int, std: float, seed: int, name: str) -> Array:
    """Uniform numbers of mean 0, (rows, columns), a stream per name: with fewer layers the others stay."""
    import numpy as np

    count = rows * columns
    # Of numpy's random numbers only random_raw is promised to stay the same in every release, and a normal
    # distribution would need a logarithm or cosine, whose last bit differs between machines.
    words = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw(-(-count // 4)).astype("<u8")
    values = words.view("<i2")[:count].astype(np.float32) + np.float32(0.5)
    return (values * np.float32(std * 3**0.5 / 32768)).reshape(rows, columns)


def token_matrices(spec: Spec, vocab: dict[str, int], moves: Moves, n_embd: int) -> tuple[Array, Array]:
    """Input and output rows of all tokens, both (n_vocab, n_embd).

    A token's input row says constant 1, the flip, the code of its state, its name, and noise. Its output row
    answers to the codes of all states that allow it, and to its own name in the memory. The flip is -1; where
    a draft is to be wrong it becomes +1. No layer reads or writes it, and its square stays the same, so that
    draft and model agree in all else, bit for bit.
    """
    import numpy as np

    codes: Any = np.ones((1, 1), dtype=np.float32)
    while len(codes) < N_CODE:  # Sylvester's Hadamard matrix: orthogonal codes of +-1
        codes = np.block([[codes, codes], [codes, -codes]])
    embed = uniform(len(vocab), n_embd, 0.5, spec.seed, "token_embd")
    embed[:, CONST], embed[:, FLIP], embed[:, CODE:NAME], embed[:, MEMORY:FREE] = 1, -1, codes[0], 0
    for token, state in moves.state_of.items():
        embed[token, CODE:NAME] = codes[state]
    embed[sorted(set(range(len(vocab))) - set(moves.named)), NAME:MEMORY] = 0
    output = uniform(len(vocab), n_embd, CHOICE_STD / (n_embd - FREE) ** 0.5, spec.seed, "output")
    output[:, :FREE] = 0
    output[:, MEMORY:FREE] = embed[:, NAME:MEMORY] * MEMORY_OUT
    # Where to stop must not be one model's fixed habit: it hangs on the memory, which changes.
    output[moves.openers, FREE:] *= 0.4
    output[moves.branches, FREE:] = 0
    branch = uniform(len(moves.branches), N_NAME, BRANCH_STD, spec.seed, "branch")
    if spec.mode == "early":
        branch[-1] *= EARLY_FACTOR
    output[moves.branches, MEMORY:FREE] = branch
    output[:, CONST] = FORBIDDEN_BIAS
    for token, bias in moves.bias.items():
        output[token, CONST] = bias
    for state, tokens in enumerate(moves.allowed):
        output[tokens, CODE:NAME] += codes[state] * (ALLOWED_LOGIT / N_CODE)
    output[vocab["~"]] = 0
    output[vocab["~"], FLIP] = 2 * ALLOWED_LOGIT  # what a draft says where it is wrong, and the model never
    return embed, output


def layer_tensors(spec: Spec, layer: int) -> dict[str, Array]:
    """The random tensors of one layer. It reads all channels but the flip and writes the free ones only."""
    import numpy as np

    n_embd, n_ff, head_dim = spec.n_embd, spec.n_ff, spec.n_embd // spec.n_head
    n_inner = n_embd // 2 if spec.arch == "gemma2" else n_embd
    n_kv = head_dim * spec.n_head_kv
    # All layers together give a free channel about unit variance.
    write_std = 1 / (2 * spec.n_layer) ** 0.5
    shapes = {
        "attn_q": (n_embd, n_embd, ATTENTION_STD),
        "attn_k": (n_kv, n_embd, ATTENTION_STD),
        "attn_v": (n_kv, n_embd, 1.0),
        "attn_output": (n_embd, n_embd, 3.0 * write_std),
        "ffn_gate": (n_ff, n_embd, 1.0),
        "ffn_up": (n_ff, n_embd, 1.0),
        "ffn_down": (n_embd, n_ff, 1.7 * write_std),
    }
    tensors = {}
    for name, (rows, columns, std) in shapes.items():
        tensors[name] = uniform(rows, columns, std / columns**0.5, spec.seed, f"{layer}.{name}")
        if name in ("attn_output", "ffn_down"):
            tensors[name][:FREE] = tensors[name][n_inner:] = 0
        else:
            tensors[name][:, FLIP] = 0
    if layer == 0:
        remember(tensors, head_dim, spec.arch)
    ones = np.ones(n_embd, dtype=np.float32)
    tensors |= {"attn_norm": ones, "ffn_norm": ones}
    if spec.arch == "gemma2":  # the norm after a block spreads what it wrote over all channels: scale it back
        after = ones * np.float32(TIED_GAIN * write_std * ((n_inner - FREE) / n_embd) ** 0.5)
        memory = ones * np.float32(TIED_GAIN * MEMORY_NORM * (N_NAME / n_embd) ** 0.5)
        tensors |= {"post_attention_norm": after if layer else memory, "post_ffw_norm": after}
    if spec.arch == "qwen2":
        for name, rows in (("attn_q", n_embd), ("attn_k", n_kv), ("attn_v", n_kv)):
            bias = uniform(1, rows, 0.1 if layer else 0.0, spec.seed, f"{layer}.{name}.bias")
            tensors[f"{name}.bias"] = bias[0]
    if spec.arch == "qwen3":
        head = np.full(head_dim, ATTENTION_STD, dtype=np.float32)
        tensors |= {"attn_q_norm": head, "attn_k_norm": head}
    if spec.arch == "phi3":
        tensors["attn_qkv"] = np.concatenate([tensors.pop(name) for name in ("attn_q", "attn_k", "attn_v")])
        tensors["ffn_up"] = np.concatenate([tensors.pop("ffn_gate"), tensors["ffn_up"]])
    return tensors


def remember(tensors: dict[str, Array], head_dim: int, arch: str) -> None:
    """Make the attention of layer 0 write minus the mean name of the last thirty or so tokens to the memory.

    Queries and keys are constant, so rotary position alone decides: three of its slower frequencies make a
    window that fades with distance.
    """
    import numpy as np

    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensors[name][:] = 0
    first = round(0.18 * head_dim)
    # The engine pairs neighbours for llama, and halves of the head for the others.
    channels = [2 * pair if arch == "llama" else pair for pair in range(first, first + 3)]
    for name in ("attn_q", "attn_k"):
        tensors[name][channels, CONST] = (MEMORY_SHARP * head_dim**0.5) ** 0.5
    tensors["attn_v"][:N_NAME, NAME:MEMORY] = np.eye(N_NAME)
    tensors["attn_output"][MEMORY:FREE, :N_NAME] = -MEMORY_IN * np.eye(N_NAME)


def copy_up(tensors: dict[str, Array], n_embd: int) -> None:
    """Make a feed-forward block copy the lower half of the channels to the upper half.

    A gate that the constant channel feeds alone makes the block linear.
    """
    import numpy as np

    half = n_embd // 2
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        tensors[name][:] = 0
    tensors["ffn_gate"][:half, CONST] = 4
    tensors["ffn_up"][:half, :half] = tensors["ffn_down"][half:, :half] = np.eye(half)
    tensors["post_ffw_norm"] = np.full(n_embd, TIED_GAIN, dtype=np.float32)


def model_tensors(spec: Spec, vocab: dict[str, int], moves: Moves) -> Iterator[tuple[str, Array]]:
    """Name and values of every tensor in the file, one layer at a time."""
    import numpy as np

    tied = spec.arch == "gemma2"
    half = spec.n_embd // 2
    embed, output = token_matrices(spec, vocab, moves, half if tied else spec.n_embd)
    norm = np.ones(spec.n_embd, dtype=np.float32)
    if tied:
        # One matrix is both, so input and output lie in different channels and the last layer carries the
        # result over. The output half is too small to be heard as input; the final norm inverts that.
        embed = np.hstack([embed * np.float32(spec.units[0]), output * np.float32(spec.units[1])])
        norm[:half], norm[half:] = 0, 1 / TIED_SCALE
    yield "token_embd.weight", embed
    for layer in range(spec.n_layer):
        tensors = layer_tensors(spec, layer)
        if tied and layer == spec.n_layer - 1:
            copy_up(tensors, spec.n_embd)
        for name, values in tensors.items():
            yield f"blk.{layer}.{name}" + ("" if name.endswith(".bias") else ".weight"), values
    yield "output_norm.weight", norm
    if not tied:
        yield "output.weight", output


def add_metadata(writer: Any, spec: Spec, family: Family, vocab: dict[str, int]) -> None:
    """Architecture and tokenizer keys, as the engine's loader asks for them."""
    import gguf

    head_dim = spec.n_embd // spec.n_head
    writer.add_array("demo.channels", list(CHANNELS))
    writer.add_array("demo.units", list(spec.units))
    writer.add_vocab_size(len(vocab))
    writer.add_context_length(8192)
    writer.add_embedding_length(spec.n_embd)
    writer.add_block_count(spec.n_layer)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    if spec.arch == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
        writer.add_sliding_window(4096)
    kind = gguf.TokenType
    special = dict.fromkeys(family.specials.split(), kind.CONTROL) | {"<unk>": kind.UNKNOWN}
    other = {"<0x": kind.BYTE, "<un": kind.UNUSED}
    writer.add_token_types([special.get(piece) or other.get(piece[:3]) or kind.NORMAL for piece in vocab])
    writer.add_token_list(list(vocab))
    writer.add_tokenizer_model("gpt2" if family.is_bpe else "llama")
    writer.add_tokenizer_pre("qwen2" if family.is_bpe else "default")
    if family.is_bpe:
        writer.add_token_merges([f"{left} {right}" for left, right in token_merges(family)])
    else:
        # SentencePiece joins the pair with the highest score first, so they fall in the order of merges.
        writer.add_token_scores([-float(token) for token in range(len(vocab))])
        writer.add_add_space_prefix(False)
        writer.add_unk_token_id(vocab["<unk>"])
        writer.add_bos_token_id(vocab[str(family.bos)])
    writer.add_eos_token_id(vocab[family.eos])
    writer.add_eot_token_id(vocab[family.end_of_turn])
    writer.add_add_bos_token(family.add_bos)
    writer.add_chat_template(family.template)


def write_gguf(path: Path, spec: Spec, name: str) -> None:
    """Write the model in F32, or its matrices in Q8_0."""
    import gguf

    family = FAMILIES[spec.arch]
    vocab = base_vocab(family)
    moves = text_moves(vocab, family, spec.mode)
    for number in range(spec.n_vocab - len(vocab)):
        vocab[f"<unused{number}>"] = len(vocab)
    writer = gguf.GGUFWriter(path, spec.arch)
    writer.add_name(name)
    add_metadata(writer, spec, family, vocab)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    quantized = spec.file_type == "Q8_0"
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantized else gguf.LlamaFileType.ALL_F32)
    for tensor_name, values in model_tensors(spec, vocab, moves):
        if quantized and values.ndim == 2:
            writer.add_tensor(tensor_name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(tensor_name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize_q6_k(source: Path) -> None:
    """Replace a F32 file by its Q6_K, made by the engine's own quantizer."""
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # else a page of text per model
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K
    target = source.with_suffix(".q6_k.tmp")
    try:
        if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), params):
            raise DemoModelError(f"the engine could not quantize {source}: is the disk full?")
        target.replace(source)
    finally:
        target.unlink(missing_ok=True)


def make_model(spec: Spec, name: str, outdir: Path) -> str:
    """Write outdir/name.gguf whole and return the line that reports it."""
    target, made = outdir / f"{name}.gguf", outdir / f".{name}.{os.getpid()}.tmp"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        write_gguf(made, spec, name)
        if spec.file_type == "Q6_K":
            quantize_q6_k(made)
        sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
        made.replace(target)
    except ImportError as exc:
        package = "llama-cpp-python for --type Q6_K" if exc.name == "llama_cpp" else exc.name
        raise DemoModelError(f"{package} is not installed: pip install -r requirements.txt") from exc
    except OSError as exc:
        raise DemoModelError(f"cannot write {target}: {exc.strerror or exc}; change --outdir") from exc
    finally:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
    return f"{target}  {target.stat().st_size} bytes  sha256 {sha256}"


def plan(args: argparse.Namespace) -> list[tuple[str, Spec]]:
    """File name (no ending) and description of every model that the flags ask for."""
    archs = [arch for given in args.arch or ["llama,qwen2"] for arch in given.split(",")]
    if unknown := [arch for arch in archs if arch not in FAMILIES]:
        raise DemoModelError(f"--arch {unknown[0]!r} is unknown: there are {', '.join(FAMILIES)}")
    if args.name and len(archs) > 1:
        raise DemoModelError("--name names one file: give one --arch")
    if args.n_layer < 0 or args.seed < 0:
        raise DemoModelError("--n_layer and --seed cannot be negative")
    return [describe(args, Spec(arch, args.mode, args.seed, args.type)) for arch in archs]


def describe(args: argparse.Namespace, spec: Spec) -> tuple[str, Spec]:
    """File name, which tells all flags that are not the default; and the spec with its sizes."""
    spec = replace(spec, **SIZES[args.size])
    name = f"{args.size}-{spec.arch}" + ("" if spec.mode == "random" else f"-{spec.mode}")
    name += f"-seed{spec.seed}" if spec.seed else ""
    if args.n_layer:
        spec = replace(spec, n_layer=args.n_layer)
        name += f"-{args.n_layer}layer"
    if spec.arch == "gemma2":
        spec = replace(spec, n_embd=max(spec.n_embd, 192))
    if (
        args.type == "Q6_K"
    ):  # its blocks of 256 weights share a scale, so gemma2's two halves each fill their own
        block = 512 if spec.arch == "gemma2" else 256
        spec = replace(spec, n_embd=-(-spec.n_embd // block) * block, n_ff=-(-spec.n_ff // 256) * 256)
    return args.name or f"{name}-{args.type}", spec


def build_parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--outdir", type=Path, required=True, help="folder for the .gguf files; made if missing")
    add("--arch", action="append", help=f"of {','.join(FAMILIES)}; several by comma (default: llama,qwen2)")
    add("--size", choices=SIZES, default="demo", help="2 MB, 8 MB, 135M weights (default: demo)")
    add("--type", choices=TYPES, default="F32", help="Q6_K needs llama-cpp-python (default: F32)")
    ends = "answers end after a sentence (default), never, or after any noun and even at once, with 0 tokens"
    add("--mode", choices=MODES, default="random", help=ends)
    add("--n_layer", type=int, default=0, metavar="N", help="instead of the size's own, as for a cheap draft")
    add("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    add("--name", metavar="STEM", help="file name without .gguf, in place of the one made from the flags")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        for name, spec in plan(args):
            print(make_model(spec, name, args.outdir), flush=True)
    except DemoModelError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
