"""JupyterLab opens tutorials and explorer in a browser, and runs each from its first cell to its last.

`SHOTS=folder` keeps there what was seen; else it lies in pytest's temporary folder.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest
from browser import NEEDS_BROWSER, chromium, folder_of_shots, listen
from test_notebooks import TUTORIALS

ROOT = Path(__file__).resolve().parents[1]
EXPLORER = ROOT / "nbs" / "explorer.ipynb"
pytestmark = NEEDS_BROWSER
LIMIT_S = 600  # for one notebook, on cores that are shared
LABEL_PX = 22  # 0.24 inches at 90 dots: left of the viewer's picture stands which slice it is
NOISE = ()  # what JupyterLab itself says on a console though all is well
FIRST_PAGE_S = 120  # under ten on two idle cores; what it was is kept beside the pictures
WRONG = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
# every code cell has an execution number (saved outputs alone would not prove a run), or something went wrong
DONE = r"""wrong => document.querySelector(wrong) ||
    (all => all.length && all.every(e => /\[\d+\]/.test(e.textContent)))(
        [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')])"""
# an image's points right of its label
DRAWN = """async (image, left) => {
    await image.decode();
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth - left, image.naturalHeight];
    canvas.getContext('2d').drawImage(image, -left, 0);
    return canvas.toDataURL();
}"""
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
BAD = {
    "callback": """import ipywidgets
button = ipywidgets.Button(description="Press")
button.on_click(lambda _: 1 / 0)
button""",
    "slider": """import ipywidgets
slider = ipywidgets.IntSlider(description="slice")
slider.observe(lambda _: 1 / 0, "value")
slider""",
    "not_loaded": """from IPython.display import display
display({"application/vnd.jupyter.widget-view+json": {"model_id": "nowhere", "version_major": 2}}, raw=True)""",
}
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # draw cells that are out of sight too
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


def copy_without_outputs(notebook: Path, folder: Path) -> None:
    copy = nbformat.read(notebook, 4)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    nbformat.write(copy, folder / notebook.name)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def lab_command(folder: Path, port: int) -> list[str]:
    server = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=smoke",
        f"--ServerApp.root_dir={folder}",
    ]
    return [sys.executable, "-m", "jupyterlab", *server]


def lab_environment(folder: Path) -> dict[str, str]:
    """This process's environment, but with settings and home in `folder`, and the notebook's own backend of plots."""
    for name, setting in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(setting))
    own = {
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "HOME": folder,
        "TMPDIR": folder,
    }
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])}
    environment = os.environ | {name: str(path) for name, path in own.items()} | paths
    environment.pop("MPLBACKEND", None)
    return environment


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/status?token=smoke", timeout=1)
    except OSError:
        return False
    return True


def wait_for(url: str, log: Path) -> None:
    """Wait until the server answers; fail with its log after a minute."""
    for _ in range(240):
        if answers(url):
            return
        time.sleep(0.25)
    pytest.fail(log.read_text())


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return folder_of_shots(tmp_path_factory, "lab")


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    """Copies of the notebooks, with the outputs removed."""
    folder = tmp_path_factory.mktemp("books")
    for notebook in [*TUTORIALS, EXPLORER]:
        copy_without_outputs(notebook, folder)
    for name, code in BAD.items():
        cells = [nbformat.v4.new_markdown_cell("# Known to be bad"), nbformat.v4.new_code_cell(code)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def lab(books, tmp_path_factory):
    """A server of its own: its own port, home and settings. Gives its address, and when it was started."""
    port, home = free_port(), tmp_path_factory.mktemp("home")
    url, path = f"http://127.0.0.1:{port}", home / "lab.log"
    started = time.monotonic()
    with open(path, "wb") as log:
        server = subprocess.Popen(lab_command(books, port), stdout=log, stderr=log, env=lab_environment(home))
        try:
            wait_for(url, path)
            yield url, started
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def page(lab):
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1280, "height": 1000})
        opened.wrong = listen(opened, NOISE)
        yield opened


