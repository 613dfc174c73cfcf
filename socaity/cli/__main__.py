"""`python -m socaity.cli`: the same as the command `socaity`."""

import sys

from . import main

sys.exit(main())
