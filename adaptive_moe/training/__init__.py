"""From a person's material to a proven expert: rows, questions, ranks, training, gate."""
