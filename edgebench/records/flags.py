"""What a flag of a run says, and what follows from it for whoever uses the run.

The flags that keep a run out of every mean, and why, are HARD_FLAG_MEANINGS of run.py; those here are
remarks: the run counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgebench.records.run import HARD_FLAG_MEANINGS

SOFT_FLAG_MEANINGS = {
    # the prompt
    "control_tokens_in_prompt": "text of the prompt was read as control tokens: the model saw other turns",
    "eos_after_prompt": "the tokenizer ends the prompt with an end of sequence: answers may be odd",
    "prompt_altered_by_tokenizer": "the tokenizer changed characters of the prompt before the model read it",
    "system_in_user": "the template knows no system role: the text was put before the user's",
    "thinking_switch_missing": "the template cannot switch thinking on or off: do not compare as if it could",
    # the answer
    "truncated_output": "cut at the token limit: length, time and energy are those of the limit",
    "cut_in_thinking": "cut while still thinking: there is no answer to judge",
    "empty_output": "the answer is empty: time and energy are those of reading the prompt",
    # the machine
    "throttled": "the board throttled: time and energy are those of a hot board",
    # power and energy
    "no_power": "no power was measured: the run counts for time and tokens, not for energy",
    "simulated_power": "the power was simulated or replayed: its energy is no measurement",
    "few_power_samples": "fewer than five power samples: its energy is rough",
    "power_gap": "power samples are missing in between: its energy bridges the gap",
    "extrapolated_edge": "no power sample beyond an edge: the last value was held",
    "zero_total": "lines of an unreadable sensor were dropped",
    "implausible_power": "lines of an unreadable sensor were dropped",
    "subrail_above_total": "a part draws more than the whole: check the rail's labels before using energy",
    "rail_missing": "lines without the total's rail were dropped",
    "stale_power": "the sensor repeated itself for over ten seconds: its energy is not to be trusted",
    "feed_restarted": "the power feed was started again during the run: its energy bridges the gap",
    "negative_energy": "less power than idle: kept with its sign, as noise must average out",
    "idle_drift": "idle power moved during the block: it is interpolated, the uncertainty is wider",
    "idle_unstable": "idle power was not steady when it was measured: the uncertainty is wider",
}
INVALID = "invalid_"  # and the field's name: a value that is none, as -1 or "ERROR"


def what_flags_mean(flags: Iterable[str]) -> str:
    """One sentence a flag that has a meaning here, hard ones first.

    >>> what_flags_mean(["truncated_output", "timeout"])
    'stopped before the answer ended; cut at the token limit: length, time and energy are those of the limit'
    >>> what_flags_mean(["invalid_latency_ms", "unheard_of"])
    'the record has no usable latency_ms'
    """
    named = set(flags)
    told = [meaning for flag, meaning in HARD_FLAG_MEANINGS.items() if flag in named]
    told += [meaning for flag, meaning in SOFT_FLAG_MEANINGS.items() if flag in named]
    invalid = sorted(flag.removeprefix(INVALID) for flag in named if flag.startswith(INVALID))
    told += [f"the record has no usable {', '.join(invalid)}"] if invalid else []
    return "; ".join(dict.fromkeys(told))