@pytest.fixture(autouse=True)
def nothing_went_wrong(request):
    """Fail a test after which the page, or a kernel that it talks with, has told of an error."""
    page = request.getfixturevalue("page")
    yield
    page.wait_for_timeout(500)  # what is on its way
    wrong = [*page.wrong]
    page.wrong.clear()
    assert not wrong


def open_notebook(page, url: str, name: str) -> None:
    page.goto(f"{url}/lab/tree/{quote(name)}?token=smoke&reset")  # else the notebook before is opened again beside it
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector(".jp-Notebook h1", timeout=60_000)
    page.wait_for_function("!document.querySelector('.jp-Spinner')", timeout=60_000, polling=100)  # it covers the cells


def run_all(page) -> None:
    """Run all cells, and wait for the last; fail where one wrote to stderr or ended in an error."""
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)  # before this, Run asks for a kernel
    page.click(".lm-MenuBar-itemLabel:text-is('Run')")
    page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
    page.wait_for_function(DONE, arg=WRONG, timeout=LIMIT_S * 1000, polling=500)  # not at every frame
    wrong = page.locator(WRONG)
    assert wrong.count() == 0, wrong.first.inner_text()


def tall_shot(page, path: Path) -> None:
    """Take a picture of the whole notebook, in a window as high as it takes."""
    size = page.viewport_size
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": min(height + 150, 12_000)})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    page.set_viewport_size(size)


def shut_down(page, url: str) -> None:
    """End the kernel, so that the next notebook has the memory."""
    for kernel in page.request.get(f"{url}/api/kernels?token=smoke").json():
        page.request.delete(f"{url}/api/kernels/{kernel['id']}?token=smoke")


def test_the_first_page_is_there_soon(lab, page, shots):
    url, started = lab
    open_notebook(page, url, TUTORIALS[0].name)
    seconds = time.monotonic() - started
    page.screenshot(path=shots / "first.png")
    (shots / "first_page_seconds.txt").write_text(f"{seconds:.1f}\n")
    assert seconds < FIRST_PAGE_S


