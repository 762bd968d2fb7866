"""fal's HTTP protocol: the only folder that knows FastAPI, and it knows no model and no Ray."""
