"""`python -m fgp`: the command line."""

import sys

from fgp.cli import main

sys.exit(main())
