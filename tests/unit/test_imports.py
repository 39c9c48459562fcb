"""The graph of the service's imports, those for types alone (TYPE_CHECKING) and those inside functions included."""

from __future__ import annotations

import grimp


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("parley_server", exclude_type_checking_imports=False, cache_dir=None)
    left = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert len(left) > 100
    while free := {module for module, imported in left.items() if not imported}:
        left = {module: imported - free for module, imported in left.items() if module not in free}
    assert left == {}, "these modules import each other in a circle, or depend on ones that do"
