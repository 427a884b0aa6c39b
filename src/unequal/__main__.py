"""``python -m unequal`` is the ``unequal`` command."""
import sys

from unequal.cli import main

sys.exit(main())
