"""Makes `python -m parley_server.cli` the same as `parley`."""

import sys

from parley_server.cli import main

sys.exit(main())
