"""Entry of `python -m fgp_workflow.figures`."""

import sys

from fgp_workflow.figures import main

sys.exit(main())
