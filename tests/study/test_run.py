"""Reports are made again from folders alone."""

import dataclasses

from dataecho_study.run import WINNERS, write_results
from tests.study.made import cell, study
from tests.study.test_gather import PLAN, SPACE, run


def test_a_study_of_winners_is_checked_with_the_law_of_theirs(tmp_path):
    cells = [{"key": "echo=none", "axes": {"echo": "none", "factor": 1.0}, "space": SPACE}]
    dataclasses.replace(PLAN, num_repeats=1, num_trials=1, cells=cells).save(tmp_path)
    run(tmp_path, "0/0", 1000)
    plain = write_results([tmp_path], tmp_path)[0].read_text()
    winners = study(*(cell(1000 / e**0.7, echo="none" if e == 1 else "batch", factor=e) for e in (1.0, 2.0, 4.0, 8.0)))
    (tmp_path / WINNERS).write_text(winners.to_json())

    checked = write_results([tmp_path], tmp_path)[0].read_text()

    assert "where it was not fitted" not in plain
    assert "<h2>The law, where it was not fitted</h2>" in checked
    assert "No measured time can be compared with the law." in checked
