"""Several experts in one answer: their gates, what each of them added, and where it learned it."""
