"""The service on one machine: starts, configures and stops it."""
