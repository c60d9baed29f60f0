"""The frozen base model: load, fingerprint, encode, prefill and decode."""
