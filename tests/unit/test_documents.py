"""The documents name tests; each of them must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_test_that_the_guarantees_name_is_there():
    named = NAMED.findall((ROOT / "docs/guarantees.md").read_text())
    missing = [(path, test) for path, test in named if f"def {test}(" not in (ROOT / path).read_text()]
    assert len(named) > 40
    assert missing == []
