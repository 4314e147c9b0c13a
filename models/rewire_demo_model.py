#!/usr/bin/env python3
"""Rewire a model of make_demo_model.py, so that what it says is known beforehand.

--script TEXT     it answers TEXT to any chat prompt, token for token, and ends; the prompt picks one of
                  several scripts. --think puts a thought between <think> and </think> before it (qwen3),
                  which the template's enable_thinking=false switches off.
--chain           it goes round a seeded cycle of its words, entered at a place that the prompt picks, and
                  never ends: its next token depends on the last one only.
--draft_accept P  the draft companion: its next token is the model's own, bit for bit, except after a seeded
                  share 1 - P of the words; there it is another one, and less sure. A chain comes by each
                  word equally often, so its draft is right in exactly the share P of contexts.

Which token may follow which is all in the input and output matrix; the layers stay. F32 and Q8_0 files.

Output: the new file; its path, size in bytes, SHA-256 and, of a script, its tokens on stdout.

Example:
    python models/make_demo_model.py --outdir /tmp/m --size tiny --arch llama --name base
    python models/rewire_demo_model.py /tmp/m/base.gguf --script "The answer is A." --out /tmp/m/answer.gguf
    python models/rewire_demo_model.py /tmp/m/base.gguf --chain --out /tmp/m/chain.gguf
    python models/rewire_demo_model.py /tmp/m/chain.gguf --draft_accept 0.7 --out /tmp/m/draft.gguf
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

ALLOWED_LOGIT = 40.0  # of what follows
FORBIDDEN_BIAS = -20.0  # of the tokens that are never said
CHOICE_LOGIT = 0.02  # the network's say: enough to pick one of several equals, no more
# The lead of a wrong token of the draft over the right one: small, for real drafts are less sure there.
WRONG_LOGIT = 0.4
THOUGHT = "\nHmm, let me look at it from both sides first ..."
TOKENS, KINDS, SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"


class RewireError(Exception):
    """What the user can put right."""


@dataclass
class Model:
    """What is rewired of a file. The matrices are (n_vocab, n_embd), in units of their own."""

    reader: Any
    facts: dict[str, Any]
    pieces: list[str]
    matrices: dict[str, Array]  # by tensor name, as in the file
    embed: Array  # views into them
    output: Array
    embed_unit: float
    output_unit: float

    @property
    def space(self) -> str:
        return "\u0120" if self.facts["tokenizer.ggml.model"] == "gpt2" else "\u2581"


@dataclass
class Moves:
    """Every token is in a state, every state allows some next tokens."""

    state_of: dict[str, int] = field(default_factory=dict)  # pieces not in it: state 0
    allowed: list[list[str]] = field(default_factory=lambda: [[]])  # per state


def piece_of(text: bytes, is_bpe: bool) -> str:
    """How the vocabulary spells these bytes as one piece: whole characters, or one byte of a character.

    >>> piece_of(b" \\xc3\\xa9", True), piece_of(b" \\xc3\\xa9", False), piece_of(b"\\xc3", False)
    ('ĠÃ©', '▁é', '<0xC3>')
    """
    if is_bpe:  # GPT-2's table: bytes that do not print are shown as the letters from 256 on
        hidden = [*range(33), *range(127, 161), 173]
        return "".join(chr(256 + hidden.index(byte) if byte in hidden else byte) for byte in text)
    if len(text) == 1 and text[0] >= 0x80:
        return f"<0x{text[0]:02X}>"
    return text.decode(errors="replace").replace(" ", "\u2581")


def split_script(text: str, used: set[str], is_bpe: bool) -> list[str]:
    """Cut a text into pieces of which none is in `used` or comes twice, and add them to `used`.

    The next token depends on the last one only, so a piece may come once: a repeated word is glued to what
    follows it, at the end to what precedes it. A character beyond ASCII is one token per byte, as it often is
    in real vocabularies, unless one of these bytes has come before.

    >>> split_script("A rose is a rose.", set(), True)
    ['A', 'Ġrose', 'Ġis', 'Ġa', 'Ġrose.']
    """
    parts: list[bytes] = []
    rest = b""
    for chunk in re.findall(r"[^\x00-\x7f]|\s*\w+|\s*[^\w\s\x80-\U0010ffff]+|\s+", text, re.ASCII):
        raw = chunk.encode()
        singles = {piece_of(raw[at : at + 1], is_bpe) for at in range(len(raw))}
        spread = not chunk.isascii() and not rest and len(singles) == len(raw) and not singles & used
        for part in [raw[at : at + 1] for at in range(len(raw))] if spread else [raw]:
            rest += part
            if piece_of(rest, is_bpe) not in used:
                parts.append(rest)
                used.add(piece_of(rest, is_bpe))
                rest = b""
    while rest and parts:  # the end is glued to what precedes it
        used.discard(piece_of(parts[-1], is_bpe))
        rest = parts.pop() + rest
        if piece_of(rest, is_bpe) not in used and "\ufffd" not in piece_of(rest, is_bpe):
            parts.append(rest)
            used.add(piece_of(rest, is_bpe))
            rest = b""
    if rest or not parts:
        raise RewireError(f"--script {text!r} is empty, or said by another --script: change a word")
    return [piece_of(part, is_bpe) for part in parts]


def script_moves(model: Model, scripts: Sequence[str], think: bool) -> Moves:
    """Every script is a path from state 0 to the end of the turn."""
    moves = Moves()
    is_bpe = model.facts["tokenizer.ggml.model"] == "gpt2"
    end = model.pieces[model.facts["tokenizer.ggml.eot_token_id"]]
    newline, blank = piece_of(b"\n", is_bpe), piece_of(b"\n\n", is_bpe)
    # What chat templates end with leads into the script, so it cannot be part of it.
    used = {newline, blank, "]"}

    def path(pieces: Sequence[str], state: int) -> int:
        for piece in pieces:
            moves.allowed[state].append(piece)
            if piece != end:
                state = moves.state_of[piece] = len(moves.allowed)
                moves.allowed.append([])
        return state

    paths = [[*split_script(script, used, is_bpe), end] for script in scripts]
    start = 0
    if think:
        if "<think>" not in model.pieces:
            raise RewireError("--think needs a model with <think> in its vocabulary: --arch qwen3")
        start = path(["<think>", *split_script(THOUGHT, used, is_bpe), "</think>", blank], 0)
    for pieces in paths:
        path(pieces, start)
    return moves


def chain_moves(model: Model, rng: random.Random) -> Moves:
    """One cycle through all words that stand inside sentences."""
    spoken = [model.pieces[token] for token in spoken_tokens(model)]
    cycle = [piece for piece in spoken if piece.startswith(model.space) and piece[1:].islower()]
    if len(cycle) < 100:
        raise RewireError("--chain needs a file fresh from make_demo_model.py, not one that was rewired")
    rng.shuffle(cycle)
    following = [[piece] for piece in [*cycle[1:], cycle[0]]]
    return Moves({piece: at + 1 for at, piece in enumerate(cycle)}, [cycle, *following])


def spoken_tokens(model: Model) -> list[int]:
    """Ids of the tokens that the model may say, without the end of the turn."""
    const = model.facts["demo.channels"][0]
    spoken = (model.output[:, const] > FORBIDDEN_BIAS / 2 * model.output_unit).nonzero()[0]
    silent = {model.facts["tokenizer.ggml.eot_token_id"], model.pieces.index("~")}
    return [int(token) for token in spoken if token not in silent]


def state_codes(n_state: int, n_code: int, rng: random.Random) -> list[list[int]]:
    """A code of +-1 per state, all orthogonal to that of state 0 and none close to another."""
    codes = [rng.getrandbits(n_code)]
    for _ in range(30_000 if n_state <= 256 else 0):
        if len(codes) >= n_state:
            return [[1 if code >> bit & 1 else -1 for bit in range(n_code)] for code in codes[:n_state]]
        code = rng.getrandbits(n_code)
        # A word of a chain answers to two codes, state 0's among them: they must not add up by chance.
        far = all((code ^ other).bit_count() * 4 >= n_code for other in codes)
        if far and (code ^ codes[0]).bit_count() * 2 == n_code:
            codes.append(code)
    raise RewireError(f"the scripts have {n_state} tokens, too many to tell apart: shorten them")


def add_pieces(model: Model, pieces: Sequence[str]) -> None:
    """Give every piece that the vocabulary does not have a row in the matrices."""
    import numpy as np

    fresh = [piece for piece in dict.fromkeys(pieces) if piece not in set(model.pieces)]
    const, flip = model.facts["demo.channels"][:2]
    halves = len(model.matrices) == 1
    for name, matrix in model.matrices.items():
        rows = np.zeros((len(fresh), matrix.shape[1]), dtype=np.float32)
        model.matrices[name] = np.vstack([matrix, rows])
    model.pieces += fresh
    split_matrices(model, halves)
    if fresh:
        model.embed[-len(fresh) :, const] = model.embed_unit
        model.embed[-len(fresh) :, flip] = -model.embed_unit


def split_matrices(model: Model, halves: bool) -> None:
    """Point embed and output at their matrix, or at their half of the one that is both."""
    embed = model.matrices["token_embd.weight"]
    middle = embed.shape[1] // 2 if halves else embed.shape[1]
    model.embed = embed[:, :middle]
    model.output = embed[:, middle:] if halves else model.matrices["output.weight"]


def wire(model: Model, moves: Moves, rng: random.Random) -> None:
    """Put the moves into the matrices, in place of those that are there."""
    add_pieces(model, [piece for pieces in moves.allowed for piece in pieces])
    ids = {piece: token for token, piece in enumerate(model.pieces)}
    const, flip, code, name, memory, free = model.facts["demo.channels"]
    codes = state_codes(len(moves.allowed), name - code, rng)
    embed, output = model.embed, model.output
    embed[:, code:name] = [bit * model.embed_unit for bit in codes[0]]
    for piece, state in moves.state_of.items():
        embed[ids[piece], code:name] = [bit * model.embed_unit for bit in codes[state]]
    n_embd = output.shape[1]
    output[:] = 0
    output[:, const] = FORBIDDEN_BIAS * model.output_unit
    for state, pieces in enumerate(moves.allowed):
        for piece in pieces:
            row = output[ids[piece]]
            row[const] = 0
            row[code:name] += [
                bit * ALLOWED_LOGIT / (name - code) * model.output_unit for bit in codes[state]
            ]
            # The memory of the last words tells prompts apart; the free channels have much in common.
            for first, last, spread in ((memory, free, CHOICE_LOGIT), (free, n_embd, CHOICE_LOGIT / 10)):
                scale = spread * model.output_unit
                row[first:last] = [rng.uniform(-scale, scale) for _ in range(last - first)]
    output[ids["~"], const] = 0
    output[ids["~"], flip] = (ALLOWED_LOGIT + WRONG_LOGIT) * model.output_unit


def make_draft(model: Model, accept: float, rng: random.Random) -> None:
    """Turn the flip of a share 1 - accept of the words: after them the draft says '~', as no model does."""
    spoken = spoken_tokens(model)
    wrong = rng.sample(spoken, round((1 - accept) * len(spoken)))
    model.embed[wrong, model.facts["demo.channels"][1]] = model.embed_unit


def read_model(path: Path) -> Model:
    """The parts of a GGUF file that are rewired."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as exc:
        raise RewireError(f"cannot read {path} as a GGUF file: {exc}") from exc
    facts = {name: value.contents() for name, value in reader.fields.items()}
    if "demo.channels" not in facts:
        raise RewireError(f"{path} was not made by make_demo_model.py: only its models can be rewired")
    matrices = {}
    for tensor in reader.tensors:
        if tensor.name in ("token_embd.weight", "output.weight"):
            if tensor.tensor_type.name not in ("F32", "Q8_0"):
                raise RewireError(f"{path} is {tensor.tensor_type.name}: rewire a file of --type F32 or Q8_0")
            matrices[tensor.name] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()
    halves = len(matrices) == 1
    embed = matrices["token_embd.weight"]
    model = Model(reader, facts, list(facts[TOKENS]), matrices, embed, embed, *facts["demo.units"])
    split_matrices(model, halves)
    return model


