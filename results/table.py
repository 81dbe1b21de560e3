"Write README's tables of results from results/*.json; `make figures` and `make experiments` call it."
import json
from pathlib import Path

root = Path(__file__).parent.parent


def load(name: str) -> dict:
    return json.loads((root / "results" / f"{name}.json").read_text(encoding="utf-8"))


def number(found: dict, digits: int = 3) -> str:
    if found["mean"] >= 100:  # a few stray lines
        digits = 0
    spread = "" if found["sd"] is None else f" ± {found['sd']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{spread}"


def quality() -> list:
    run, bits = load("01_quality"), load("02_bits_per_dim")["figures"]
    found = load("published")["figures"]
    published = {row["ours"]: {} for row in found if "ours" in row}
    for row in found:
        published.get(row.get("ours"), {}).update(row)
    rows = ["| method | evaluations | Fréchet distance | score | Fréchet distance, UniPC with 16 | bits per dimension "
            "(from one height) | published on CIFAR-10: FID, IS, evaluations, bits |", "|---|--:|--:|--:|--:|--:|---|"]
    for name in run["methods"]:
        own, same = (run["figures"][f"{name}, {solver}"] for solver in ("own", "UniPC"))
        known, cost = published.get(name), ""
        if f"{name}, own height" in bits:
            cost = number(bits[f"{name}, own height"]) + " ({:.3f})".format(bits[f"{name}, common height"]["mean"])
        theirs = ", ".join(f"{known[what]:.{digits}f}" if what in known else "–" for what, digits in
                           (("FID", 2), ("IS", 2), ("NFE", 0), ("bits_per_dim", 2))) if known else ""
        rows.append(f"| {name} | {own['nfe']['mean']:.0f} | {number(own['classifier frechet'])} | "
                    f"{number(own['classifier score'], 2)} | {number(same['classifier frechet'])} | "
                    f"{cost} | {theirs} |")
    real, floor = run["real"]["held_out"], run["real"]["floor"]
    rows.append(f"| real digits, held out | | {real['classifier frechet']:.3f} | {real['classifier score']:.2f} | | | |")
    rows.append(f"| {run['n']:,} training digits, drawn again | | {floor['classifier frechet']:.3f} | | | | |")
    for name in ("mixture of Gaussians", "one Gaussian", "uniform"):
        rows.append(f"| {'nothing known' if name == 'uniform' else name} | | | | | {bits[name]['mean']:.3f} | |")
    return rows


def quick_start() -> list:
    rows = ["| 4,500 digits of 28 x 28, 2 cores | evaluations | Fréchet distance | by classifier | sure | nearest digit |",
            "|---|--:|--:|--:|--:|--:|"]
    for name, label in (("mnist5k", "PFGM, D = 1, 2 minutes"), ("mnist5k-D16", "PFGM++, D = 16, 2 minutes"),
                        ("mnist5k-10", "PFGM, D = 1, 10 minutes")):
        run = load(name)
        rows.append(f"| {label}: {run['generated']['n']} samples | {run['nfe']} | {scores(run['generated'])} |")
    rows.append(f"| real, held out: {run['real_held_out']['n']} | | {scores(run['real_held_out'])} |")
    return [*rows, f"| training digits, drawn again: {run['drawn_again']['n']} | | {scores(run['drawn_again'])} |"]


def scores(found: dict) -> str:
    return f"{found['frechet']:.2f} | {found['classifier']:.2f} | {found['sure']:.0%} | {found['nearest']:.2f}"


def few_evaluations() -> list:
    record = load("04_solvers")
    run = record["figures"]
    counts = [seed["nfe"] for seed in run["rk45"].values()]
    rows = ["| PFGM, trained on digits | evaluations | Fréchet distance, in RK45's | rms distance from the true ends |",
            "|---|--:|--:|--:|",
            f"| RK45, tolerance 1e-4, as in the paper | {'-'.join(map(str, sorted({min(counts), max(counts)})))} | 1 | "
            f"{sum(seed['rms'] for seed in run['rk45'].values()) / len(counts):.4f} |"]
    for solver, heights, nfe in (("unipc", "fitted", 5), ("unipc", "fitted", 8), ("unipc", "fitted", 16), ("unipc", "log", 16),
                                 ("2m", "log", 16), ("heun", "log", 15), ("euler", "log", 16)):
        row, = (row for row in run["digits"] if (row["solver"], row["heights"], row["nfe"]) == (solver, heights, nfe))
        rows.append(f"| {solver}, heights {heights} | {nfe} | {row['ratio']:.2f} ± {row['ratio_sd']:.3f} | {row['rms']:.4f} |")
    if "speedup" in run:
        times = ", ".join(f"{number(found, 1)} times at tolerance {tolerance}" for tolerance, found in run["speedup"].items())
        rows += ["", f"On the exact field of {record['exact_images']['n']:,} CIFAR-10 images (JPEG copy), 32 lines as one "
                     f"system, time of scipy's RK45 over that of UniPC at equal error: {times}."]
    return rows


def images() -> list:
    figures = load("15_minutes")["figures"]
    columns = {"pca": "Fréchet distance", "classifier": "by classifier", "sure": "sure", "sharpness": "neighbours' difference",
               "sd": "standard deviation"}
    rows = ["| | networks | " + " | ".join(columns.values()) + " |", "|---|" + "--:|" * (1 + len(columns))]
    for name, kinds in figures.items():
        for kind, sizes in kinds.items():
            found = sizes["full"]
            if found["pca"]:
                cells = [number(found[key], 2) if found[key] else "" for key in columns]
                count = found["pca"]["n"] if kind.startswith("pfgm") else ""
                rows.append(f"| {name}, {kind.replace('pfgm', 'ours')} | {count} | " + " | ".join(cells) + " |")
    return rows


def claims() -> list:
    rows = ["| experiment | claim | parts that held | parts that did not | minutes |", "|---|---|--:|---|--:|"]
    for path in sorted((root / "nbs" / "experiments").glob("[0-9]*.ipynb")):
        title = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"][0].strip("# \n")
        name = f"[{path.stem[:2]} {title}](nbs/experiments/{path.name})"
        if not (root / "results" / f"{path.stem}.json").exists():
            rows.append(f"| {name} | not run yet | | | |")
            continue
        run = load(path.stem)
        missed = [part for part, held in run["held"].items() if not held]
        cells = [run["claim"], f"{len(run['held']) - len(missed)} of {len(run['held'])}", "; ".join(missed),
                 f"{run['minutes'] + run['training_minutes']:.0f}"]
        rows.append(f"| {name} | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


TABLES = {"results": quality, "quick start": quick_start, "few evaluations": few_evaluations, "claims": claims,
          "images": images}


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
