"""`florence top`: what the service does now, read from the metrics that it exports."""
