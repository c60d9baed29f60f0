"""Graders, calibration measures and the statistics that every verdict rests on."""
