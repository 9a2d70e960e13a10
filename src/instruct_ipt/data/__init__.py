"""Photographs, procedural images and the five degradations that make training and test pairs of them."""
