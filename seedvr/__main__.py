"""`python -m seedvr`: the console command, for environments without the installed script."""

import sys

from seedvr.command import main

if __name__ == "__main__":
    sys.exit(main())