@pytest.mark.parametrize("notebook", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(notebook, lab, page, shots):
    url, _ = lab
    open_notebook(page, url, notebook.name)
    try:
        run_all(page)
    finally:
        tall_shot(page, shots / f"{notebook.stem}.png")
        shut_down(page, url)


@pytest.mark.parametrize(
    ("name", "said"), [("callback", "ZeroDivisionError"), ("slider", "ZeroDivisionError"), ("not_loaded", "not found")]
)
def test_what_goes_wrong_behind_a_page_is_heard(name, said, lab, page):
    """A callback's exception and a widget that did not load stand in no output that `run_all` looks at."""
    url, _ = lab
    open_notebook(page, url, f"{name}.ipynb")
    run_all(page)
    if name == "callback":
        page.get_by_role("button", name="Press").click()
    if name == "slider":
        step(row_of(page.locator(".jp-Notebook .jp-CodeCell"), "slice"))
    page.wait_for_timeout(3000)
    shut_down(page, url)
    wrong = [*page.wrong]
    page.wrong.clear()
    assert any(said in one for one in wrong), wrong


def drawn(picture) -> str:
    """Give what a picture shows beside its label; the page may put another in its place meanwhile."""
    from playwright.sync_api import Error

    for _ in range(20):
        try:
            return picture.evaluate(DRAWN, LABEL_PX, timeout=5000)
        except Error:
            picture.page.wait_for_timeout(250)
    pytest.fail("the picture could not be read")


def wait_for_another(page, picture, before: str, seconds: int) -> str:
    """Wait until a picture shows something else than before, its label apart; give what it shows."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        page.wait_for_timeout(250)
        seen = drawn(picture)
        if seen != before:
            return seen
    pytest.fail(f"the picture was the same for {seconds} s")


def wait_for_the_same(page, picture, expected: str, seconds: int) -> None:
    """Wait until a picture shows what it once did."""
    end = time.monotonic() + seconds
    while drawn(picture) != expected:
        assert time.monotonic() < end, f"the picture was another for {seconds} s"
        page.wait_for_timeout(250)


def made(cell, button) -> None:
    """Press the button, and wait until the exam is made: it cannot be pressed meanwhile."""
    button.click()
    cell.locator("button:disabled", has_text="Generate").wait_for(timeout=60_000)
    cell.locator("button:enabled", has_text="Generate").wait_for(timeout=120_000)
    cell.page.wait_for_timeout(1000)  # the new picture is sent before the button is free, and drawn soon after


def row_of(cell, label: str):
    """Find the slider that stands beside a label, in a cell's output."""
    return cell.locator(".widget-slider", has=cell.page.get_by_text(label, exact=True))


def readout_of(row) -> str:
    return row.locator(".widget-readout").inner_text()


def step(row, key: str = "ArrowRight") -> str:
    """Move a slider by one, as a reader does who clicked on it; give what stood beside it before."""
    before = readout_of(row)
    row.locator(".noUi-handle").first.focus()
    row.locator(".noUi-handle").first.press(key)
    return before


@pytest.fixture(scope="module")
def explorer(lab, page, shots):
    """The code cells of the explorer's notebook, all of which ran: what to open, the explorer, two exams."""
    url, _ = lab
    open_notebook(page, url, EXPLORER.name)
    try:
        run_all(page)
        tall_shot(page, shots / "explorer_opened.png")
        yield page.locator(".jp-Notebook .jp-CodeCell")
    finally:
        tall_shot(page, shots / "explorer.png")
        shut_down(page, url)


def test_the_explorer_marks_what_it_does_not_know(explorer, shots):
    cell = explorer.nth(1)
    field, warning = cell.locator("textarea"), cell.locator(".ccella-warning")
    report = field.input_value()
    assert warning.count() == 0
    field.fill("The cat sat on the mat.")
    warning.wait_for(timeout=60_000)
    strange = cell.locator(".ccella-words span[style*='dashed']").all_inner_texts()
    assert "".join(strange) == "catsatmat"
    cell.screenshot(path=shots / "explorer_warns.png")
    field.fill(report.replace("left", "right"))
    warning.wait_for(state="detached", timeout=60_000)


def test_the_explorer_makes_an_exam_and_scrolls_through_it(explorer, shots):
    """The button gives a picture; slice and window change it and back again; another seed gives another one."""
    cell = explorer.nth(1)
    button, pictures = cell.get_by_role("button", name="Generate"), cell.locator("img.widget-image")
    slices, window = row_of(cell, "slice"), row_of(cell, "ADC")
    assert slices.count() == 0
    started = time.monotonic()
    made(cell, button)
    slices.wait_for(timeout=60_000)
    (shots / "explorer_seconds.txt").write_text(f"{time.monotonic() - started:.1f}\n")
    assert pictures.count() == 2  # on its way, and in the viewer
    picture = pictures.last
    first = drawn(picture)
    cell.screenshot(path=shots / "explorer_generated.png")

    was = step(slices)
    second = wait_for_another(cell.page, picture, first, 60)
    assert int(readout_of(slices)) == int(was) + 1
    step(window)
    wait_for_another(cell.page, picture, second, 60)
    step(window, "ArrowLeft")
    step(slices, "ArrowLeft")
    wait_for_the_same(cell.page, picture, first, 60)

    cell.get_by_label("seed").fill("8")
    made(cell, button)
    assert readout_of(slices) == was
    is_another = drawn(picture) != first  # by a name: the pictures would fill pages of a failure's report
    assert is_another, "another seed gave the same exam"
    assert cell.page.locator(WRONG).count() == 0


def test_two_exams_scroll_together(explorer):
    cell = explorer.nth(2)
    picture = cell.locator("img.widget-image")
    before = drawn(picture)
    was = int(step(row_of(cell, "slice")))
    wait_for_another(cell.page, picture, before, 60)
    assert int(readout_of(row_of(cell, "slice below"))) == was + 1
