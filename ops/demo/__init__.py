"""Demo data of our own making: people, professionals, structures and CDA documents, all drawn from a seed."""
