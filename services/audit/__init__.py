"""The audit service: keeps the trail, and lists it to those who may see it."""
