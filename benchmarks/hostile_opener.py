"""Run `leadapron inspect` in one forked process after another, for `hostile_models`.

The command is carried out once in this process, so that all that it imports is there. A line of
JSON on standard input names a folder and what is typed there, the first time of a genuine model;
one on standard output says how the process ended.
"""

import atexit
import contextlib
import gc
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

from leadapron.cli import main, run

END = 300
"""Seconds after which a process is ended."""


def carry_out(folder: Path, typed: list[str]) -> None:
    """Become the command, with its outputs in files of the folder."""
    os.setsid()
    os.chdir(folder / "model")
    for number, name in ((0, os.devnull), (1, folder / "out"), (2, folder / "err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.argv = ["leadapron", "inspect", *typed]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        atexit._run_exitfuncs()
        os._exit(end.code)  # taking a copy of this process apart costs more than most models


def serve() -> None:
    """Fork for each line."""
    asked = json.loads(sys.stdin.readline())
    os.chdir(Path(asked["folder"]) / "model")
    with contextlib.redirect_stdout(io.StringIO()):
        run(["inspect", *asked["typed"]])
    gc.freeze()
    print(json.dumps({"processor": time.process_time()}), flush=True)
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            carry_out(Path(asked["folder"]), asked["typed"])
        signal.signal(signal.SIGALRM, lambda *_, pid=child: os.killpg(pid, signal.SIGKILL))
        signal.alarm(END)
        _, status, used = os.wait4(child, 0)
        signal.alarm(0)
        facts = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
            "processor": used.ru_utime + used.ru_stime,
            "memory": used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss << 10,
        }
        print(json.dumps(facts), flush=True)


serve()
