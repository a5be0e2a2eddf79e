"""All targets: importing this registers them."""

from fuzz import exports, models, pool, stores, texts

__all__ = ["exports", "models", "pool", "stores", "texts"]
