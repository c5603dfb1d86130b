"""Who asks, and who lives."""

import subprocess
import sys

from dataecho_search.sweep.member import SweepMember

HOLD = """
import sys, time
from pathlib import Path
from dataecho_search.sweep.member import SweepMember

with SweepMember(Path(sys.argv[1]), num_slots=3) as member:
    print(member.try_to_lead(), member.name, flush=True)
    time.sleep(60)
"""


def test_one_asks_and_another_takes_over_as_soon_as_it_dies(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    took, name = first.stdout.readline().split()
    assert took == "True"
    with SweepMember(tmp_path, num_slots=2) as second:
        assert not second.try_to_lead() and not second.is_leader
        assert second.other_members() == {name: 3} and second.is_alive(name) and second.is_alive(second.name)
        first.kill()
        first.wait()
        assert not second.is_alive(name) and second.other_members() == {}
        assert second.try_to_lead() and second.is_leader
        assert not second.try_to_lead(), "it has it already"
    assert [path.name for path in (tmp_path / "members").iterdir()] == []
