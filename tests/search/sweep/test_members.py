"""Who asks, and who lives."""

import subprocess
import sys

from dataecho_search.sweep.members import Membership

HOLD = """
import sys, time
from pathlib import Path
from dataecho_search.sweep.members import Membership

with Membership(Path(sys.argv[1]), num_slots=3) as member:
    print(member.take_lease(), member.name, flush=True)
    time.sleep(60)
"""


def test_one_asks_and_another_takes_over_as_soon_as_it_dies(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    took, name = first.stdout.readline().split()
    assert took == "True"
    with Membership(tmp_path, num_slots=2) as second:
        assert not second.take_lease() and not second.asks
        assert second.others() == {name: 3} and second.lives(name) and second.lives(second.name)
        first.kill()
        first.wait()
        assert not second.lives(name) and second.others() == {}
        assert second.take_lease() and second.asks
        assert not second.take_lease(), "it has it already"
    assert [path.name for path in (tmp_path / "members").iterdir()] == []
