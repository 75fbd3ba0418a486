"""`python -m flaxdream`: the same as the `flaxdream` command."""

import sys

from flaxdream.cli import main

sys.exit(main())
