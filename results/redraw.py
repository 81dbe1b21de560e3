"How long the explorer takes to redraw 200 charges and 500 particles, into results/redraw.json."
import json
import os
import platform
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import torch  # noqa: E402

from pfgm.explorer import HEIGHTS, Explorer, Settings  # noqa: E402

explorer = Explorer()
controls = explorer.controls
controls["charges"].value = "eight_gaussians"


def drag(k: int):
    explorer.charges = explorer.charges + 0.01
    explorer.redraw()


def seconds(act, count: int = 15) -> dict:
    wall, processor = [], []
    for k in range(count):
        start = time.perf_counter(), time.process_time()
        act(k)  # redraws and encodes the picture
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {f"{name}_{what}": round(function(values), 3) for name, values in (("wall", wall), ("processor", processor))
            for what, function in (("median", statistics.median), ("max", max))}


def move(name: str, first: int):
    return lambda k: setattr(controls[name], "index", first + k)


table = dict(
    drag=seconds(drag), z=seconds(move("z", 20)), D=seconds(move("D", 1), 7),
    steps=seconds(lambda k: setattr(controls["steps"], "value", 20 + k)),
    extra=seconds(lambda k: setattr(controls["extra"], "value", k % 2 == 1)))
for solver in ("euler", "heun", "rk45"):
    controls["solver"].value = solver
    table[f"z, {solver}"] = seconds(move("z", len(HEIGHTS) - 20))
about = dict(charges=len(explorer.charges), particles=Settings.particles, machine=platform.platform(), cores=os.cpu_count(),
             load=round(os.getloadavg()[0], 1), threads=torch.get_num_threads(), matplotlib=matplotlib.__version__)
(Path(__file__).parent / "redraw.json").write_text(json.dumps(about | dict(seconds=table), indent=1) + "\n")
print(json.dumps(table, indent=1))
