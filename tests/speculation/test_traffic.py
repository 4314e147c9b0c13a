"""Nsight Compute's CSV as it is, a profiler that is not here, and a Jetson's EMC load."""

import os
import sys
import time
from pathlib import Path

import pytest

from edgebench.errors import UserError
from edgebench.speculation import traffic as profile_memory
from edgebench.speculation.traffic import FeedLog, ProfilerHangs

HEADER = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size",'
    '"Device","CC","dram__bytes_read.sum","dram__bytes_write.sum",'
    '"dram__throughput.avg.pct_of_peak_sustained_elapsed","gpu__time_duration.sum"\n'
)
UNITS = '"","","","","","","","","","","","Mbyte","Kbyte","%","usecond"\n'
ROWS = (
    '"0","7","python3","127.0.0.1","mul_mat_q<int, 4>(char *, ""x"")","1","7","(32, 4, 1)","(4096, 1, 1)",'
    '"0","8.7","2,361.50","640.00","80.00","30.00"\n'
    '"1","7","python3","127.0.0.1","rms_norm_f32","1","7","(1024, 1, 1)","(1, 1, 1)",'
    '"0","8.7","0.50","n/a","20.00","10.00"\n'
)
FAKE_NCU = """#!{python}
import os, pathlib, sys
words = sys.argv[1:]
if "--import" in words:
    print(pathlib.Path(words[words.index("--import") + 1]).read_text())
elif os.environ.get("NCU_FAILS"):
    sys.exit("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission")
elif not os.environ.get("NCU_EMPTY"):
    report = pathlib.Path(words[words.index("--export") + 1])
    report.write_text(pathlib.Path(os.environ["NCU_CSV"]).read_text())
"""


def parsed(path: Path, text: str) -> dict:
    path.write_text(text)
    return profile_memory.parse_csv(path)


def test_the_wide_layout_is_added_up_over_kernels_with_its_units(tmp_path: Path) -> None:
    found = parsed(tmp_path / "a.csv", "==PROF== Connected to process 7\n" + HEADER + UNITS + ROWS)
    assert found["kernels"] == 2
    assert found["metrics"] == {
        "dram__bytes_read.sum": pytest.approx(2.362e9),
        "dram__bytes_write.sum": pytest.approx(640e3),
        # 30 us at 80 % and 10 us at 20 %
        "dram__throughput.avg.pct_of_peak_sustained_elapsed": pytest.approx(65.0),
        "gpu__time_duration.sum": pytest.approx(40e3),
    }


def test_base_units_and_the_older_layout(tmp_path: Path) -> None:
    base = UNITS.replace("Mbyte", "byte").replace("Kbyte", "byte").replace("usecond", "nsecond")
    assert parsed(tmp_path / "a.csv", HEADER + base + ROWS)["metrics"]["dram__bytes_read.sum"] == 2362.0
    rows = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n' + "".join(
        f'"{kernel}","k","dram__bytes_write.sum","Mbyte","1.5"\n' for kernel in range(3)
    )
    found = parsed(tmp_path / "b.csv", rows)
    assert (found["kernels"], found["metrics"]) == (3, {"dram__bytes_write.sum": 4.5e6})


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("byte", 1), ("Kbyte", 1e3), ("Gbyte", 1e9), ("sector", 1), ("msecond", 1e6), ("%", 1), ("", 1)],
)
def test_units(unit: str, factor: float) -> None:
    assert profile_memory.unit_factor(unit) == factor


@pytest.mark.parametrize("text", ["", "==PROF== nothing\n", HEADER + UNITS])
def test_a_file_without_kernels_is_told_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"a\.csv"):
        parsed(tmp_path / "a.csv", text)