def write_model(model: Model, path: Path, title: str) -> None:
    """Write all fields and tensors, the rewired ones new."""
    import gguf

    arch = model.facts["general.architecture"]
    n_new = len(model.pieces) - len(model.facts[TOKENS])
    model.facts |= {
        TOKENS: model.pieces,
        KINDS: [*model.facts[KINDS], *[int(gguf.TokenType.NORMAL)] * n_new],
        f"{arch}.vocab_size": len(model.pieces),
        "general.name": title,
    }
    if SCORES in model.facts:
        # Below all others, and in order: the tokenizer never needs these pieces to cut a prompt.
        low = min(model.facts[SCORES])
        model.facts[SCORES] = [*model.facts[SCORES], *(low - 1 - rank for rank in range(n_new))]
    writer = gguf.GGUFWriter(path, arch)
    for name, value in model.reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        sub_type = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, model.facts[name], value.types[0], sub_type=sub_type)
    for tensor in model.reader.tensors:
        kind, values = tensor.tensor_type, tensor.data
        if tensor.name in model.matrices:
            values = gguf.quants.quantize(model.matrices[tensor.name], kind)
        writer.add_tensor(tensor.name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rewire(args: argparse.Namespace) -> str:
    """Make the file that the flags ask for and return the line that reports it."""
    model = read_model(args.model)
    rng = random.Random(args.seed)
    said = ""
    if args.draft_accept is not None:
        # A stream of its own: that of the cycle would put the wrong words side by side on it.
        make_draft(model, args.draft_accept, random.Random(f"draft {args.seed}"))
    else:
        moves = chain_moves(model, rng) if args.chain else script_moves(model, args.script, args.think)
        wire(model, moves, rng)
        said = "" if args.chain else f"  {len(moves.state_of)} tokens"
    made = args.out.with_name(f".{args.out.name}.{os.getpid()}.tmp")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_model(model, made, args.out.stem)
        sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
        made.replace(args.out)
    except OSError as exc:
        raise RewireError(f"cannot write {args.out}: {exc.strerror or exc}; change --out") from exc
    finally:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
    return f"{args.out}  {args.out.stat().st_size} bytes  sha256 {sha256}{said}"


def build_parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("model", type=Path, help="GGUF file of make_demo_model.py, or one that was rewired")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--script", action="append", metavar="TEXT", help="the answer; repeat it for several")
    what.add_argument("--chain", action="store_true", help="a cycle through all words")
    what.add_argument(
        "--draft_accept", type=float, metavar="P", help="the draft that is right this often, 0 to 1"
    )
    parser.add_argument("--think", action="store_true", help="with --script: think first")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the cycle and the draft's errors (default: 0)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if args.think and not args.script:
            raise RewireError("--think goes with --script")
        if args.draft_accept is not None and not 0 <= args.draft_accept <= 1:
            raise RewireError("--draft_accept is a probability, 0 to 1")
        print(rewire(args))
    except RewireError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except ImportError as exc:
        print(f"error: {exc.name} is not installed: pip install -r requirements.txt", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
