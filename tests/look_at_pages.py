#!/usr/bin/env python3
"""Pictures of the report at 1, 4, 40 and 300 models: on a screen, on a phone, dark and on paper. By hand.

Makes a campaign of spec size (made_campaign.py: 20 tasks, 5 levels, 3 repeats), analyses it,
and draws the report of one and of four models from its records, of 40 and 300 from an analysis
made of the first (tests/fakes/made_analysis.py). Needs chromium and pdftoppm (docs/demo_report.sh).

Example:
    python tests/look_at_pages.py /tmp/looks
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edgebench.reporting.words import in_words  # noqa: E402 - found from any folder
from tests.fakes.made_analysis import with_models  # noqa: E402

MODELS = {
    1: ["gemma-2-2b-it"],
    4: ["qwen1.5-1.8b-chat", "gemma-2-2b-it", "Phi-3.5-mini-instruct", "Qwen3-4B"],
}
MADE = (40, 300)


def run(*command: object) -> None:
    """One command; a failure ends this script."""
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def analyse(folder: Path, models: list[str]) -> list[object]:
    """A made campaign with its analysis; what report_page needs to know of it."""
    run(sys.executable, ROOT / "tests/fakes/made_campaign.py", folder, "--models", *models)
    runs, scores = folder / "runs_llamacpp.jsonl", folder / "scores_mtbench.csv"
    analysis = folder / "analysis.json"
    script = ROOT / "companions/analyze_levels.py"
    run(sys.executable, script, "--runs", runs, "--scores", scores, "--out", analysis)
    return ["--runs", runs, "--analysis", analysis]


def make(folder: Path, first: Path, count: int) -> list[object]:
    """An analysis of so many models, made from that of one."""
    folder.mkdir(parents=True, exist_ok=True)
    analysis = with_models(json.loads(first.read_text(encoding="utf-8")), count)
    path = folder / "analysis.json"
    path.write_text(json.dumps(analysis | in_words(analysis)), encoding="utf-8")
    return ["--analysis", path]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outdir", type=Path)
    outdir = parser.parse_args().outdir
    files = {count: analyse(outdir / str(count), models) for count, models in MODELS.items()}
    files |= {count: make(outdir / str(count), outdir / "1" / "analysis.json", count) for count in MADE}
    for count, given in files.items():
        page = outdir / str(count) / "report.html"
        run(sys.executable, ROOT / "companions/report_page.py", *given, "--out", page)
        run(ROOT / "docs/demo_report.sh", "--looks", page, outdir / str(count))
        print(f"{count} models: {outdir / str(count)}/screen.png phone.png dark.png paper-*.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
