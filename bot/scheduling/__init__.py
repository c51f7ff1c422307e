"""The queue, the GPU thread and the service that cogs call."""
