"""Reports: what they show, what they refuse, and that no data becomes code."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Tab, connected, started
from conftest import Job
from PIL import Image
from typer.testing import CliRunner

from pipeline import make_plan, run_plan
from pipeline.cli import app
from pipeline.report import page, pictures, report
from pipeline.report.page import LARGEST, render
from pipeline.report.pictures import SIDE, picture_of
from pipeline.report.report import make_report
from pipeline.verify import verify_table
from transforms.lookup import ConfigError
from transforms.table.columns import Column
from transforms.table.directory import Table
from transforms.table.gates import read_verdicts

HOSTILE = (
    "</script><script>window.pwned=1;alert(1)</script>",
    '"><img src=x onerror="window.pwned=2">',
    "{{ 7 * 7 }}@{key}{safe}<b onmouseover=alert(3)>",
    "');--><svg/onload=window.pwned=4>",
)
ROWS, BAD = 600, 7


def png(shade: int, side: int = 100) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side // 2), (shade % 256, 90, 200)).save(stream, "PNG")
    return stream.getvalue()


def key(row: int) -> str:
    return f"{row} {HOSTILE[row % len(HOSTILE)]}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished table whose keys, labels, column of images and name mean harm."""
    root = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    values = rng.random((ROWS, 6), np.float32)
    values[:, :2] += np.arange(ROWS)[:, None] % 3 * 4
    values[100:140] = values[100]
    values[:BAD, 0] = -1
    rows = {
        "id": [key(i) for i in range(ROWS)],
        "vec": values.tolist(),
        "kind": [f"{i % 3}{HOSTILE[i % 3]}" for i in range(ROWS)],
        "size": rng.random(ROWS),
        "shot": [png(i) for i in range(ROWS)],
    }
    pq.write_table(pa.table(rows), root / "rows.parquet", row_group_size=100)
    job = Job(root, {"reader": "parquet", "path": str(root / "rows.parquet")})
    run_plan(make_plan(job.config(**sections(root))))
    return job


def sections(root: Path) -> dict[str, Any]:
    return {
        "source": {"keep": ["size", "kind", "shot"]},
        "model": {"build": "toolbox:picky_model"},
        "taps": [{"path": "checked", "column": "v"}, {"path": "head", "column": "two"}],
        "table": {"path": str(root / "a <b onclick=alert(5)>"), "rows_per_part": 150},
        "errors": {"max_fraction": 0.1},
    }


def uri(job: Job) -> str:
    return str(sections(job.directory)["table"]["path"])


