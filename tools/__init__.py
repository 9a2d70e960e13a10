"""Small programs about the repository itself."""
