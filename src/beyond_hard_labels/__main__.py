import sys

from beyond_hard_labels.cli import main

sys.exit(main())
