"""The service against LitServe and BentoML, each serving the same checkpoint with transformers."""
