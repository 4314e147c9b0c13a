"""Token counts -> the columns that an analytic fit's coefficients multiply.

x (n, 4) holds per request: prompt tokens I, decode steps S, prefill time [s], decode time [s]. A design is a
few named columns, then one or two sets of band columns: how many of the tokens lie in each band of lengths,
so that each band has a rate of its own.

  prefill, staircase   1, pairs, further tiles of one to three sizes, I by bands
  prefill, llama.cpp   the same with micro-batches of 512: each attends to all before it, and costs a start
  prefill, padded      1, P^2/2, P by bands, of P = pad * ceil(I / pad) alone
  prefill energy       its time, less two ramps of a power that rises, I by bands; or one of the above
  decode               1, sum of the context lengths, steps by bands; energies: the ramp's columns, too
  total                prefill and decode side by side, for totals that were not split

Why a staircase and a slope: matrix multiplications run in tiles (64 to 256 rows on Ampere), and a tile that
is partly filled takes as long as a full one; what is done per token outside them (embedding, norms, cache
writes) grows with each token; attention grows with pairs. Several sizes, because a model's matrices differ in
width and the library picks a tile for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebench.forecasting.quantities import LLAMA_CPP, OWN_LEVEL_TOKENS

Floats = NDArray[np.float64]

# Band edges at powers of two: attention kernels, batch and cache sizes change there.
EDGES = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 1 << 40)
BANDS = len(EDGES) - 1
# Staircases to choose from, the simplest first; which ones: see docs/token2metrics.md, "How it was chosen".
STAIRCASES = (
    (),
    (128,),
    (256,),
    (64,),
    (512,),
    (128, 256),
    (64, 128),
    (64, 256),
    (128, 512),
    (256, 512),
    (128, 256, 512),
)
# llama.cpp computes a prompt in micro-batches: n_ubatch = 512 in common_params and in llama-cpp-python.
MICRO_BATCH = 512
MICRO_BATCH_STAIRCASES = ((), (64,), (128,), (256,))
RAMPS_S = tuple((tau, prefill) for tau in (0.0, 0.25, 0.5, 1.0, 2.0) for prefill in (0.25, 1.0))
# Libraries switch kernels at some lengths: tiles of prompts may have levels of their own, drawn to none.
OWN_LEVEL = "own_level_"
OWN_LEVEL_ROWS_LEAST, OWN_LEVEL_TILES = 3, (4, 24)  # rows of a tile that has one; how many tiles
LENGTHS_A_TILE = 3  # in the mean; fewer are a grid, and a level would be one length's noise
# Two time constants of the power's rise in a prefill: clocks, then the sensors' averaging and the heat.
PREFILL_RAMPS_S = ((0.1, 0.5), (0.1, 1.0), (0.2, 1.0), (0.25, 2.0), (0.5, 2.0))

Options = Mapping[str, Any]


def band_tokens(low: Floats, high: Floats) -> Floats:
    """How many of the tokens low+1 .. high (n,) lie in each band (n, bands)."""
    edges = np.asarray(EDGES, float)
    inside = np.minimum(high[:, None], edges[None, 1:]) - np.maximum(low[:, None], edges[None, :-1])
    return np.asarray(np.clip(inside, 0, None))


def further_tiles(tokens: Floats, pad: float) -> Floats:
    """Tiles beyond the first (n,) that some tokens fill, the last one maybe in part."""
    return np.asarray(np.maximum(np.ceil(tokens / pad) - 1, 0))


def attended_pairs(prompt: Floats, micro_batch: float | None) -> Floats:
    """Pairs of tokens (n,) that attention computes: half the square, or each micro-batch against all so far.

    >>> attended_pairs(np.array([512.0, 1024.0, 1025.0]), 512).tolist()
    [262144.0, 786432.0, 787457.0]
    """
    if micro_batch is None:
        return np.asarray(prompt**2 / 2)
    full = np.floor(prompt / micro_batch)
    return np.asarray(micro_batch**2 * full * (full + 1) / 2 + (prompt - full * micro_batch) * prompt)


def prefill_design(x: Floats, options: Options) -> tuple[Floats, list[str]]:
    """Columns of a prefill: a few named ones, then tokens per band; and the names of all but the bands."""
    prompt = x[:, 0]
    if "ramps_s" in options:  # an energy from its time: a power that rises in two steps
        time_s = x[:, 2]
        ramps = [-(1 - np.exp(-time_s / tau_s)) for tau_s in options["ramps_s"]]
        names = ["per_second", *(f"minus_ramp_{tau_s:g}_s" for tau_s in options["ramps_s"])]
        return np.column_stack([time_s, *ramps, band_tokens(np.zeros_like(prompt), prompt)]), names
    columns, names = [np.ones_like(prompt)], ["constant", "per_token_pair"]
    if "pad" in options:  # everything is done on whole tiles
        prompt = np.asarray(options["pad"] * np.ceil(prompt / options["pad"]))
    micro_batch = options.get("micro_batch")
    columns.append(attended_pairs(prompt, micro_batch))
    if micro_batch:
        columns.append(further_tiles(prompt, micro_batch))
        names.append(f"per_micro_batch_of_{micro_batch:g}")
    for pad in options.get("pads", ()):
        columns.append(further_tiles(prompt, pad))
        names.append(f"per_tile_of_{pad:g}")
    for tile in options.get("own_level", ()):
        inside = (np.ceil(prompt / OWN_LEVEL_TOKENS) == tile).astype(float)
        columns += [inside, -inside]  # both ways, because coefficients are never below zero
        names += [f"{OWN_LEVEL}slower_{tile:g}", f"{OWN_LEVEL}faster_{tile:g}"]
    return np.column_stack([*columns, band_tokens(np.zeros_like(prompt), prompt)]), names


def decode_design(x: Floats, options: Options) -> tuple[Floats, list[str]]:
    """Columns [constant, sum of context lengths, .., steps per band]; with tau_s those of the power ramp."""
    prompt, steps = x[:, 0], x[:, 1]
    columns = [np.ones_like(prompt), steps * prompt + steps * (steps + 1) / 2]
    names = ["constant", "per_context_token"]
    if "tau_s" in options:
        tau_s, prefill_tau_s = options["tau_s"], options["prefill_tau_s"]
        ramp = 1 - np.exp(-x[:, 3] / tau_s) if tau_s else np.ones_like(prompt)
        columns += [-ramp, -ramp * np.exp(-x[:, 2] / prefill_tau_s)]
        names += ["minus_ramp", "minus_ramp_after_short_prefill", "per_step_and_prompt_doubling"]
        columns.append(steps * np.log2(np.maximum(prompt, 1)))  # a long prefill leaves the board warmer
    return np.column_stack([*columns, band_tokens(prompt, prompt + steps)]), names


def total_design(x: Floats, options: Options) -> tuple[Floats, list[str]]:
    """Both phases at once, for totals that were not split: [.., tokens per band, steps per band]."""
    before, names = prefill_design(x, options)
    after, _ = decode_design(x, {})
    columns = [before[:, : len(names)], after[:, 1:2], before[:, len(names) :], after[:, 2:]]
    return np.column_stack(columns), [*names, "per_context_token"]


DESIGNS: dict[str, Callable[[Floats, Options], tuple[Floats, list[str]]]] = {
    "prefill_ms": prefill_design,
    "prefill_energy_joule": prefill_design,
    "decode_ms": decode_design,
    "decode_energy_joule": decode_design,
    "total_ms": total_design,
    "total_energy_joule": total_design,
}


def design_options(target: str, lengths: Floats, engine: str | None, timed: bool) -> list[dict[str, Any]]:
    """The designs to choose from for prompts of these lengths (n,), the simplest first.

    engine: LLAMA_CPP where the data says so; timed: whether the prefill's own time is known.
    """
    if target == "decode_ms":
        return [{}]
    if target == "decode_energy_joule":
        return [{"tau_s": tau, "prefill_tau_s": prefill} for tau, prefill in RAMPS_S]
    prefill = prefill_options(lengths, engine)
    if target.startswith("total"):
        return prefill[:1]
    if target == "prefill_energy_joule" and timed:
        return [*({"ramps_s": list(pair)} for pair in PREFILL_RAMPS_S), *prefill]
    return prefill


def prefill_options(lengths: Floats, engine: str | None) -> list[dict[str, Any]]:
    """Staircases of a prefill that these prompt lengths (n,) can show."""

    def shown(staircases: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        # Multiples of a tile tell nothing of it: a staircase that no length shows must not be believed.
        return [pads for pads in staircases if all((lengths % pad).any() for pad in pads)]

    own = own_level_tiles(lengths)
    if engine == LLAMA_CPP:
        batched: list[dict[str, Any]] = [
            {"micro_batch": MICRO_BATCH, "pads": list(pads)} for pads in shown(MICRO_BATCH_STAIRCASES)
        ]
        batched += [{"pads": list(pads)} for pads in shown(STAIRCASES[:4])]
        return batched + ([{**batched[0], "own_level": own}] if own else [])
    stairs = shown(STAIRCASES)
    options: list[dict[str, Any]] = [{"pads": list(pads)} for pads in stairs]
    options += [{"pad": pads[0]} for pads in stairs if len(pads) == 1]
    if own:
        options += [{"pads": list(pads), "own_level": own} for pads in stairs if len(pads) >= 2]
    return options


def own_level_tiles(lengths: Floats) -> list[float]:
    """Tiles of prompts (n,) with enough rows for a level of their own; none where lengths are a grid."""
    tiles, rows = np.unique(np.ceil(lengths / OWN_LEVEL_TOKENS), return_counts=True)
    tiles = tiles[rows >= OWN_LEVEL_ROWS_LEAST]
    few, many = OWN_LEVEL_TILES
    if not few <= len(tiles) <= many or len(np.unique(lengths)) <= LENGTHS_A_TILE * len(tiles):
        return []
    return [float(tile) for tile in tiles]


def tokens_of(target: str, x: Floats) -> Floats:
    """The tokens a phase works through (n,)."""
    if target.startswith("prefill"):
        return np.asarray(x[:, 0])
    return np.asarray(x[:, 1] if target.startswith("decode") else x[:, 0] + x[:, 1])
