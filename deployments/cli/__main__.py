"""`python -m deployments.cli` is `florence`."""

from deployments.cli.main import main

main()
