"""`python -m deployments.cli` is `florence`."""

from deployments.cli import main

main()
