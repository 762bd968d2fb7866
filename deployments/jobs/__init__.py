"""The durable queue: jobs, the stores that keep them, and the workers that run them."""
