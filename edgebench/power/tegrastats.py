"""The grammar of power lines: what tegrastats prints on any JetPack, and every feed that speaks as it does.

Owns which rails make a board's total and what one step of its sensors is worth. Power in mW, temperatures in
Celsius. Knows nothing of time, processes or files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from edgebench.board.thermal import SENSOR_OFF_C

MAX_POWER_MW = 5e6  # more is a wrong unit (hwmon prints microwatt), not a computer
DROPPED = frozenset(("zero_total", "implausible_power"))  # no sample at all; other doubts flag the window

# Which rails make a board's total: scope, and what one step of its sensors is worth. INA3221: 40 uV over the
# shunt, so 8 mA at 5 mOhm and 20 mA at 2 mOhm, times the rail's voltage, added up over the rails.
TOTAL_RULES: dict[str, tuple[str, float | None]] = {
    "VDD_IN": ("module", 40.0),  # TX1, TX2, Xavier NX, Orin Nano and NX: 8 mA x 5 V
    "POM_5V_IN": ("board", 40.0),  # Nano 4GB
    "VIN": ("board", None),  # Thor with an INA238: module and carrier
    # AGX Orin. VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0 and would count twice. 20 mA x (20 + 20 + 5 V)
    "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0": ("module", 898.0),
    # AGX Xavier. SYS5V alone is the 5 V parts without CPU, GPU and memory. 8 mA x (5 x 19.4 + 5 V)
    "GPU+CPU+SOC+CV+VDDRQ+SYS5V": ("module", 815.0),
    "VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0": ("module", 884.0),  # Thor without VIN: another scope than with it
}
RULE_RAILS = {rail: frozenset(rail.split("+")) for rail in TOTAL_RULES}

# NAME 5040mW/5016mW[/5100mW] (JetPack 5 on) or NAME 920/920 (JetPack 4, where RAM, SWAP and IRAM look alike).
# Only the first number is a sample: the second is the mean since tegrastats started, and may be cut off. Each
# pattern begins with a plain space: the regex engine skips to it instead of trying every position.
RAIL = re.compile(
    r" (?!I?RAM |SWAP )([A-Z][A-Z0-9_]+) +(-?\d{1,9})(?:\.\d+)?(?:mW(?:/\S*)?|/(?:-?\d+(?:/-?\d*)?)?)(?!\S)",
    re.A,
)
TEMPERATURE = re.compile(r" ([A-Za-z][\w-]*)@(-?\d{1,4}(?:\.\d{1,6})?)C(?![^\s/])", re.A)
LOADS = {
    "gpu_load_percent": re.compile(r" GR3D_FREQ (\d{1,3})%", re.A),
    "emc_load_percent": re.compile(r" EMC_FREQ (\d{1,3})%", re.A),
    "ram_used_mb": re.compile(r" RAM (\d{1,9})/\d", re.A),
    "ram_total_mb": re.compile(r" RAM \d+/(\d{1,9})MB", re.A),
}
BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
FIRST_OF_MARKS = b"\xef\xff\xfe"


class Reading(NamedTuple):
    """One line of a feed."""

    total_mw: int | None
    total_rail: str | None  # a rail or a sum of rails
    scope: str  # board, module; none without a total
    rails: dict[str, int]  # mW, instantaneous
    temps_c: dict[str, float]
    loads: dict[str, int | None]  # LOADS


def parse_line(line: str) -> Reading:
    """Read one line of tegrastats (any JetPack) or of a feed in its grammar; unknown words are skipped."""
    line = " " + line.replace("\t", " ")
    rails = {name: int(value) for name, value in RAIL.findall(line)}
    temps_c = {name: c for name, value in TEMPERATURE.findall(line) if (c := float(value)) > SENSOR_OFF_C}
    loads = {key: int(found[1]) if (found := word.search(line)) else None for key, word in LOADS.items()}
    for rail, names in RULE_RAILS.items():
        if rails.keys() >= names:
            return Reading(sum(rails[n] for n in names), rail, TOTAL_RULES[rail][0], rails, temps_c, loads)
    return Reading(None, None, "none", rails, temps_c, loads)


def doubts(total_mw: float, rails: Mapping[str, int]) -> tuple[str, ...]:
    """Words for what cannot be right in a sample."""
    if total_mw == 0:
        return ("zero_total",)  # tegrastats prints 0 for a sensor it cannot read
    if not 0 < total_mw < MAX_POWER_MW:
        return ("implausible_power",)
    return ("subrail_above_total",) if max(rails.values(), default=0) > total_mw else ()


def decode_line(raw: bytes) -> str:
    r"""One line, cut at its newline byte, as text. UTF-16 too, of either byte order, with a mark or without.

    PowerShell writes a redirected output as UTF-16. The grammar is ASCII: there every second byte is zero,
    and without the zeros the line is what was printed, wherever the newline byte cut it.

    >>> decode_line("VDD_IN 5040mW\n".encode("utf-16-le")[:-1])
    'VDD_IN 5040mW'
    """
    if raw[:1] in FIRST_OF_MARKS and raw.startswith(BYTE_ORDER_MARKS):
        raw = raw[3:] if raw.startswith(BYTE_ORDER_MARKS[0]) else raw[2:]
    if b"\0" in raw and is_every_second_zero(raw):
        raw = raw.replace(b"\0", b"")
    return raw.decode("utf-8", "replace").rstrip("\r\n")


def is_every_second_zero(raw: bytes) -> bool:
    """Whether bytes are ASCII text as UTF-16. The hole that a power cut leaves in a log is all zeros."""
    zeros = sorted((raw[::2].count(0), raw[1::2].count(0)))
    return zeros[0] == 0 and 2 * zeros[1] >= len(raw) - 2


def encoding_of(head: bytes) -> str:
    r"""The encoding of a file of power lines or samples, from its first bytes.

    >>> encoding_of("05-13-2026".encode("utf-16-be")), encoding_of(b"05-13-2026")
    ('utf-16-be', 'utf-8-sig')
    """
    if head.startswith(BYTE_ORDER_MARKS[1:]):
        return "utf-16"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if 4 * max(even, odd) > len(head):  # more than half of every second byte
        return "utf-16-be" if even > odd else "utf-16-le"
    return "utf-8-sig"