def test_a_command_is_profiled_exported_and_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ncu, out = tmp_path / "ncu", tmp_path / "x.csv"
    ncu.write_text(FAKE_NCU.format(python=sys.executable))
    ncu.chmod(0o755)
    (tmp_path / "report.txt").write_text(HEADER + UNITS + ROWS)
    monkeypatch.setenv("NCU_CSV", str(tmp_path / "report.txt"))
    assert profile_memory.profile(["true"], out, str(ncu))["kernels"] == 2 and out.exists()
    monkeypatch.setenv("NCU_FAILS", "1")
    with pytest.raises(UserError, match="root"):
        profile_memory.profile(["true"], out, str(ncu))
    monkeypatch.delenv("NCU_FAILS")
    (tmp_path / "x.ncu-rep").unlink()
    monkeypatch.setenv("NCU_EMPTY", "1")
    with pytest.raises(UserError, match="nothing on the GPU"):
        profile_memory.profile(["true"], out, str(ncu))


def test_the_profiler_leaves_the_cards_clocks_as_they_are(tmp_path: Path) -> None:
    ncu, told = tmp_path / "ncu", tmp_path / "words"
    ncu.write_text(f'#!/bin/sh\necho "$*" >> {told}\nexit 1\n')
    ncu.chmod(0o755)
    with pytest.raises(UserError, match="status 1"):
        profile_memory.profile(["true"], tmp_path / "x.csv", str(ncu))
    assert "--clock-control none" in told.read_text()


def test_a_profiler_that_hangs_goes_with_all_it_started(tmp_path: Path) -> None:
    ncu, pids = tmp_path / "ncu", tmp_path / "pids"
    ncu.write_text(
        # A shell starts in no time: this must be there before the profiler is given up.
        f"#!/bin/sh\nsetsid sh -c 'sleep 600 & sleep 600' &\necho $$ $! > {pids}\nsleep 600\n"
    )
    ncu.chmod(0o755)
    with pytest.raises(ProfilerHangs, match=r"took more than 3 s .* --ncu_timeout"):
        profile_memory.profile(["true"], tmp_path / "x.csv", str(ncu), timeout_s=3)
    for pid in pids.read_text().split():
        until_s = time.monotonic() + 30
        while is_running(int(pid)) and time.monotonic() < until_s:
            time.sleep(0.02)
        assert not is_running(int(pid))


def test_a_slow_profiler_is_not_called_a_hanging_one(tmp_path: Path) -> None:
    """Nsight Compute 2025.3 told so of each kernel while 45 s were too few for it."""
    ncu = tmp_path / "ncu"
    ncu.write_text(
        "#!/bin/sh\necho '==PROF== Connected to process 812 (/usr/bin/python3.12)'\n"
        "for number in 0 1 2; do\n"
        '    echo "==PROF== Profiling \\"rms_norm_f32\\" - $number: 0%....100% - 2 passes"\n'
        "done\nsleep 600\n"
    )
    ncu.chmod(0o755)
    with pytest.raises(ProfilerHangs, match=r"ended at kernel 3: raise --ncu_timeout, or lower --ncu_tokens"):
        profile_memory.profile(["true"], tmp_path / "x.csv", str(ncu), timeout_s=3)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_without_a_profiler_it_says_that_it_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not here"):
        profile_memory.profile(["true"], tmp_path / "x.csv", str(tmp_path / "ncu"))


def test_emc_load_of_a_window_from_a_feeds_lines(tmp_path: Path) -> None:
    log = tmp_path / "feed.log"
    with FeedLog.opened(log) as kept:
        assert not log.exists()  # no feed, no file
        for t_s, load in ((1.0, 10), (2.0, 30)):
            kept.take(t_s, f"RAM 1/2MB EMC_FREQ {load}%@2133 VDD_IN 5000mW/5000mW")
    assert log.read_text().startswith("1.000000 RAM") and len(log.read_text().splitlines()) == 2
    kept.take(3.0, "too late: the cell is over")
    assert kept.lost and len(log.read_text().splitlines()) == 2
    found = profile_memory.emc_load(log)
    assert (found["emc_load_percent_mean"], found["emc_load_percent_max"]) == (20.0, 30)
    assert profile_memory.emc_load(log, t1=0)["reason"] == "no line in this window"
    log.write_text("1.0 VDD_IN 5000mW/5000mW\n")
    found = profile_memory.emc_load(log)
    assert found["emc_load_percent_mean"] is None and "only tegrastats" in found["reason"]
