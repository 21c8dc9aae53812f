"""The WebSocket wire: devices and tools reach the broker over it."""
