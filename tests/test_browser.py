"JupyterLab in a real browser: every chapter runs and shows its figures, and the explorers follow mouse and keyboard."
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium; apt-get install chromium")
MINUTE = 60_000  # milliseconds
PICTURES = "[...document.querySelectorAll('.jp-OutputArea-output :is(img, canvas)')].filter(it => it.width > 50)"


def reading(path: Path) -> bool:
    """Not one of the jobs for papermill."""
    return not any("parameters" in cell.metadata.get("tags", []) for cell in nbformat.read(path, 4).cells)


CHAPTERS = [path.stem for path in sorted((ROOT / "nbs").glob("*.ipynb")) if reading(path)]
FIELD = """
import torch
from pfgm.explorer import Explorer
explorer = Explorer(torch.tensor([[-0.5, 0.0], [0.6, 0.3]]))
explorer.panel
"""
CHARGES = """
import json
pixels = explorer.axes[0].transData.transform(explorer.charges.numpy()).tolist()
print(json.dumps([dict(at=at, pixel=pixel) for at, pixel in zip(explorer.charges.tolist(), pixels)]))
"""
DIGITS = """
import pfgm
from pfgm.walk import explore_model
explore_model(pfgm.fit("digits", steps=3, width=8, progress=False))
"""


def notebook(path: Path, *cells: str):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells], metadata=dict(
        kernelspec=dict(name="python3", display_name="Python 3", language="python"))), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab server on a copy of nbs/ that keeps all it writes in a temporary folder."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "nbs", folder / "nbs", ignore=shutil.ignore_patterns(".*", "runs"))
    notebook(folder / "nbs" / "field.ipynb", FIELD, CHARGES)
    notebook(folder / "nbs" / "digits.ipynb", DIGITS)
    settings = folder / "settings" / "@jupyterlab"
    for name, values in {"notebook-extension/tracker": dict(windowingMode="none", autosaveInterval=3600),
                         "apputils-extension/notification": dict(fetchNews="false", checkForUpdates=False)}.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
                                                 "JUPYTERLAB_WORKSPACES_DIR")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | own | dict(JUPYTERLAB_SETTINGS_DIR=str(folder / "settings"), PYTHONPATH=path, OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder / 'nbs'}"]
    log = folder / "server.log"
    with open(log, "w") as out:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        options = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
        browser = playwright.chromium.launch(executable_path=BROWSER, args=[*options.split(), "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture
def run(lab, browser, request, tmp_path):
    """A function that opens a notebook and runs all its cells; the last look of the page is kept in tmp_path."""
    page = browser.new_page(viewport=dict(width=1300, height=1000))
    page.set_default_timeout(3 * MINUTE)

    def open_and_run(name: str):
        page.goto(f"{lab}/lab/workspaces/{name}/tree/{name}.ipynb?reset")
        page.wait_for_function("name => window.jupyterapp?.shell?.currentWidget?.context?.path === name", arg=f"{name}.ipynb")
        page.evaluate("""async () => {
            const panel = window.jupyterapp.shell.currentWidget
            const late = new Promise((_, refuse) => setTimeout(() => refuse('not run after 10 minutes'), 600000))
            await panel.context.ready; await panel.sessionContext.ready
            await Promise.race([window.jupyterapp.commands.execute('notebook:run-all-cells'), late]) }""")
        return page

    yield open_and_run
    page.screenshot(path=tmp_path / "page.png")
    page.evaluate("window.jupyterapp?.shell?.currentWidget?.sessionContext?.shutdown()")
    page.close()


def outputs(page) -> list:
    """Outputs of all cells as the page holds them."""
    return page.evaluate("""() => window.jupyterapp.shell.currentWidget.content.widgets.flatMap(
        cell => cell.model.type === 'code' ? cell.model.sharedModel.getOutputs() : [])""")


def text(page) -> str:
    return "".join("".join(output.get("text", "")) for output in outputs(page))


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_runs_and_shows_its_figures(run, name):
    page = run(name)
    assert not [output for output in outputs(page) if output["output_type"] == "error"]
    cells = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4).cells
    figures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    page.wait_for_function(f"count => {PICTURES}.length >= count", arg=figures)


LOOK = f"() => {{ const it = {PICTURES}[0]; return it && (it.tagName === 'IMG' ? it.src : it.toDataURL()) }}"


def changed(page, act):
    """Do something, and wait until the first picture of the page is another one."""
    before, now = None, page.evaluate(LOOK)
    while now is None or now != before:  # until no change is on its way any more
        page.wait_for_timeout(700)
        before, now = now, page.evaluate(LOOK)
    act()
    page.wait_for_function(f"before => ({LOOK})() !== before", arg=now)


def until(page, true):
    """Wait for the kernel: JupyterLab gives it the news of widgets on another channel than cells to run."""
    for _ in range(120):
        if true():
            return
        page.wait_for_timeout(500)
    pytest.fail("the charges are not where the mouse left them")


def control(page, label: str, kind: str):
    return page.locator(f".widget-inline-hbox:has(.widget-label:text-is('{label}')) {kind}")


def press(page, label: str, keys: str):
    changed(page, lambda: control(page, label, ".noUi-handle").press(keys))


def test_field_explorer_follows_keyboard_and_mouse(run):
    page = run("field")
    for label, keys in (("z", "ArrowRight"), ("D", "ArrowRight"), ("steps", "ArrowLeft"), ("z", "End")):
        press(page, label, keys)
    changed(page, lambda: control(page, "solver", "select").select_option("euler"))
    changed(page, lambda: page.locator(".widget-checkbox input").uncheck())
    changed(page, lambda: page.locator(".widget-checkbox input").check())
    changed(page, lambda: control(page, "charges", "select").select_option("two_moons"))
    changed(page, lambda: control(page, "charges", "select").select_option("your own"))
    press(page, "z", "Home")
    changed(page, lambda: page.locator(".jupyter-widget-play button, .widget-play button").first.click())


def test_charges_are_dragged_added_and_removed(run):
    page = run("field")
    press(page, "z", "ArrowRight")
    box = page.locator(".jupyter-matplotlib canvas").first.bounding_box()

    def charges() -> list:
        page.evaluate("""() => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = 1
            return window.jupyterapp.commands.execute('notebook:run-cell') }""")
        return json.loads(text(page).splitlines()[-1])

    def at(charge: list) -> tuple:
        u, v = charge["pixel"]
        return box["x"] + u, box["y"] + box["height"] - v

    first, second = charges()
    u, v = at(first)
    page.mouse.move(u, v)
    page.mouse.down()
    changed(page, lambda: page.mouse.move(u + 30, v - 20, steps=10))
    page.mouse.up()
    until(page, lambda: math.dist(at(charges()[0]), (u + 30, v - 20)) < 3)
    moved, still = charges()
    assert still == second
    changed(page, lambda: page.mouse.click(u + 60, v + 60))
    until(page, lambda: len(charges()) == 3)
    changed(page, lambda: page.mouse.dblclick(*at(moved)))
    until(page, lambda: len(charges()) == 2 and moved["at"] not in [charge["at"] for charge in charges()])


def test_model_explorer_follows_keyboard(run):
    page = run("digits")
    for label in ("from", "to", "way, %", "temperature", "draws"):
        press(page, label, "ArrowRight")
