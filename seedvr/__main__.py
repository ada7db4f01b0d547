"""python -m seedvr: the console command where no script was installed."""

import sys

from seedvr.command import main

if __name__ == "__main__":
    sys.exit(main())
