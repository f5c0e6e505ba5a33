"""The page is one file, asks the network for nothing, escapes everything, and labels predictions."""

import re
from html.parser import HTMLParser

import pytest

from edgekd.core.budget import parse_budget
from edgekd.report import (
    ArtifactRow,
    BudgetResult,
    Curve,
    CurvePoint,
    DataFacts,
    PrecisionVerdict,
    Scores,
    TargetRef,
    Verdict,
    render_html,
)

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "</title></style><script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_page_is_well_formed_and_has_no_scripts(report):
    page = Page(render_html(report))
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "link", "img", "base", "form"} & set(page.tags)
    assert not [item for item in page.attributes if item[1].startswith("on")]


def test_page_asks_the_network_for_nothing(report):
    text = render_html(report)
    page = Page(text)
    assert not [
        item for item in page.attributes if item[1] in ("src", "href", "srcset", "action", "data", "xlink:href")
    ]
    assert not re.search(r"https?:|url\(|@import|//\w", text)


def test_page_shows_every_figure(report):
    words = Page(render_html(report)).words
    for expected in [
        "93.80 %", "90.37 %", "98.33 %", "+3.43", "better in 3 of 3", "0.0912 ms", "0.143 ms", "0.0871 to 0.148 ms",
        "5,030", "272 k", "23.7 KiB", "the gate allows 1.00", "424 inputs", "mag-mas", "digits-orin", "2.3 KiB",
        report.artifacts[0].sha256, report.notes[0], report.command, "torch 2.13.0", "samples 4021", "p90_ms 0.103",
        "p99<0.25ms",
    ]:  # fmt: skip
        assert expected in words, expected


def test_seeds_are_shown_one_by_one(report):
    text = render_html(report)
    for item in report.scores.distilled.seeds:
        assert f'title="seed {item.seed}">{100 * item.value:.2f}<' in text


def test_predictions_are_labelled_and_kept_apart_from_measurements(report):
    text = render_html(report)
    latency = text.split("<h2>Latency</h2>")[1].split("</section>")[0]
    _, measured, predicted = latency.split('<h3 class="kind">')
    assert "</i>Measured</h3>" in measured
    assert "</i>Predicted, not measured</h3>" in predicted
    assert "0.0912 ms" in measured
    assert "0.112 ms" not in measured
    assert "predict" not in measured.lower()
    assert "≈ 0.112 ms" in predicted
    assert "0.0912 ms" not in predicted
    heads = [set(re.findall(r"<th[^>]*>([^<]*)</th>", part.split("</thead>")[0])) for part in (measured, predicted)]
    assert heads[0] & heads[1] == {"Network, target"}


def test_large_latency_is_labelled_when_it_is_a_prediction(report):
    tiles = render_html(report).split('class="tiles"')[1].split("</section>")[0]
    assert "predicted, not measured, fp16 on jetson-orin" in tiles


@pytest.mark.parametrize(("value_ms", "tone", "words"), [(0.5, "good", "kept"), (1.5, "bad", "missed")])
def test_measured_verdict_has_its_own_banner(change, value_ms, tone, words):
    budget = BudgetResult.of(parse_budget("p99<1ms"), kind="measured", judged_ms={"p99": value_ms})
    target = TargetRef(name="cpu", title="this machine")
    text = render_html(change(budget=budget, verdict=Verdict.of(budget), target=target))
    assert f'class="banner {tone}"' in text
    assert f"Budget {words}, measured" in text
    assert ("p99 is 1.5 ms, the budget is 1 ms" in text) == (words == "missed")
    tiles = text.split('class="tiles"')[1].split("</section>")[0]
    assert "measured, fp32 on cpu" in tiles
    assert "predict" not in tiles


def test_budget_line_is_drawn_only_among_figures_of_its_kind(report):
    text = render_html(report)
    lines = [match.start() for match in re.finditer('class="limit"', text)]
    assert lines
    assert min(lines) > text.index("Predicted, not measured</h3>")


def test_conditions_are_words_and_what_speaks_against_a_figure_stands_beside_it(change, report):
    given = {"intervals_ms": {"p50": [0.5, 0.75]}, "warnings": ["the machine was not quiet"]}
    rows = tuple(row.model_copy(update={"conditions": given}) for row in report.latency)
    text = render_html(change(latency=rows))
    assert "intervals_ms p50 0.500 0.750" in text and "{&#39;" not in text
    said = text.split("Measured</h3>")[1].split("<details>")[0]
    measured = [row for row in rows if row.kind == "measured"]
    assert said.count("Doubtful: ") == len(measured) > 0
    assert f"Doubtful: {measured[0].network} {measured[0].precision} on" in said


def test_hostile_text_is_escaped_everywhere(change, report):
    rows = tuple(
        row.model_copy(update={"target": HOSTILE if row.kind == "measured" else row.target, "backend": HOSTILE,
                               "conditions": {HOSTILE: HOSTILE, "warnings": [HOSTILE], "parts": {"p50": [0.5]}}})
        for row in report.latency
    )  # fmt: skip
    text = render_html(
        change(
            name=HOSTILE,
            command=HOSTILE,
            method=HOSTILE,
            target=TargetRef(name="jetson-orin", title=HOSTILE),
            data=DataFacts(name=HOSTILE, digest="ab" * 32, targets=2, train=1, val=1, test=1),
            latency=rows,
            notes=(HOSTILE,),
            environment={HOSTILE: HOSTILE},
            artifacts=(ArtifactRow(kind=HOSTILE, path=HOSTILE, sha256="ab" * 32, bytes=1),),
            curves=(Curve(stage=HOSTILE, seed=0, points=(CurvePoint(epoch=0, loss=1.0),)),),
            sizes=tuple(row.model_copy(update={"net": HOSTILE, "onnx_bytes": {HOSTILE: 1}}) for row in report.sizes),
            precision=report.precision.model_copy(
                update={"verdicts": (*report.precision.verdicts, PrecisionVerdict(
                    precision="int8", flavour=HOSTILE, accepted=False, reason=HOSTILE))}
            ),
            scores=Scores(
                teacher=report.scores.teacher.model_copy(update={"net": HOSTILE, "split": HOSTILE}),
                alone=report.scores.alone,
                distilled=report.scores.distilled,
            ),
        )
    )  # fmt: skip
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [item for item in page.attributes if item[1].startswith("on")]
    assert page.tags.count("style") == 1
    assert page.words.count("{{ 7*7 }}") >= 15
    assert page.open == []


def test_page_of_the_least_report_is_whole(change, report):
    page = Page(
        render_html(
            change(
                budget=None, verdict=Verdict.NO_BUDGET, latency=(), parity=None, precision=None, sizes=(), curves=(),
                artifacts=(), notes=(), environment={}, gain=None,
                scores=Scores(teacher=report.scores.teacher, alone=None, distilled=report.scores.distilled),
            )
        )
    )  # fmt: skip
    assert page.open == []
    for expected in ["No budget was given", "No latency was measured or predicted", "unknown", "None."]:
        assert expected in page.words


def test_page_is_small(report):
    assert len(render_html(report).encode()) < 100_000
