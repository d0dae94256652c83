"""Crafting attacks, training ARN and measuring both. Stands on ``models``; the service never imports it."""
