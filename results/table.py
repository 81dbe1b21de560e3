"Write README's tables of results from results/*.json; `make figures` calls it."
import json
from pathlib import Path

root = Path(__file__).parent.parent


def load(name: str) -> dict:
    return json.loads((root / "results" / f"{name}.json").read_text())


def quality() -> list:
    rows = ["| digits, 2 minutes on 2 cores | evaluations | Fréchet distance to training set | nearest training digit |",
            "|---|--:|--:|--:|"]
    for name, label in (("digits", "PFGM, D = 1"), ("digits-D16", "PFGM++, D = 16")):
        run = load(name)
        made = run["generated"]
        rows.append(f"| {label}: {made['n']:,} samples | {run['nfe']} | {made['frechet']:.3f} | {made['nearest']:.2f} |")
    real = run["real_held_out"]
    return [*rows, f"| real, held out: {real['n']} digits | | {real['frechet']:.3f} | {real['nearest']:.2f} |"]


def few_evaluations() -> list:
    run = load("solvers")
    counts = [seed["nfe"] for seed in run["rk45"].values()]
    rows = ["| digits model, D = 1 | evaluations | Fréchet distance, in RK45's | rms distance from the true ends |",
            "|---|--:|--:|--:|",
            f"| RK45, tolerance 1e-4, as in the paper | {min(counts)}-{max(counts)} | 1 | "
            f"{sum(sum(seed['rms']) / len(seed['rms']) for seed in run['rk45'].values()) / len(counts):.4f} |"]
    for solver, heights, nfe in (("unipc", "fitted", 5), ("unipc", "fitted", 8), ("unipc", "fitted", 16), ("unipc", "log", 16),
                                 ("2m", "log", 16), ("heun", "log", 15), ("euler", "log", 16)):
        row, = (row for row in run["digits"] if (row["solver"], row["heights"], row["nfe"]) == (solver, heights, nfe))
        rows.append(f"| {solver}, heights {heights} | {nfe} | {row['ratio']:.2f} ± {row['ratio_sd']:.3f} | {row['rms']:.4f} |")
    return rows


def bits() -> list:
    run = load("bits_per_dim")
    figures, rows = run["figures"], ["| held-out digits, 17 levels | bits per dimension |", "|---|--:|"]
    for name, label in (("model, held out", "PFGM, D = 1, 2 minutes"), ("mixture of Gaussians", "best mixture of Gaussians"),
                        ("one Gaussian", "one Gaussian"), ("uniform", "nothing known")):
        error = f" ± {figures[name]['se_digits']:.3f}" if "se_digits" in figures[name] else ""
        rows.append(f"| {label} | {figures[name]['mean']:.3f}{error} |")
    return rows


def claims() -> list:
    rows = ["| experiment | part of the claim | in our run |", "|---|---|---|"]
    for path in sorted((root / "nbs" / "experiments").glob("[0-9]*.ipynb")):
        record = root / "results" / f"{path.stem}.json"
        title = json.loads(path.read_text())["cells"][0]["source"][0].strip("# \n")
        held = json.loads(record.read_text())["held"] if record.exists() else {"not run yet": None}
        for k, (part, value) in enumerate(held.items()):
            name = f"[{path.stem[:2]} {title}](nbs/experiments/{path.name})" if not k else ""
            rows.append(f"| {name} | {part} | {'' if value is None else 'held' if value else '**did not hold**'} |")
    return rows


TABLES = {"results": quality, "few evaluations": few_evaluations, "bits": bits, "claims": claims}


def render(text: str) -> str:
    "The README with every table written anew."
    for name, table in TABLES.items():
        before, rest = text.split(f"<!-- {name} -->\n", 1)
        after = rest.split(f"<!-- end of {name} -->", 1)[1]
        text = f"{before}<!-- {name} -->\n" + "\n".join(table()) + f"\n<!-- end of {name} -->{after}"
    return text


if __name__ == "__main__":
    readme = root / "README.md"
    readme.write_text(render(readme.read_text(encoding="utf-8")), encoding="utf-8")
