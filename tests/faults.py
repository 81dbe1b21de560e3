"""Attack the real program and print what came of it: `make faults`, most of an hour; `make faults QUICK=1`, ten minutes.

Kills, damaged files, files that would run code, disks that take no more, bad inputs. What counts is said in the last
column: nothing lost beyond the last save, one sentence and no traceback, no code run.
"""
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import psutil
import torch
from bad_inputs import COMMANDS, NOTEBOOKS, bad_things, calls

from pfgm.checkpoint import load_state
from pfgm.checks import InputError
from pfgm.config import TrainConfig
from pfgm.model import Model
from pfgm.sources import load
from pfgm.training import train

QUICK = bool(os.environ.get("QUICK"))
SMALL = dict(dataset="two_moons", width=16, device="cpu", save_minutes=0.0005)
NBS = Path(__file__).parent.parent / "nbs"
TABLE, NOWHERE = [], subprocess.DEVNULL


def report(what: str, count: int, good: int, promise: str):
    TABLE.append((what, count, good, promise))
    print(f"{'ok' if good == count else 'FAILED':7}{what:44}{good:>5} of {count:<5}{promise}", flush=True)


def weights(folder: Path) -> dict:
    return load_state(folder)["average"]


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def ways(run: Path, steps: int, save_minutes: float = 0.0005) -> dict:
    "Three lines that train into a folder."
    options = dict(dataset="two_moons", width=16, device="cpu", save_minutes=save_minutes, steps=steps, run_dir=run)
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    given = [word for name, value in (options | dict(watch=False, n_samples=64)).items() for word in ("-p", name, str(value))]
    python, launcher = [sys.executable, "-m"], ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                                                "--num_machines", "1", "--main_process_port", "0", "-m"]
    return {"a run": [*python, "pfgm.jobs", *words], "two processes": [*python, *launcher, "pfgm.jobs", *words],
            "papermill": [*python, "papermill", str(NBS / "train.ipynb"), f"{run}.ipynb", *given]}


def kill(child: subprocess.Popen):
    "kill -9 of a program and of all that it started."
    for each in [child, *psutil.Process(child.pid).children(recursive=True)] if child.poll() is None else []:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    child.wait()


def saved(run: Path) -> int:
    "The step that a run can go on from, 0 if none; the run may be writing it at this moment."
    with suppress(InputError):
        return (load_state(run) or {"step": 0})["step"]
    return 0


def kills(place: Path):
    "Kill runs at random moments, some of them inside a save; then let them end, and compare with what nobody disturbed."
    for way, count in {"a run": 2, "two processes": 1, "papermill": 1}.items() if QUICK else {
            "a run": 30, "two processes": 10, "papermill": 10}.items():
        run, steps, rng, lost, inside = place / way.replace(" ", "-"), 200 * count + 400, random.Random(0), 0, 0
        command = ways(run, steps)[way]
        for turn in range(count):
            before = saved(run)
            child = subprocess.Popen(command, stdout=NOWHERE, stderr=NOWHERE)
            try:
                while child.poll() is None and saved(run) <= before:
                    time.sleep(0.05)
                time.sleep(rng.random() / 10)
                wanted, end = turn * 2 < count, time.monotonic() + 5
                while wanted and child.poll() is None and time.monotonic() < end and not [*run.glob(".state.pt.*")]:
                    pass
            finally:
                kill(child)
            inside += bool([*run.glob(".state.pt.*")])
            lost += saved(run) <= before
        report(f"kill -9 of {way}, at any moment", count, count - lost, f"a later state than before; {inside} inside a save")
        whole = place / f"{run.name}-whole"
        for each in (command, ways(whole, steps, 1)[way]):
            subprocess.run(each, check=True, capture_output=True)
        report(f"the end of {way}, killed", 1, same(weights(run), weights(whole)), "bit-equal to an undisturbed one")


def one_sentence(command: list, words: str, place: Path) -> str:
    "Empty if a command ends with one sentence that holds these words; else what it said."
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stderr.splitlines() if re.match(r"\w*(Error|Exception): ", line)]
    fine = done.returncode and len(lines) == 1 and lines[0].startswith("InputError: ") and words in lines[0]
    return "" if fine else done.stderr[-300:]


def bad_inputs(place: Path):
    "Wrong values, names and files, for the notebooks, the command line and the package."
    bad_things(place)
    notebooks = [([sys.executable, "-m", "papermill", str(NBS / f"{name}.ipynb"), f"out-{k}.ipynb",
                   *[word for item in parameters.items() for word in ("-p", *map(str, item))]], words)
                 for k, (name, parameters, words) in enumerate(NOTEBOOKS)]
    lines = [([sys.executable, "-m", "pfgm.jobs", *options.split()], words) for options, words in COMMANDS]
    for what, commands in (("notebooks", notebooks), ("the command line", lines)):
        commands = commands[::8] if QUICK else commands
        with ThreadPool(2) as pool:
            found = pool.map(lambda each: one_sentence(*each, place), commands)
        for (command, _), said in zip(commands, found):
            if said:
                print(f"       {command}: {said}")
        report(f"bad inputs to {what}", len(found), found.count(""), "one sentence")
    good, table = 0, calls(place)
    for name, call, words in table:
        try:
            said = f"not refused: {call()}"
        except Exception as error:
            said = "" if isinstance(error, InputError) and words in str(error) else f"{type(error).__name__}: {error}"
        good += not said
        if said:
            print(f"       {name}: {said}")
    report("bad inputs to the package", len(table), good, "one sentence")
    report("runs that any of these began", 1, [path.parent.name for path in place.rglob("state.pt")] == ["run"], "none")


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
        for attack in (damaged_files, code_in_files, full_disks, long_life, bad_inputs, kills):
            part = Path(folder) / attack.__name__
            part.mkdir()
            attack(part)
    sys.exit(any(good != count for _, count, good, _ in TABLE))
