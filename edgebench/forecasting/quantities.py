"""Names of what is measured, fitted and predicted: times [ms], energies [J] of a request; and regressions."""

from __future__ import annotations

TIMES = ("prefill_ms", "decode_ms")
ENERGIES = ("prefill_energy_joule", "decode_energy_joule")
TOTALS = ("total_ms", "total_energy_joule")
TARGETS = (*TIMES, TOTALS[0], *ENERGIES, TOTALS[1])  # times first: the ramp of an energy needs them
PARTS = {TOTALS[0]: TIMES, TOTALS[1]: ENERGIES}  # total -> the phases that add up to it
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals
BOUNDS = ("mean", "low", "high")

# Regressions a model can be trained with; `best` takes per quantity the one that errs least on held-out rows.
BEST, ANALYTIC, TRANSFER = "best", "analytic", "transfer"
REGRESSIONS = (BEST, ANALYTIC, "linear", "polynomial", "random_forest", "xgboost")
# Ways to carry a model to another machine; `chosen` takes the one that held-out runs like best.
CHOSEN, SHRUNK = "chosen", "shrunk"
METHODS = (CHOSEN, SHRUNK, "two_parameter", "simple_scaling", "median_ratio", "through_origin")

LLAMA_CPP = "llama.cpp"  # an engine whose way to compute a prompt is known
UNKNOWN_INPUT = 1  # stands for prompts whose length a table does not tell
OWN_LEVEL_TOKENS = 64  # prompts in tiles of so many tokens may have a level of their own
