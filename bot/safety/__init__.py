"""What keeps adult pictures out of channels that are not for them."""
