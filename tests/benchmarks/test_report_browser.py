"""report.html in a real browser: everything there, nothing from elsewhere, nothing overflows."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.report.content import write_report
from benchmarks.report.samples import sample_grid
from benchmarks.report.schema import Picture, ReportData, ReportRow, Speed, TrainingRun
from tests.benchmarks.bright_boxes import bright_set

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # offline, whatever the page may ask for
)
INJECTED = "<script>document.title = 'broken into'</script>"
LONG = "a_class_name_without_a_single_place_to_break_it_" * 3
# Put into a copy of the page: measures what is drawn, and writes it where --dump-dom shows it.
MEASURE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(one => { one.open = true; });
  const width = document.documentElement.clientWidth;
  const scrolls = one => one.closest(".scroll, pre, figure.large");
  const named = one => `${one.tagName}.${one.className}: ${one.textContent.slice(0, 40)}`;
  const boxes = [...document.body.querySelectorAll("*")];
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    if (!node.textContent.trim() || node.parentElement.closest("script")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 1 && box.height > 1) texts.push([box, node.textContent.slice(0, 40)]);
  }
  texts.sort((one, other) => one[0].top - other[0].top);
  const overlapping = [];
  texts.forEach(([box, text], index) => {
    for (let next = index + 1; next < texts.length && texts[next][0].top < box.bottom - 3; next++) {
      const other = texts[next][0];
      if (other.left < box.right - 2 && box.left < other.right - 2)
        overlapping.push([text, texts[next][1]]);
    }
  });
  const images = [...document.images];
  const found = {
    width, page: document.documentElement.scrollWidth, title: document.title,
    images: images.length,
    missing: images.filter(one => !one.complete || !one.naturalWidth).map(one => one.alt),
    fetched: performance.getEntriesByType("resource").map(one => one.name)
      .filter(name => !name.startsWith("data:")),
    wide: boxes.filter(one => !scrolls(one) && one.getBoundingClientRect().right > width + 1)
      .map(named),
    scrollers: [...document.querySelectorAll(".scroll, pre, figure.large")]
      .filter(one => one.getBoundingClientRect().right > width + 1).map(named),
    overlapping: overlapping.slice(0, 5), texts: texts.length,
    scripts: document.querySelectorAll("script").length,
  };
  const out = document.createElement("pre");
  out.id = "measured";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome to open the report in"),
]


def browse(page: Path, scratch: Path, *arguments: str) -> str:
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={scratch / 'profile'}", *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def measured(page: Path, scratch: Path, width: int) -> dict[str, Any]:
    """What the browser drew of a copy of the page, `width` pixels wide."""
    html = page.read_text(encoding="utf-8")
    copy = scratch / "measured.html"
    copy.write_text(html.replace("</main>", f"</main>{MEASURE}"), encoding="utf-8")
    dom = browse(copy, scratch, f"--window-size={width},1000", "--dump-dom")
    text = dom.partition('<pre id="measured">')[2].partition("</pre>")[0]
    found: dict[str, Any] = json.loads(unescape(text))
    return found


def crowded(folder: Path) -> ReportData:
    """Many rows and classes, long and hostile names, every part that a report can have."""
    classes = [INJECTED, LONG, "$x^{2}$ & <b>bold</b>", *(f"class {n}" for n in range(87))]
    scope = {
        **{"min": 9.1, "p25": 10.2, "p50": 11.0, "p75": 12.4, "iqr": 2.2, "p90": 123.4},
        **{"p99": 1234.5, "mean": 11.9, "n": 200, "ci95_p50": [10.1, 12.9], "p99_reliable": False},
    }
    watch = {
        **{"ranges": {"cpu_mhz": [1800.0, 3400.0], "sm_mhz": [1900.0, 1980.0]}, "gpu": "H100"},
        **{"energy_mj_per_picture": 123.4, "others_share": 0.31, "own_cpu_s": 3.0, "blocks": 8},
    }
    latency = {
        **{"model": scope, "model_scope": "measured", "engine": scope, "end_to_end": scope},
        **{"batch": 1, "device": "cuda", "watch": watch},
    }
    twelve: dict[str, float | None] = dict.fromkeys(COCO_NAMES, 0.512)
    rows = [
        ReportRow(
            model=model,
            backend=backend,
            precision=precision,
            artifact="model.onnx",
            sha256="0" * 64,
            size_mb=123.4,
            parameters=12_345_678,
            ap=twelve,
            latency_ms=latency,
            predictions=None,
            verdict="noisy: load average 9.1 on 2 cores at the start; SM clock moved by 4%",
            deployed={"score_threshold": 0.25, "ap": twelve, "detections_per_picture": 7.5},
            throughput=tuple(
                {"batch": n, "images_per_s": 99.0 * n, "call_ms": 9.9, "n": 50} for n in (1, 4, 16)
            ),
            parity={"matched": 3193, "max_box_difference_px": 2.3e-05, "min_iou": 0.9912},
            certificate={"nodes": {"int8": 41, "fp32": 9}, "time": {"int8": 0.8, "fp32": 0.2}},
        )
        for model in ("teacher", "baseline", "student", LONG)
        for backend in ("torch", "onnxruntime", "tensorrt")
        for precision in ("fp32", "fp16", "int8")
    ]
    terms = tuple(
        {"step": step, "name": f"loss{n}/term", "value": 1.0, "ratio": 2.0, "gradient_ratio": 0.1}
        for step in (0, 50, 100)
        for n in range(12)
    )
    images = bright_set(8)
    sheet = sample_grid(
        images, range(8), {title: [] for title in ("teacher", "baseline", "student", LONG)},
        0.25, folder / "pictures.jpg",
    )  # fmt: skip
    return ReportData(
        name=f"{INJECTED} {LONG}",
        environment={"cpu": {"model": LONG}, "gpus": [{"name": "H100"}], INJECTED: LONG},
        training={"seed0-student": TrainingRun(model="student", terms=terms)},
        rows=tuple(rows),
        speed=(
            Speed(
                model="student onnxruntime int8", reference=LONG, scope="end_to_end", ratio=2.0,
                ci95=(1.9, 2.1), verdict="faster",
            ),
        ),
        per_class={
            f"{model} onnxruntime fp32": dict.fromkeys(classes, 0.5)
            for model in ("teacher", "baseline", "student", LONG)
        },
        pictures=(Picture(path=sheet.name, caption=f"eight pictures {LONG}"),),
        data={"classes": dict.fromkeys(classes, 3)},
        recipe="# " + LONG,
        notes=(LONG, INJECTED),
        warnings=(LONG,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(crowded(folder), folder)


@pytest.mark.parametrize("width", [1200, 700, 500])
def test_the_page_fits_its_window_with_every_picture_and_nothing_fetched(
    page: Path, tmp_path: Path, width: int
) -> None:
    found = measured(page, tmp_path, width)
    assert found["texts"] > 1000
    assert found["images"] >= 5
    assert found["missing"] == []
    assert found["fetched"] == []
    assert found["page"] <= found["width"]
    assert width - 20 <= found["width"] <= width  # a scroll bar may take its part
    assert (found["wide"], found["scrollers"]) == ([], [])
    assert found["overlapping"] == []


def test_a_class_named_like_a_script_stays_a_name(page: Path, tmp_path: Path) -> None:
    found = measured(page, tmp_path, 1200)
    assert found["scripts"] == 1  # the one that measures
    assert found["title"].startswith(INJECTED)  # shown as the name it is, and not run
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;document.title" in text
