"""``python -m unequal`` is the ``unequal`` command."""
import sys

from unequal.commands.cli import main

sys.exit(main())
