"""Times [ms] and energies [J] of a request: their names wherever they are measured, fitted or predicted."""

from __future__ import annotations

TIMES = ("prefill_ms", "decode_ms")
ENERGIES = ("prefill_energy_joule", "decode_energy_joule")
TOTALS = ("total_ms", "total_energy_joule")
TARGETS = (*TIMES, TOTALS[0], *ENERGIES, TOTALS[1])  # times first: the ramp of an energy needs them
PARTS = {TOTALS[0]: TIMES, TOTALS[1]: ENERGIES}  # total -> the phases that add up to it
LEVELS = (0.5, 0.8, 0.9, 0.95)  # of intervals
BOUNDS = ("mean", "low", "high")
