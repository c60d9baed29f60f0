"""Experts: their files, the store on disk, the cache in memory and the LoRA bank on the device."""
