"""`florence doctor`: whether everything that the service needs is in place, one line each."""
