"""What a lane is told besides its noise: words, LoRAs, control maps, reference pictures."""
