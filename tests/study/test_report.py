"""The page has everything, stands alone, and tells nothing of the machine."""

import base64
import dataclasses
import getpass
import json
import math
import re
import socket

import pytest

from dataecho.diagnose.law import read_laws
from dataecho_study.claims import read_claims
from dataecho_study.figures import Picture
from dataecho_study.public import public
from dataecho_study.report import Subject, duration, write_report
from dataecho_study.results import EXAMPLES_PER_EPOCH, Study
from tests.study.made import cell, repeat, study

CLAIMS = read_claims(
    [
        {"kind": "at_most", "text": "Echo <saves>.", "cells": {"echo": "batch"}, "than": {"echo": "none"}},
        {"kind": "at_most", "text": "None saves.", "cells": {"echo": "none"}, "than": {"echo": "batch"}},
        {"kind": "best_near", "text": "R is best."},
    ]
)


def made(**changes):
    facts_of_batch = {"entered": 1400.0, "border": ["rate=0.4 lies at the upper end"]}
    cells = [
        cell(1000, echo="none", factor=1.0),
        cell(600, changes=facts_of_batch, echo="batch", factor=2.0),
        cell([600.0, math.inf], echo="after_augmentation", factor=2.0),
        cell([], echo="before_augmentation", factor=2.0),
    ]
    facts = {"protocol": {EXAMPLES_PER_EPOCH: 700, "space": {"rate": [0.01, 0.4]}}, "seconds_total": 7500.0}
    return study(*cells, **{**facts, **changes})


def write(folder, *studies):
    subjects = [Subject(study=one, claims=CLAIMS, picture=Picture()) for one in studies]
    return write_report(folder, subjects), (folder / "report.html").read_text()


def test_a_page_has_claims_cells_winners_and_the_protocol(tmp_path):
    files, page = write(tmp_path, made())

    assert [path.name for path in files] == ["report.html", "figure_3_digits.png", "figure_3_digits.svg", "study.json"]
    assert "3 claims, written before the runs: 1 shown,\n1 consistent, 1 contradicted.</p>" in page
    assert '<p>Echo &lt;saves&gt;. <span class="verdict">shown</span></p>' in page
    assert '<p>None saves. <span class="verdict">contradicted</span></p>' in page
    assert "Nothing to compare" in page
    assert "Repeats missed their target in: echo=after_augmentation,factor=2.0." in page
    assert "echo=batch,factor=2.0, repeat 3: rate=0.4 lies at the upper end" in page
    assert "epochs entered" in page and '<td class="number">2</td>' in page  # 1,400 of 700 an epoch
    assert "none has ended" in page
    assert "<th>space</th><td>rate: 0.01, 0.4</td>" in page
    assert "<th>time of all runs</th><td>2.1 h</td>" in page
    assert "<code>python train.py -m study=figure_3 task=digits</code>" in page
    assert "Unfinished" not in page


def test_a_page_stands_alone(tmp_path):
    _, page = write(tmp_path, made())

    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    picture = re.search(r"data:image/svg\+xml;base64,([\w+/=]+)", page)[1]
    assert base64.b64decode(picture) == (tmp_path / "figure_3_digits.svg").read_bytes()


def test_an_unfinished_study_is_marked_and_several_studies_share_a_page(tmp_path):
    files, page = write(tmp_path, made(is_complete=False), made(task="coco_ssd"))

    assert page.count("<b>Unfinished.</b>") == 1
    assert "<h1>Figure 3: digits, torch, scale tiny (unfinished)</h1>" in page
    assert "<h1>Figure 3: coco_ssd, torch, scale tiny</h1>" in page
    assert {"study_digits.json", "study_coco_ssd.json"} <= {path.name for path in files}


def test_an_emulated_input_and_one_tuning_are_told(tmp_path):
    throttled = study(
        cell(1000, echo="none", factor=1.0, throttle_ratio=4.0), cell(600, echo="batch", factor=2.0, throttle_ratio=4.0)
    )

    _, page = write(tmp_path, dataclasses.replace(throttled, is_tuned_once=True))

    assert "The slow input is emulated" in page
    assert "contradicted, all given this tuning." in page
    assert "a fresh seed, given one tuning of the cell" in page


def test_nothing_tells_paths_addresses_names_or_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "nodefour.cluster")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane_doe")
    command = (
        "python train.py task.data_dir=/home/jane/data 'hydra.run.dir=~/runs/x' "
        "tracking.uri=https://me:pw@host.example/x task.token=abcd "
        "C:\\data\\x on nodefour for jane_doe at 3/4 of digits/sizes"
    )
    told = made(command=command, machine="nodefour.cluster, 2 cores", protocol={"source": ["s3://bucket/key"]})
    cells = [dataclasses.replace(told.cells[0], repeats=[repeat(settings={"task.data_dir": "/data/here"})])]

    write(tmp_path, dataclasses.replace(told, cells=cells))

    for name in ("report.html", "study.json"):
        text = (tmp_path / name).read_text()
        for secret in ("jane", "nodefour", "host.example", "abcd", "bucket", "/data/here", "C:\\\\data", "~/runs"):
            assert secret not in text
    read = Study.from_json((tmp_path / "study.json").read_text())
    assert read.command.endswith("on <name> for <name> at 3/4 of digits/sizes")
    assert read.protocol == {"source": ["<address>"]}


def test_a_study_json_is_the_study(tmp_path):
    write(tmp_path, made())

    assert Study.from_json((tmp_path / "study.json").read_text()) == public(made())
    assert json.loads((tmp_path / "study.json").read_text())["cells"][2]["repeats"][1]["fresh"] == "Infinity"


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (600, "10 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_study_of_factors_gives_its_law_and_another_one_is_checked_with_it(tmp_path):
    by_factor = [
        cell(1000 / e**0.7, echo="none" if e == 1 else "batch", factor=e, batch_size=64.0) for e in (1.0, 2.0, 4.0, 8.0)
    ]
    timed = [
        cell(
            ratio * 1000 / e**0.7,
            changes={"ratio": 8.0},
            echo="none" if e == 1 else "batch",
            factor=e,
            throttle_ratio=8.0,
        )
        for e, ratio in ((1.0, 1), (4.0, 1))
    ]
    law = write_report(
        tmp_path, [Subject(study=study(*by_factor, name="figure_5"), claims=[], picture=Picture(x="factor"))]
    )[-1]
    page = (tmp_path / "report.html").read_text()
    laws = read_laws(law)

    assert law.name == "law.json"
    assert "<h2>The law: echo=batch, batch 64</h2>" in page
    assert f"<td>{laws.laws[0].form} (chosen)</td>" in page
    picture = Picture(x="throttle_ratio", y="seconds")
    write_report(tmp_path, [Subject(study=study(*timed, name="figure_4"), claims=[], picture=picture, laws=laws)])
    page = (tmp_path / "report.html").read_text()
    assert "5 of 5 measured times (100%) are inside the law&#39;s 90% prediction intervals." in page
    assert "<h2>Seconds to target</h2>" in page
