"""`python -m sutro_async` is the command `sutro-async`."""

from sutro_async.cli import main

raise SystemExit(main())
