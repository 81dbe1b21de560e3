"""Attack the real program and print what came of it: `make faults`, ten minutes, `make faults QUICK=1` for one.

Kills, damaged files, files that would run code, disks that take no more. What counts is said in the last column: nothing
lost beyond the last save, one sentence and no traceback, no code run.
"""
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from pfgm.checkpoint import load_state
from pfgm.checks import InputError
from pfgm.config import TrainConfig
from pfgm.model import Model
from pfgm.sources import load
from pfgm.training import train

QUICK = bool(os.environ.get("QUICK"))
SMALL = dict(dataset="two_moons", width=16, device="cpu", save_minutes=0.0005)
COMMAND = [sys.executable, "-m", "pfgm.jobs", "--dataset", "two_moons", "--width", "16", "--device", "cpu", "--save_minutes",
           "0.0005", "--steps"]
TABLE, NOWHERE = [], subprocess.DEVNULL


def report(what: str, count: int, good: int, promise: str):
    TABLE.append((what, count, good, promise))
    print(f"{'ok' if good == count else 'FAILED':7}{what:44}{good:>5} of {count:<5}{promise}", flush=True)


def weights(folder: Path) -> dict:
    return load_state(folder)["average"]


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def kills(place: Path):
    "Kill a run at random moments, some of them inside a save; then let it end, and compare with one that nobody disturbed."
    (count, steps), rng = (6, 3000) if QUICK else (50, 20_000), random.Random(0)
    run, lost, inside = place / "killed", 0, 0
    for turn in range(count):
        before = load_state(run)["step"] if (run / "state.pt").exists() else 0
        child = subprocess.Popen([*COMMAND, str(steps), "--run_dir", str(run)], stdout=NOWHERE, stderr=NOWHERE)
        while child.poll() is None and not ((run / "state.pt").exists() and load_state(run)["step"] > before):
            time.sleep(0.05)
        time.sleep(rng.random() / 10)
        wanted, end = turn * 5 < 2 * count, time.monotonic() + 5
        while wanted and child.poll() is None and time.monotonic() < end and not [*run.glob(".state.pt.*")]:
            pass
        inside += bool([*run.glob(".state.pt.*")])
        child.send_signal(signal.SIGKILL)
        child.wait()
        lost += not load_state(run) or load_state(run)["step"] <= before
    report("kill -9 of a run, at any moment", count, count - lost, f"a later state than before; {inside} inside a save")
    for folder in (run, place / "whole"):
        subprocess.run([*COMMAND, str(steps), "--run_dir", str(folder)], check=True, capture_output=True)
    report("the end of the killed run", 1, same(weights(run), weights(place / "whole")), "bit-equal to an undisturbed one")


