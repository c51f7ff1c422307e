"""Files: fetched from strangers, decoded apart, encoded, marked, kept. Pool threads; off the event loop."""
