"""The service's own routes: /purify, /classify, status, the page, admin."""
