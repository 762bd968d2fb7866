"""The load-test kit: scenarios on a schedule, driven by Locust, judged by thresholds."""