class Page(HTMLParser):
    """What a browser would make of a page: tags with attributes, text, scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._in:
            self.scripts.append(data)
        elif "style" not in self._in:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(table: str, **options: Any) -> Page:
    made = make_report(table, **options)
    data = Path(made.report).read_bytes()
    assert len(data) == made.bytes <= LARGEST
    return Page(data.decode())


@pytest.fixture(scope="module")
def shown(hostile: Job) -> Page:
    return page_of(uri(hostile), against=uri(hostile))


def test_a_report_begins_with_its_verdict(shown: Page) -> None:
    assert (
        "The table is finished with 593 rows in 6 columns; all" in shown.text
        or "gates warned; 7 bad rows (1.17%) were set apart." in shown.text
    )


def test_a_report_has_all_of_its_parts(shown: Page) -> None:
    heads = ["Gates", "Columns", "Drift", "Bad rows", "Where the time went"]
    heads += ["How to load it", "Where it came from"]
    places = [shown.words.index(head) for head in heads]
    assert places == sorted(places)
    for words in ("effective rank", "mean cosine of two rows", "shortest, longest"):
        assert shown.text.count(words) == 2, words
    assert shown.text.count("Nearest by cosine") == 2
    for kind in ("norms", "strip", "spectrum", "scatter"):
        assert shown.tags.count(("figure", {"class": kind})) == 2, kind


def test_gates_are_shown_as_they_were_judged(hostile: Job, shown: Page) -> None:
    verdicts = read_verdicts(Table(uri(hostile)))
    assert verdicts
    for one in verdicts:
        assert one.detail in shown.text
    marks = [a["class"] for tag, a in shown.tags if tag == "td" and "class" in a]
    for outcome in ("passed", "warned", "failed"):
        expected = sum(one.outcome == outcome for one in verdicts)
        assert marks.count(f"mark {outcome}") == expected


def test_the_most_repeated_vectors_are_shown(shown: Page) -> None:
    assert shown.text.count("Most repeated values") == 2
    after = shown.text.partition("Most repeated values")[2]
    assert re.match(r" rows one of them 40 1\d\d ", after)


def test_bad_rows_are_counted_by_stage(shown: Page) -> None:
    after = shown.text.partition("such as infer ")[2]
    assert re.match(r"\w+ 7 .*negative.* 0 </script>", after), after[:200]


def test_time_load_and_origin_are_told(hostile: Job, shown: Page) -> None:
    for phase in ("waiting for the reader", "computing", "statistics", "the rest"):
        assert phase in shown.text
    assert f"pandas.read_parquet({uri(hostile)!r})" in shown.text
    assert f"read_features({uri(hostile)!r}, 'v') # [rows, 6]" in shown.text
    success = json.loads(Path(uri(hostile), "_SUCCESS").read_text())
    assert success["fingerprint"] in shown.text
    assert "toolbox:picky_model" in shown.text


def test_the_code_that_loads_a_table_runs(hostile: Job, shown: Page) -> None:
    scope: dict[str, Any] = {}
    exec(next(w for w in shown.words if "import pandas" in w), scope)
    assert len(scope["frame"]) == len(scope["matrix"]) == ROWS - BAD


def test_rows_are_coloured_by_the_first_column_of_few_values(shown: Page) -> None:
    assert "Rows are coloured by kind : 0</script>" in shown.text
    assert "of neighbours have the row's kind (by chance 33%)" in shown.text


def test_a_number_may_colour_rows(hostile: Job) -> None:
    found = page_of(uri(hostile), label="size", columns=["two"])
    assert ("i", {"class": "ramp"}) in found.tags
    assert "of neighbours have" not in found.text


def test_values_from_data_cannot_become_code(shown: Page) -> None:
    tags = [tag for tag, _ in shown.tags]
    assert tags.count("script") == len(shown.scripts) == 3
    assert not {"img", "svg", "b", "iframe", "object", "link"} & {*tags}
    for _, attributes in shown.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#")[0] == "#"
        assert "src" not in attributes
    for text in HOSTILE[:3]:
        assert text in shown.text  # as text
        assert text not in shown.scripts[-1]
    assert "49" not in [word.strip() for word in shown.words]  # no template of theirs


def test_only_the_scripts_of_a_report_may_run(shown: Page) -> None:
    (policy,) = [a["content"] for tag, a in shown.tags if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    allowed = re.search(r"script-src (.*)$", policy)
    assert allowed
    assert allowed[1].split() == [
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in shown.scripts
    ]


def test_kept_images_are_shown_small(hostile: Job, shown: Page) -> None:
    text = Path(make_report(uri(hostile)).report).read_text()
    found = re.findall(r"--picture(\d+): url\(data:image/jpeg;base64,(.*?)\);", text)
    assert 20 <= len(found) <= 60  # one in sixteen rows keeps its bytes
    image = Image.open(io.BytesIO(base64.b64decode(found[0][1])))
    assert image.size == (SIDE, SIDE // 2)
    used = re.findall(r'class="picture" style="background-image:var\(--picture', text)
    assert len(used) == 2 * 4 * 6
    assert "Nearest by cosine, of the sampled rows that have pictures" in shown.text


@pytest.mark.parametrize("data", [b"", b"no image", png(1)[:60], b"\xff\xd8\xff"])
def test_what_is_no_image_has_no_picture(data: bytes) -> None:
    assert picture_of(data) is None


def test_images_too_large_to_decode_have_no_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "_PIXELS", 5_000)
    assert picture_of(png(1, 100)) is not None
    assert picture_of(png(1, 102)) is None


@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 1), (12, 16, 3), (12, 16, 4)])
def test_images_that_were_decoded_have_pictures(shape: tuple[int, ...]) -> None:
    opener = pictures._opener(Column("shot", "keep", "uint8", shape))
    assert opener is not None
    pixels = np.full(shape, 200, np.uint8)
    found = opener(pa.array([pixels.ravel().tolist()], pa.list_(pa.uint8()))[0])
    assert found is not None
    image = Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2])))
    assert image.size == (16, 12)
    assert np.allclose(np.asarray(image), 200, atol=2)


@pytest.mark.parametrize(
    "column",
    [
        Column("c", "keep", "uint8", (12,)),
        Column("c", "keep", "uint8", (12, 16, 2)),
        Column("c", "keep", "uint8", (None,)),
        Column("c", "keep", "uint8", (0, 16)),
        Column("c", "keep", "float32", (12, 16)),
        Column("c", "feature", "uint8", (12, 16)),
        Column("c", "keep", "string"),
    ],
    ids=lambda c: f"{c.role} {c.dtype} {c.shape}",
)
def test_other_columns_have_no_pictures(column: Column) -> None:
    assert pictures._opener(column) is None


@pytest.mark.parametrize("rows", [200, 13_000])  # with parts as the sample, and without
def test_decoded_images_are_sampled(rows: int, tmp_path: Path) -> None:
    shots = np.arange(rows * 16, dtype=np.uint8).reshape(rows, 4, 4)
    arrays = {"id": np.arange(rows), "vec": normal(rows), "shot": shots}
    np.savez(tmp_path / "rows.npz", **arrays)
    job = Job(tmp_path, {"reader": "numpy", "path": str(tmp_path / "rows.npz")})
    job.run(
        source={"keep": ["shot"]},
        model={"build": "toolbox:plain_model", "batch_rows": 1000},
        taps=[{"path": "head", "column": "v"}],
        table={"rows_per_part": 4000},
    )
    text = Path(make_report(str(job.table)).report).read_text()
    found = len(re.findall(r"--picture\d+: url", text))
    assert min(rows / 32, 100) < found <= pictures.MOST


def test_a_page_holds_a_bounded_number_of_pictures(
    hostile: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST", 5)
    text = Path(make_report(uri(hostile)).report).read_text()
    assert len(re.findall(r"--picture\d+: url", text)) == 5
    monkeypatch.setattr(pictures, "_BYTES", 2_000)
    text = Path(make_report(uri(hostile)).report).read_text()
    assert len(re.findall(r"--picture\d+: url", text)) < 5


def test_the_command_says_where_the_report_is(hostile: Job, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "r.html"
    options = ["report", uri(hostile), "--to", str(place), "--column", "two"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"{place}: \d\.\d MiB\n", result.output)
    result = CliRunner().invoke(app, ["report", uri(hostile), "--json"])
    document = json.loads(result.stdout)
    assert document["report"] == str(Path(uri(hostile), "_featuretap", "report.html"))
    assert document["columns"] == ["v", "two"]
    assert verify_table(uri(hostile)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["tow"]}, r"--column must name a column of numbers that the model"
         r" computed, got 'tow'; nearest is 'two' \(columns: v, two\)"),
        ({"columns": ["size"]}, r"got 'size'"),
        ({"label": "sice"}, r"--label must name a kept column of single values, got"
         r" 'sice'; nearest is 'size' \(columns: size, kind\)"),
        ({"label": "shot"}, r"got 'shot'"),
        ({"against": "/nowhere"}, r"--against must name a finished table, got"
         r" '/nowhere': a table must hold"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(
    hostile: Job, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_report(uri(hostile), **options)


@pytest.mark.parametrize("package", ["bokeh", "jinja2", "PIL"])
def test_missing_packages_are_named(
    hostile: Job, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"a report needs the package {package}.*install featuretap\[report\]"
    with pytest.raises(ConfigError, match=message):
        make_report(uri(hostile))


def test_a_page_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_TEMPLATE", "__init__.py")
    monkeypatch.setattr(page, "LARGEST", 20)
    with pytest.raises(ValueError, match=r"at most 20 bytes, this one has \d\d+"):
        render({}, {})


def test_drift_from_itself_is_none(shown: Page) -> None:
    after = shown.text.partition("farthest means")[2]
    assert re.match(r" \(dimension: standard deviations\) v 0\.000 two 0\.000 ", after)


def test_the_template_is_part_of_the_package() -> None:
    root = Path(__file__).parents[1]
    document = tomllib.loads((root / "pyproject.toml").read_text())
    names = document["tool"]["setuptools"]["package-data"]["pipeline"]
    assert [*(root / "pipeline").rglob("*.j2")] == [
        root / "pipeline" / name for name in names if name.endswith(".j2")
    ]


class Vectors(Job):
    """Makes tables of made-up vectors."""

    def make(
        self, values: np.ndarray, name: str = "table", kept: Any = None, **more: Any
    ) -> str:
        files = self.directory / name / "files"
        files.mkdir(parents=True)
        rows = {"id": range(len(values)), "vec": values.tolist(), **(kept or {})}
        pq.write_table(pa.table({n: pa.array(v) for n, v in rows.items()}), files / "f")
        place = str(self.directory / name / "t")
        run_plan(
            self.plan(
                source={"path": str(files / "f"), "keep": [*(kept or {})]},
                model={"build": "toolbox:plain_model"},
                table={"path": place, "rows_per_part": 10_000},
                **{"taps": [{"path": "head", "column": "v"}], **more},
            )
        )
        return place


@pytest.fixture
def vectors(tmp_path: Path) -> Vectors:
    return Vectors(tmp_path, {"reader": "parquet"})


def normal(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)


def test_no_row_of_a_large_table_is_read(vectors: Vectors) -> None:
    place = vectors.make(np.repeat(normal(13_000), 1, axis=0))
    for part in Path(place, "data").iterdir():
        part.unlink()
    found = page_of(place)
    assert "from a sample of 4,096 rows" in found.text
    assert "13,000 rows" in found.text


def test_a_table_that_fails_its_gates_has_a_report(vectors: Vectors) -> None:
    with pytest.raises(RuntimeError, match="gates"):
        vectors.make(normal(40), gates={"norm": {"fail": [0, 0.1]}})
    place = str(vectors.directory / "table" / "t")
    found = page_of(place)
    assert "The table is not finished with 40 rows in 2 columns; 1 of" in found.text
    assert ("p", {"class": "verdict failed"}) in found.tags
    Table(place).clear(lambda: None)
    assert not Path(place, "_featuretap", "report.html").exists()


def test_a_table_that_lacks_rows_is_refused(job: Job) -> None:
    job.run()
    Path(job.table, "_SUCCESS").unlink()
    Path(job.table, "_featuretap", "commits", "00001.json").unlink()
    with pytest.raises(
        ConfigError, match=r"a report must be of a table that is finish"
    ):
        make_report(str(job.table))
    result = CliRunner().invoke(app, ["report", str(job.directory / "nowhere")])
    assert result.exit_code == 2


def test_drift_is_told_column_by_column(vectors: Vectors) -> None:
    moved = normal(200, 1)
    moved[:, 4] += 3
    two = [{"path": "head", "column": c} for c in ("v", "only_here")]
    here = vectors.make(moved, "here", taps=two)
    there = vectors.make(normal(200), "there")
    text = page_of(here, against=there).text.partition("farthest means")[2]
    found = re.search(r"v (\d\.\d+) 4: (\+\d\.\d+)", text)
    assert found
    assert 1 < float(found[1]) < 2
    assert 2.5 < float(found[2]) < 3.5
    assert "only_here the other table has no such column" in text
    Path(there, "_SUCCESS").unlink()
    with pytest.raises(ConfigError, match=r"--against .* it has no _SUCCESS"):
        make_report(here, against=there)


def test_rows_that_are_not_finite_or_zero_are_told_and_not_drawn(
    vectors: Vectors,
) -> None:
    values = normal(60)
    values[3], values[4] = np.nan, 0
    values[5] = 3e38
    found = page_of(vectors.make(values))
    assert "1 rows are zero, such as 4 ." in found.text
    assert "1 rows hold NaN or infinite values, such as 3 ." in found.text
    assert "59 sampled rows along their first two" in found.text


def test_vectors_that_are_all_alike_have_a_report(vectors: Vectors) -> None:
    gates = {"dead_dimensions": False}
    found = page_of(vectors.make(np.ones((20, 6), np.float32), gates=gates))
    assert "0.0 of 6 effective rank" in found.text
    assert "scatter" not in [a.get("class") for _, a in found.tags]


def test_few_rows_have_a_report_without_a_sample(vectors: Vectors) -> None:
    found = page_of(vectors.make(normal(3)))
    assert "no gate judged it" in found.text
    assert "effective rank" not in found.text


def test_labels_with_many_values_share_a_colour(vectors: Vectors) -> None:
    names = [f"name {i % 30}" for i in range(90)]
    place = vectors.make(normal(90), kept={"name": names})
    assert "Rows are coloured" not in page_of(place).text
    found = page_of(place, label="name")
    assert sum(a.get("class") == "dot" for _, a in found.tags) == 21
    assert "others" in found.text


def test_more_columns_than_a_report_shows_are_named(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MOST", 1)
    taps = [{"path": "head", "column": f"v{i}"} for i in range(3)]
    place = vectors.make(normal(30), taps=taps)
    result = CliRunner().invoke(app, ["report", place])
    assert "2 columns are not shown in detail (--column chooses): v1, v2\n" in (
        result.output
    )
    made = make_report(place, columns=["v2"])
    assert (made.columns, made.left_out) == (("v2",), ())


def test_columns_of_lists_and_of_single_values_have_a_report(tmp_path: Path) -> None:
    rows = [{"id": i, "tokens": [*range(1, i % 9 + 1)]} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job = Job(tmp_path, {"reader": "jsonl", "path": str(tmp_path / "rows.jsonl")})
    pad = {"step": "pad", "feature": "tokens", "lengths": [4, 8], "mask": "mask"}
    job.run(
        source={"preprocess": [pad]},
        model={"build": "toolbox:token_model"},
        taps=[
            {"path": "hidden"},
            {"path": "pooled", "reduce": "mean(axis=1)", "column": "one"},
        ],
    )
    found = page_of(str(job.table))
    assert "[?, 3]" in found.text
    assert re.search(r"\d ± 0\.\d+ value", found.text)
    kinds = [a["class"] for tag, a in found.tags if tag == "figure"]
    assert kinds == ["norms", "norms"]


_POINT = """(() => {
  const views = [];
  const visit = v => { views.push(v); (v.child_views || []).forEach(visit); };
  for (const v of Bokeh.index.roots ?? Object.values(Bokeh.index)) visit(v);
  const plot = views.find(v => v.model.type == "Figure" &&
    v.model.renderers.some(r => "key" in (r.data_source?.data ?? {})));
  plot.el.scrollIntoView({block: "center"});
  const renderer = plot.model.renderers[0], data = renderer.data_source.data;
  const i = data.shown.findIndex((s, j) => s == "block" &&
    isFinite(data[renderer.glyph.x.field][j]));
  const box = plot.el.getBoundingClientRect(), frame = plot.frame;
  return {
    x: box.x + frame.x_scale.compute(data[renderer.glyph.x.field][i]),
    y: box.y + frame.y_scale.compute(data[renderer.glyph.y.field][i]),
    key: data.key[i],
  };
})()"""
_TIP = """(() => {
  const find = root => {
    for (const el of root.querySelectorAll("*")) {
      if (el.classList.contains("tip")) return el;
      const found = el.shadowRoot && find(el.shadowRoot);
      if (found) return found;
    }
  };
  const tip = find(document);
  return tip && {
    text: tip.innerText,
    inside: tip.querySelectorAll("script, img, b b, svg").length,
    picture: getComputedStyle(tip.firstElementChild).backgroundImage,
  };
})()"""


async def _look(address: str, made: Path, screenshot: Path) -> dict[str, Any]:
    """Open a report, point at a row with a picture, and say what there is to see."""
    async with connected(address) as tab:
        await tab.open(made)
        drawn = "Bokeh.documents.length && Bokeh.documents.every(d => d.is_idle)"
        await tab.until(drawn)
        point = await tab.value(_POINT)
        tip = await _point_at(tab, point)
        await tab.screenshot(screenshot)
        return {
            **tip,
            "key": point["key"],
            "pwned": await tab.value("String(window.pwned)"),
            "figures": await tab.value("Bokeh.documents[0].roots().length"),
            "faults": tab.faults(),
            "fetched": tab.fetched(),
        }


async def _point_at(tab: Tab, point: dict[str, Any]) -> dict[str, Any]:
    for shift in (-8, 0):
        place = {"x": point["x"] + shift, "y": point["y"]}
        await tab.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    return dict(await tab.until(_TIP))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[str]:
    with started(tmp_path) as address:
        yield address


@pytest.mark.heavy
def test_a_browser_shows_it_without_an_error_or_a_request(
    hostile: Job, browser: str, tmp_path: Path
) -> None:
    made = Path(make_report(uri(hostile)).report)
    shot = tmp_path / "report.png"
    seen = asyncio.run(_look(browser, made, shot))
    assert seen["faults"] == []
    assert [url[:7] for url in seen["fetched"] if url[:5] != "data:"] == ["file://"]
    assert seen["figures"] == 8
    assert seen["pwned"] == "undefined"
    # The tip shows the key as it is, and nothing of it has become an element.
    assert seen["key"][:20] in seen["text"]
    assert seen["inside"] == 0
    assert seen["picture"].startswith('url("data:image/jpeg;base64,')
    image = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(image, axis=0)) > 50  # something is drawn
