"""The released model: how it is trained, what it is compared with, and scores that anyone can compute again."""