def damages(whole: bytes) -> dict:
    "Thirty ways to damage a file."
    rng, n = random.Random(1), len(whole)
    found = {"empty": b"", "one byte": b"x", "text": b"words\n", "zeros": bytes(n)}
    found |= {"json list": b"[1, 2]", "pickle": pickle.dumps([1]), "doubled": whole + whole, "reversed": whole[::-1]}
    found |= {f"cut at {k}/8": whole[:n * k // 8] for k in range(1, 8)}
    for place in rng.sample(range(n), 8):
        found[f"bit {place}"] = whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1:]
    for place in rng.sample(range(max(7, n - 64)), 7):
        found[f"zeros at {place}"] = whole[:place] + bytes(64) + whole[place + 64:]
    return found


def used(folder: Path, config: TrainConfig) -> str:
    "What a damaged run folder leads to: a sentence, a model like the undamaged one, or a fault."
    try:
        train(config, progress=False)
        x = Model.load(folder).sample(8, steps=4)
        return "model" if torch.isfinite(x).all() else "nonsense"
    except InputError as error:
        return "sentence" if "\n" not in str(error) else "page"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def damaged_files(place: Path):
    config = TrainConfig(**SMALL, steps=40, run_dir=str(place / "run"))
    train(config, progress=False)
    shutil.copytree(place / "run", place / "kept")
    for name in ("state.pt", "state-1.pt", "network.safetensors", "log.jsonl"):
        good, ways = 0, damages((place / "kept" / name).read_bytes())
        for way, content in ways.items():
            for steps in (40, 44):  # a finished run, and one that goes on
                shutil.rmtree(place / "run")
                shutil.copytree(place / "kept", place / "run")
                (place / "run" / name).write_bytes(content)
                found = used(place / "run", TrainConfig(**SMALL, steps=steps, run_dir=str(place / "run")))
                good += found in ("model", "sentence")
                if found not in ("model", "sentence"):
                    print(f"       {name}, {way}, {steps} steps: {found}")
        report(f"{name}, damaged", 2 * len(ways), good, "a sentence, or the state before it")


class Payload:
    def __reduce__(self):
        return os.system, (f"touch {Payload.path}",)


def code_in_files(place: Path):
    Payload.path = place / "owned"
    attack, good, run = pickle.dumps(Payload()), 0, place / "attacked"
    train(TrainConfig(**SMALL, steps=4, run_dir=str(run)), progress=False)
    torch.save(dict(step=1, config=Payload()), place / "inside.pt")
    np.save(place / "inside.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    inside = (place / "inside.pt").read_bytes()
    files = [(run / "state.pt", attack), (run / "state.pt", inside), (run / "network.safetensors", attack),
             (run / "log.jsonl", attack),
             (place / "x.npy", attack), (place / "y.npy", (place / "inside.npy").read_bytes()), (place / "z.npz", attack),
             (place / "checkpoint_1.pth", inside), (place / "checkpoint_2.pth", attack), (place / "w.pkl", attack)]
    for path, content in files:
        path.write_bytes(content)
        with suppress(InputError):
            if path.parent == run:
                used(run, TrainConfig(**SMALL, steps=6, run_dir=str(run)))
            elif path.suffix == ".pth":
                Model.load(path)
            else:
                load(str(path))
        good += not Payload.path.exists()
    report("files that would run code", len(files), good, "nothing runs")


def full_disks(place: Path):
    "A disk of 1 MB that fills up, and a folder that disappears."
    disk = place / "disk"
    disk.mkdir()
    config = TrainConfig(**SMALL | dict(width=64), steps=2000, run_dir=str(disk / "run"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True).returncode == 0:
        try:
            found = used(disk / "run", config)
            report("a disk without room", 1, found == "sentence", f"a sentence ({found})")
        finally:
            subprocess.run(["umount", disk], check=True)
    else:
        print("       a disk without room: needs the right to mount one here")
    gone = place / "gone"
    threading.Timer(4, lambda: shutil.rmtree(gone)).start()
    found = used(gone, TrainConfig(**SMALL, minutes=1, run_dir=str(gone)))
    report("a folder that disappears in training", 1, found == "sentence", f"a sentence ({found[:60]})")


def long_life(place: Path):
    "Thousands of steps and hundreds of calls: memory and open files stay."
    def handles() -> tuple:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024, len(os.listdir("/proc/self/fd"))

    model = train(TrainConfig(**SMALL, steps=500), progress=False)
    model.sample(64)
    before = handles()
    steps, calls = (500, 50) if QUICK else (5000, 500)
    train(TrainConfig(**SMALL, steps=steps), progress=False)
    for _ in range(calls):
        model.sample(8, steps=4)
    after = handles()
    report(f"{steps:,} steps and {calls} calls of sample", 1, after[0] < before[0] + 60 and after[1] <= before[1],
           f"memory {before[0]:.0f} to {after[0]:.0f} MiB, {before[1]} to {after[1]} open files")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for attack in (damaged_files, code_in_files, full_disks, long_life, kills):
            part = Path(folder) / attack.__name__
            part.mkdir()
            attack(part)
    sys.exit(any(good != count for _, count, good, _ in TABLE))
