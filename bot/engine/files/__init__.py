"""Models on disk: found, fetched, looked through before a library reads them. No torch."""
