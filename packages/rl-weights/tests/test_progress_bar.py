"""What the command line shows while it works, on a real terminal and without one."""

import os
import re
import subprocess
import sys
import termios
import threading

from tiny_folder import write_model

from rl_weights.progress_bar import bytes_bar, count_bar


def run_on_terminal(*command: str) -> tuple[int, str]:
    """The exit code, and what a terminal got that is the command's standard error."""
    control, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    shown = bytearray()

    def read() -> None:
        try:
            while more := os.read(control, 4096):
                shown.extend(more)
        except OSError:
            pass  # so a terminal ends whose other side is closed

    reader = threading.Thread(target=read)
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment) as process:
        os.close(terminal)
        reader.start()
        code = process.wait(120)
        reader.join(10)
    os.close(control)
    return code, shown.decode()


def test_a_conversion_on_a_terminal_draws_a_bar_with_bytes_and_their_speed(tmp_path):
    write_model(tmp_path / "hf")
    words = ["convert", "--hf-checkpoint", str(tmp_path / "hf"), "--save", str(tmp_path / "megatron")]
    code, shown = run_on_terminal(sys.executable, "-m", "rl_weights", *words)
    assert code == 0, shown
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").split("\n")
    last = [frame.strip() for frame in frames if frame.strip()][-1]
    assert re.fullmatch(r"converting \S+ (\d+\.\d)/\1 kB \d+(\.\d+)? [kMG]?B/s 0:00:00", last), last


def test_without_a_terminal_there_are_plain_lines_now_and_then(capsys):
    with bytes_bar("converting", line_every_s=0) as advance:
        advance(1_500_000, 3_000_000)
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"converting: 1\.5 MB of 3\.0 MB, \d[\d.,]* \wB/s", line)
    with count_bar("verifying", line_every_s=0) as advance:
        advance(3, 7)
        advance(7, 7)
    assert capsys.readouterr().err == "verifying: 3 of 7, 0 s\nverifying: 7 of 7, 0 s\n"


def test_without_a_terminal_work_that_is_soon_done_and_ranks_that_are_not_shown_write_nothing(capsys):
    with bytes_bar("converting") as advance:
        advance(1, 2)
    with bytes_bar("converting", is_shown=False, line_every_s=0) as advance:
        advance(1, 2)
    assert capsys.readouterr().err == ""
