"""The HTTP API: OpenAI's fine-tuning API, the method ``vrpo``, and ``run``."""
