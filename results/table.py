"Write README's table of results from results/*.json; `make figures` calls it."
import json
from pathlib import Path

root = Path(__file__).parent.parent
rows = ["| digits, 2 minutes on 2 cores | evaluations | Fréchet distance to training set | nearest training digit |",
        "|---|--:|--:|--:|"]
for name, label in (("digits", "PFGM, D = 1"), ("digits-D16", "PFGM++, D = 16")):
    run = json.loads((root / "results" / f"{name}.json").read_text())
    rows.append(f"| {label}: {run['generated']['n']:,} samples | {run['nfe']} | {run['generated']['frechet']:.3f} | "
                f"{run['generated']['nearest']:.2f} |")
rows.append(f"| real, held out: {run['real_held_out']['n']} digits | | {run['real_held_out']['frechet']:.3f} | "
            f"{run['real_held_out']['nearest']:.2f} |")
readme = root / "README.md"
before, rest = readme.read_text(encoding="utf-8").split("<!-- results -->\n", 1)
after = rest.split("<!-- end of results -->", 1)[1]
readme.write_text(f"{before}<!-- results -->\n" + "\n".join(rows) + f"\n<!-- end of results -->{after}", encoding="utf-8")
