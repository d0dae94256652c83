"""Error rates as records: crafted sets, threat models, red flags, detection."""
