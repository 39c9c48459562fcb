"""The licences of packages: which are allowed, and those of the lock files and of this environment."""

from __future__ import annotations

import pytest

from tools.licenses import OWN, Package, of_npm, of_python


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("(Apache-2.0 AND BSD-3-Clause)", True),
        ("EPL-2.0; LGPL-2.1-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("LIMITED", False),
        ("", False),
    ],
)
def test_a_package_is_allowed_if_one_of_its_choices_is(licence: str, allowed: bool) -> None:
    assert Package("npm", "any", "1.0", licence).is_allowed is allowed


@pytest.mark.parametrize("packages", [of_npm, of_python])
def test_all_packages_are_allowed(packages) -> None:
    found = [each for each in packages() if not OWN.match(each.name)]
    assert len(found) > 50
    assert [each for each in found if not each.is_allowed] == []
