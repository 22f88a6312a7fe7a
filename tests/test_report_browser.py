"""The report in a real browser: every figure is there to be seen, in light and dark, on a phone, without a sideways scroll."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_run import make_run
from steerflow.report.write import write_report

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH ({', '.join(NAMES)})")

# Runs in a copy of the page, in a frame of the width of a phone: where everything lies, as text that --dump-dom prints.
PROBE = """<script>addEventListener("load", () => {
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top + scrollY, b.width, b.height]; };
  const all = selector => [...document.querySelectorAll(selector)];
  parent.document.body.dataset.probe = JSON.stringify({
    inner: innerWidth, scroll: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    figures: all("figure svg[role=img]").map(box), texts: all("figure svg[role=img] text").map(e => box(e)[3]),
    images: all("img.moving").map(e => [e.naturalWidth, ...box(e)]), tables: all(".scroll").map(box),
  });
});</script>"""


def browse(page: Path, profile: Path, *options: str) -> str:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={profile}", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True).stdout


def probe(report: Path, folder: Path, width: int) -> dict:
    text = report.read_text()
    # The report's own policy forbids scripts.
    loose = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"{PROBE}</body>")
    assert loose != text
    frame = f'<iframe width="{width}" height="900" style="border:0" srcdoc="{escape(loose)}"></iframe>'
    (folder / "probe.html").write_text(f'<!doctype html><meta charset="utf-8"><body>{frame}')
    # Without a frame a headless window is never narrower than 500 pixels.
    dom = browse(folder / "probe.html", folder / "profile", "--dump-dom", "--window-size=1300,900")
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found, dom[-2000:]
    return json.loads(unescape(found[1]))


def screenshot(report: Path, folder: Path, width: int, height: int, *options: str) -> np.ndarray:
    target = folder / "shot.png"
    size = f"--window-size={width},{height}"
    browse(report, folder / "profile", f"--screenshot={target}", size, *options)
    return np.asarray(Image.open(target).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("browser") / "demo"), video=False)


def test_every_figure_is_seen_on_a_wide_screen(report, tmp_path):
    layout = probe(report, tmp_path, 1100)
    figures = layout["figures"]
    assert len(figures) == 8
    picture = screenshot(report, tmp_path, 1100, layout["height"])
    background = picture[2, 2]
    for left, top, width, height in figures:
        assert width > 300
        assert height > 150
        part = picture[int(top) : int(top + height), int(left) : int(left + width)]
        inked = (np.abs(part - background).sum(axis=-1) > 60).mean()
        assert inked > 0.005, f"the figure at {left}, {top} is blank"
        # Marks have a colour, not only axes in shades of grey.
        assert (np.ptp(part, axis=-1) > 40).any()


def test_a_phone_scrolls_tables_but_not_the_page(report, tmp_path):
    layout = probe(report, tmp_path, 360)
    assert layout["inner"] == 360
    assert layout["scroll"] <= 360
    for left, _, width, _ in layout["figures"] + layout["tables"]:
        assert left >= 0
        assert left + width <= 360
    # One column of figures, with letters that can still be read.
    assert all(width > 300 for _, _, width, _ in layout["figures"])
    assert min(layout["texts"]) >= 10


def test_dark_is_dark_and_light_is_light(report, tmp_path):
    light, dark = (
        screenshot(report, tmp_path, 800, 900, f"--blink-settings=preferredColorScheme={scheme}") for scheme in (1, 0)
    )
    assert light[2, 2].mean() > 240
    assert dark[2, 2].mean() < 40
    # Ink on the page, in either.
    assert np.abs(light - light[2, 2]).max() > 150
    assert np.abs(dark - dark[2, 2]).max() > 150


def test_printing_gives_pages(report, tmp_path):
    target = tmp_path / "report.pdf"
    browse(report, tmp_path / "profile", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    data = target.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) >= 3
